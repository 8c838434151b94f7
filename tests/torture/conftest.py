"""One small demo run for all of `make torture`."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Path:
    """Folder of a demo run: the one that COUNTRYREWARD_DEMO names, otherwise `demo`."""
    there = os.environ.get("COUNTRYREWARD_DEMO")
    return Path(there).absolute() if there else request.getfixturevalue("demo").folder
