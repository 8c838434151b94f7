"""What tests of several folders share."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.demo_run import Run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """The only run of the demo from nothing, shrunken."""
    from tests.cluster.demo_run import run_demo

    return run_demo(tmp_path_factory.mktemp("demo") / "run")
