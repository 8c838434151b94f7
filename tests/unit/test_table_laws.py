"""No table is read wrong in silence: the truth, or a refusal that names the field and the way out. 10,000 in tests/torture."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.unit.true_tables import Table, tables, wrong_cells

pytestmark = pytest.mark.slow


@settings(
    max_examples=200, deadline=None, derandomize=True, phases=(Phase.generate, Phase.shrink),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
)  # fmt: skip
@given(table=tables())
def test_200_tables(table: Table):
    with tempfile.TemporaryDirectory() as folder:
        wrong, _, _ = wrong_cells(table, Path(folder))
    assert not wrong, (wrong, table.told, table.content.decode("utf-8", "backslashreplace"))
