"""The demo's runs beside the one from nothing: the same again, one with another option."""

import pytest

from tests.cluster.demo_run import Run, run_demo


@pytest.fixture(scope="session")
def again(demo: Run) -> Run:
    """The same command once more in the same folder."""
    return run_demo(demo.folder)


@pytest.fixture(scope="session")
def paper(again: Run) -> Run:
    """And then with one other option."""
    return run_demo(again.folder, "--retrieval.prior.reading=paper")
