"""Pair-making on a real Ray: an actor, replicas and the driver are killed; every pair is there once, as the pure function has it.

Long form, with cut networks: tests/torture/test_pair_making.py.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from countryreward.errors import UserError
from tests.cluster.kill_run import ROOT, all_gone, environment
from tests.cluster.pairs_harness import (
    MARKETS,
    check,
    done,
    load_literal,
    make,
    make_dataset,
    make_renderer,
    make_writer,
    on_ray,
    processes,
    wait_for,
)
from tests.cluster.service_harness import publish_emulated

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.long]


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with on_ray(0.01):
        yield


VICTIMS = ((0.15, "_WriterActor"), (0.4, "ServeReplica:literal-generator"), (0.6, "ServeReplica:literal-reward"))
"""Share of the outcomes after which one of these processes is killed."""


def test_killed_actors_and_replicas_lose_and_double_nothing(ray_here: None, tmp_path: Path):
    tasks = make_dataset(tmp_path, 60)
    killed = []

    def kill() -> None:
        for share, title in VICTIMS:
            wait_for(tmp_path, round(share * tasks))
            victim = processes(title)[0]
            victim.kill()
            killed.append(title)

    killer = threading.Thread(target=kill)
    killer.start()
    counts = make(tmp_path, 0.01).manifest.counts
    killer.join()
    assert len(killed) == 3
    assert check(tmp_path, counts, tasks) >= 0.35 * tasks
    made_again = {name: stage["made_again"] for name, stage in counts["loop"]["stages"].items()}
    assert made_again["write"] + made_again["render"] + made_again["score"] >= 2
    assert counts["tasks"]["quarantined_by_reason"].keys() == {"refused_design", "refused_prompt"}
    assert not (tmp_path / ".work").exists()
    assert make(tmp_path, 0.01).manifest.counts == counts  # up to date


def test_a_writer_that_cannot_be_opened_is_said(ray_here: None, tmp_path: Path):
    from countryreward.generation.generation_config import TasksConfig
    from countryreward.on_ray.ray_config import AdMakingConfig, ServicesConfig
    from generate_pairs import Config, main

    make_dataset(tmp_path, 2)
    services = ServicesConfig(reward="app:literal-reward", generator="app:literal-generator")
    tasks = TasksConfig(dataset=str(tmp_path / "dataset"), records=str(tmp_path / "records"), markets=["KR"])
    fixed: dict[str, Any] = {"tasks": tasks, "out": str(tmp_path / "pairs")}
    with pytest.raises(UserError, match="no such writer"):
        main(Config(**fixed, making=AdMakingConfig(services=services)), no_writer)
    services = ServicesConfig(reward="app:nobody", generator="app:literal-generator")
    with pytest.raises(UserError, match="no application 'nobody'"):
        main(Config(**fixed, making=AdMakingConfig(services=services)), no_writer)


def test_services_are_started_for_the_job_and_end_with_it(ray_here: None, tmp_path: Path):
    from ray import serve

    from countryreward.generation.generation_config import TasksConfig
    from countryreward.on_ray.ray_config import AdMakingConfig, ServicesConfig, WritersConfig
    from generate_pairs import Config, main

    tasks = make_dataset(tmp_path, 10)
    config = Config(
        tasks=TasksConfig(dataset=str(tmp_path / "dataset"), records=str(tmp_path / "records"), markets=MARKETS),
        out=str(tmp_path / "pairs"),
        making=AdMakingConfig(
            writers=WritersConfig(cpus=0.1),
            services=ServicesConfig(
                reward=str(publish_emulated(tmp_path / "model", "judge-1")), reward_cpus=0.1, generator_cpus=0.1
            ),
        ),
    )
    make_here = partial(make_writer, 0.0, tmp_path / "written.log")
    counts = main(config, make_here, make=make_renderer, load=load_literal).manifest.counts
    assert check(tmp_path, counts, tasks) >= 0.35 * tasks
    assert set(serve.status().applications) == {"literal-generator", "literal-reward"}


def no_writer():
    raise UserError("writer: no such writer; correct the path")


def test_a_killed_driver_goes_on(tmp_path: Path):
    tasks = make_dataset(tmp_path, 40)
    command = [sys.executable, "-m", "tests.cluster.pairs_harness", str(tmp_path), "0.02"]
    env = environment() | {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}:{ROOT / 'jobs'}"}

    def start() -> subprocess.Popen[str]:
        with open(tmp_path / "said.txt", "w") as said:  # not a pipe, which what the driver leaves would keep open
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT, text=True)

    first = start()
    wait_for(tmp_path, round(0.3 * tasks))
    with all_gone(first):
        first.kill()
        first.wait()
    before = done(tmp_path)
    assert 0 < len(before) == len(set(before)) < tasks
    began = time.monotonic()
    second = start()
    code, said = second.wait(180), (tmp_path / "said.txt").read_text()
    assert code == 0, said[-3000:]
    counts = json.loads(next(line for line in said.splitlines() if line.startswith('{"')))
    print(f"{len(before)} of {tasks} outcomes before the kill; the second run took {time.monotonic() - began:.1f} s")
    assert (counts["found"], counts["made"]) == (len(before), tasks - len(before))
    assert check(tmp_path, counts, tasks) >= 0.35 * tasks
