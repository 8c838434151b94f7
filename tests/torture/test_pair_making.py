"""Pair-making while the network to the services is cut, and actors, replicas, the driver are killed. Prints every figure.

make torture        # the machine should do nothing else meanwhile
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from countryreward.generation.generation_config import TasksConfig
from countryreward.machine import describe_machine
from countryreward.on_ray.ray_config import AdMakingConfig, PairLoopConfig, RayConfig, ServicesConfig, WritersConfig
from tests.cluster.kill_run import ROOT, all_gone, environment
from tests.cluster.pairs_harness import (
    MARKETS,
    PX,
    check,
    done,
    make,
    make_dataset,
    make_writer,
    on_ray,
    processes,
    wait_for,
)
from tests.unit.pair_services import Wire, services

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PRODUCTS = 150


@pytest.fixture(scope="module", autouse=True)
def said() -> None:
    print(f"\n{describe_machine()}; services, writers and the loop share it")


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with on_ray(0.01):
        yield


@pytest.mark.parametrize(("how", "seconds"), [("cut", 5), ("cut", 30), ("hold", 5), ("hold", 30)])
def test_a_network_that_is_cut_loses_and_doubles_nothing(ray_here: None, tmp_path: Path, how: str, seconds: float):
    """cut: connections break and are refused. hold: nothing comes through and nobody says so, and then they break."""
    from generate_pairs import Config, main

    tasks = make_dataset(tmp_path, PRODUCTS)
    (tmp_path / "key").touch(mode=0o600)
    with (
        services(tmp_path / "services", pause_s=0.005, px=PX) as there,
        Wire(there.reward).running() as reward,
        Wire(there.generator).running() as generator,
    ):
        (tmp_path / "key").write_text(there.key)
        cuts: list[tuple[int, int]] = []

        def cut() -> None:
            for share, wire in ((0.2, reward), (0.5, generator)):
                wait_for(tmp_path, round(share * tasks), 300)
                getattr(wire, how)()
                before = len(done(tmp_path))
                time.sleep(seconds)
                cuts.append((before, len(done(tmp_path))))
                wire.mend()

        cutter = threading.Thread(target=cut)
        cutter.start()
        config = Config(
            tasks=TasksConfig(dataset=str(tmp_path / "dataset"), records=str(tmp_path / "records"), markets=MARKETS),
            making=AdMakingConfig(
                writers=WritersConfig(actors=2, cpus=0.1),
                services=ServicesConfig(reward=reward.url, generator=generator.url, key_file=str(tmp_path / "key")),
                loop=PairLoopConfig(
                    write_batch=2, write_in_flight=4, render_batch=2, render_in_flight=4, score_batch=2
                ),
            ),
            out=str(tmp_path / "pairs"),
            ray=RayConfig(cpus=4),
        )
        began = time.monotonic()
        counts = main(config, partial(make_writer, 0.005, tmp_path / "written.log")).manifest.counts
        cutter.join()
        pairs = check(tmp_path, counts, tasks)
        print(
            f"{how} for {seconds:g} s, first the reward, then the generator: {tasks} tasks in {time.monotonic() - began:.0f} s,"
            f" {pairs} pairs, 0 lost, 0 doubled; outcomes at the start and the end of each: {cuts};"
            f" {reward.cuts} and {generator.cuts} connections broke; calls made again {again(counts)}"
        )
        assert len(cuts) == 2


def test_actors_and_replicas_killed_again_and_again(ray_here: None, tmp_path: Path):
    tasks = make_dataset(tmp_path, PRODUCTS)
    titles = ("_WriterActor", "ServeReplica:literal-generator", "ServeReplica:literal-reward")
    killed: Counter[str] = Counter()
    rng = random.Random(1)

    def kill() -> None:
        for number in range(9):
            wait_for(tmp_path, round((0.05 + 0.09 * number) * tasks), 300)
            title = titles[number % 3]
            if victims := processes(title):
                rng.choice(victims).kill()
                killed[title] += 1

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    counts = make(tmp_path, 0.01).manifest.counts
    killer.join()
    pairs = check(tmp_path, counts, tasks)
    print(
        f"SIGKILLs {dict(killed)}: {tasks} tasks in {time.monotonic() - began:.0f} s, {pairs} pairs, 0 lost, 0 doubled;"
        f" calls made again {again(counts)}"
    )
    assert killed.total() >= 8
    assert "failed_again" not in counts["tasks"]["quarantined_by_reason"]


def test_a_driver_killed_three_times(tmp_path: Path):
    tasks = make_dataset(tmp_path, PRODUCTS)
    command = [sys.executable, "-m", "tests.cluster.pairs_harness", str(tmp_path), "0.02"]
    env = environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT), str(ROOT / "jobs")])}
    output = tmp_path / "said.txt"

    def start() -> subprocess.Popen[str]:
        with open(output, "w") as said:
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=subprocess.STDOUT, text=True)

    found = []
    for share in (0.15, 0.4, 0.7):
        process = start()
        wait_for(tmp_path, round(share * tasks), 300)
        with all_gone(process):
            process.kill()
            process.wait()
        found.append(len(done(tmp_path)))
        assert len(set(done(tmp_path))) == found[-1]
    process = start()
    assert process.wait(300) == 0, output.read_text()[-3000:]
    counts: dict[str, Any] = json.loads(next(line for line in output.read_text().splitlines() if line.startswith('{"')))
    pairs = check(tmp_path, counts, tasks)
    written = Counter((tmp_path / "written.log").read_text().splitlines())
    twice = sum(count - 1 for count in written.values())
    print(
        f"3 SIGKILLs of the driver, outcomes in safety after each {found} of {tasks}: {pairs} pairs, 0 lost, 0 doubled;"
        f" {twice} of {written.total()} designs were written again"
    )
    assert counts["found"] == found[-1]


def again(counts: dict[str, Any]) -> dict[str, int]:
    return {name: stage["made_again"] for name, stage in counts["loop"]["stages"].items()}
