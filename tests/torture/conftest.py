"""One small demo run for all of `make torture`."""

import pytest

from tests.cluster.demo_run import Run, run_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_demo(tmp_path_factory.mktemp("demo") / "run")
