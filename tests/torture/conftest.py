"""One small demo run for all of `make torture`."""

import os
from pathlib import Path

import pytest

from tests.cluster.demo_run import Run, run_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_demo(tmp_path_factory.mktemp("demo") / "run")


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Path:
    """Folder of a demo run: the one that COUNTRYREWARD_DEMO names, otherwise `demo`."""
    there = os.environ.get("COUNTRYREWARD_DEMO")
    return Path(there).absolute() if there else request.getfixturevalue("demo").folder
