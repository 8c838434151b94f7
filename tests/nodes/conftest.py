"""One cluster of three machines for all tests here, and the demo that a submitted job made on it."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.demo_run import SMALL, SPLIT, TRAINING, UNJUDGED
from tests.nodes.machines import Cluster, Machine, cluster
from tests.nodes.places import places

HEALTH = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""As in cluster/kuberay/rayservice.yaml: a node that is silent for some 3 s is given up."""


@pytest.fixture(scope="session")
def three() -> Iterator[Cluster]:
    """A head that takes no work, and two workers of one processor. What the cluster is lies in a Redis, where there is one."""
    where, lack = places()
    if where is None:
        pytest.skip(lack)
    with cluster(where, [0, 1, 1], environment=HEALTH, redis=shutil.which("redis-server")) as made:
        yield made


@pytest.fixture
def nodes(three: Cluster) -> Cluster:
    """The same, all of it alive: what the test before has killed is started again."""
    for machine in three.machines:
        machine.mend()
        if not machine.wanted:
            machine.start()
    three.wait_for(3)
    return three


@pytest.fixture
def cables(nodes: Cluster) -> Cluster:
    """The same, where a cable can be pulled."""
    if not nodes.places.can_cut:
        pytest.skip(f"a network that can be cut: {places()[1]}")
    return nodes


@pytest.fixture(scope="session")
def demo(three: Cluster) -> Path:
    """`jobs/demo.py`, shrunken, by `ray job submit`."""
    folder = three.home / "demo"
    command = ["python", "jobs/demo.py", f"--out={folder}", *SMALL, *SPLIT, *TRAINING, UNJUDGED, "--draws=100"]
    three.submit("demo", *command, wait=False)
    until, places = time.monotonic() + 500, set()
    while (status := three.status("demo")) not in ("SUCCEEDED", "FAILED", "STOPPED"):
        assert time.monotonic() < until, three.logs("demo")[-3000:]
        time.sleep(0.5)
        places |= {machine.name for machine in three.machines if titled(machine, "RayTrainWorker")}
    assert status == "SUCCEEDED", three.logs("demo")[-3000:]
    (folder / "trained_on").write_text(" ".join(sorted(places)))
    return folder


def titled(machine: Machine, title: str) -> list[int]:
    """Processes on a machine whose title has this in it."""
    found = []
    for one in machine.processes():
        try:
            if title in " ".join(psutil.Process(one).cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found
