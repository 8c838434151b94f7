"""10,000 tables from a known truth: none is read wrong in silence. COUNTRYREWARD_TABLES sets how many."""

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from tests.unit.true_tables import Table, tables, wrong_cells

COUNT = int(os.environ.get("COUNTRYREWARD_TABLES", "10000"))


def test_no_table_is_read_wrong_in_silence():
    cells: Counter[str] = Counter()
    start = time.monotonic()

    @settings(
        max_examples=COUNT, deadline=None, derandomize=True, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
    )  # fmt: skip
    @given(table=tables())
    def check(table: Table) -> None:
        with tempfile.TemporaryDirectory() as folder:
            wrong, right, refused = wrong_cells(table, Path(folder))
        cells.update(tables=1, right=right, refused=refused, wrong=len(wrong), whole=not refused)
        assert not wrong, (wrong, table.told, table.content.decode("utf-8", "backslashreplace"))

    check()
    print(
        f"\n{cells['tables']:,} tables in {time.monotonic() - start:.0f} s: {cells['right']:,} cells right, {cells['refused']:,} "
        f"refused, {cells['wrong']} wrong; {cells['whole']:,} tables without a refusal"
    )
    assert cells["tables"] >= COUNT * 0.9  # but for those that the documentation decides
    assert cells["whole"] > cells["tables"] / 2
