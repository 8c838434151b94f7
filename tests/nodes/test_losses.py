"""What dies on a cluster, and what is left: docs/operations.md makes these promises. Tests print what they measured (`-s`)."""

import contextlib
import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from countryreward.serving.http.keys import FILE, KeyStore
from tests.cluster.kill_run import UNJUDGED, ZERO2
from tests.cluster.pairs_harness import check, done, make_dataset, wait_for
from tests.cluster.service_harness import Service, publish_emulated, small_pair
from tests.nodes.conftest import titled
from tests.nodes.machines import Cluster
from tests.nodes.test_jobs import ready, wait_until_ready

pytestmark = pytest.mark.long

LOOP = [
    *ZERO2, "--loop.batch_size=4", "--loop.accumulation=1", "--loop.validations=2", "--loop.validation_items=6",
    "--loop.log_every=1", "--loop.orders=one",
]  # fmt: skip
KS = """
def space():
    from ray import tune
    return {"reward.focus_weight": 0.2, "search.text_k": tune.grid_search([5, 20])}
"""
ELASTIC = ["--workers.min_workers=1", "--workers.grow_after_s=5", "--workers.retries=-1"]


@dataclass
class Job:
    """One job by `ray job submit`."""

    nodes: Cluster
    demo: Path
    name: str
    options: list[str] = field(default_factory=list)
    submissions: int = 0

    @property
    def job(self) -> str:
        return f"{self.name}-{self.submissions}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def at(self, *kinds: str) -> list[str]:
        """What of the demo it is given."""
        return [f"--{kind}={self.demo / kind}" for kind in kinds]

    def submit(self) -> None:
        self.submissions += 1
        self.nodes.submit(self.job, *self.command(), *self.options, wait=False)

    def until(self, true: Any, seconds: float = 240) -> float:
        """How long it took."""
        began = time.monotonic()
        while not true():
            status = self.nodes.status(self.job)
            assert status not in ("FAILED", "STOPPED"), self.nodes.logs(self.job)[-4000:]
            assert time.monotonic() - began < seconds, self.nodes.logs(self.job)[-4000:]
            time.sleep(0.1)
        return time.monotonic() - began

    def ended(self) -> None:
        self.until(lambda: self.nodes.status(self.job) == "SUCCEEDED")


class Training(Job):
    """Of the demo's reward, with a worker on each of two nodes."""

    epochs = 1

    @property
    def folder(self) -> Path:
        return self.nodes.home / "runs" / self.name

    def command(self) -> list[str]:
        return [
            "python", "jobs/train_reward.py", f"--run-name={self.name}", "--runs=runs", f"--out=runs/{self.name}-model",
            *self.at("dataset", "records", "priors", "features", "knowledge_base"), *LOOP, f"--loop.epochs={self.epochs}",
            UNJUDGED,
        ]  # fmt: skip

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return log_lines(self.folder, kind)

    def step(self) -> int:
        return max((line["step"] for line in self.lines("step")), default=0)

    def end(self) -> list[dict[str, Any]]:
        self.ended()
        return self.lines("step")


class LongTraining(Training):
    """Of those that must not be over before a node goes, or is back: Ray may take a minute."""

    epochs = 5


class Sweep(Job):
    """Of two k, a worker each."""

    @property
    def out(self) -> Path:
        return self.nodes.home / f"sweep-{self.name}"

    def command(self) -> list[str]:
        (self.nodes.home / "ks.py").write_text(KS)
        return [
            "python", "jobs/tune_reward.py", f"--out={self.out}/report", f"--space={self.nodes.home}/ks.py",
            *self.at("dataset", "records", "embeddings", "knowledge_base", "features"), "--draws=100",
            "--workers.workers=1", "--sweep.scheduler=none", "--loop.epochs=0.5", "--loop.validations=3",
            "--loop.validation_items=6", "--loop.checkpoint_every=5",
        ]  # fmt: skip

    def validations(self) -> list[int]:
        """Of each trial that has begun."""
        return [len(log_lines(one, "validation")) for one in self.out.glob("sweeps/*/trials/*")]

    def resumed(self) -> list[dict[str, Any]]:
        return [line for one in self.out.glob("sweeps/*/trials/*") for line in log_lines(one, "resumed")]

    def scores(self) -> dict[str, float]:
        told = json.loads((self.out / "report" / "report.json").read_text())
        return {one["name"]: one[told["metric"]]["value"] for one in told["trials"]}


def log_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Of a run's log."""
    found = []
    with contextlib.suppress(OSError):
        for line in (folder / "log.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return [line for line in found if line["kind"] == kind]


@pytest.fixture(scope="module")
def fixed(three: Cluster, demo: Path) -> list[dict[str, Any]]:
    """The steps of the training that nothing happens to, with two workers."""
    training = Training(three, demo, "fixed", [])
    training.submit()
    return training.end()


@pytest.fixture(scope="module")
def fixed_long(three: Cluster, demo: Path, fixed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same of a long one. After the other, so that both are made while every node is there."""
    training = LongTraining(three, demo, "fixed-long", [])
    training.submit()
    return training.end()


def same(lines: list[dict[str, Any]], fixed: list[dict[str, Any]]) -> float:
    """The largest difference of a loss; every step is there once."""
    assert [line["step"] for line in lines] == [line["step"] for line in fixed]
    return max(abs(line["loss"] - other["loss"]) for line, other in zip(lines, fixed, strict=True))


def test_a_training_loses_a_node_and_gets_it_back(nodes: Cluster, demo: Path, fixed_long: list[dict[str, Any]]):
    """2 workers, 1, 2: the losses are those of two workers throughout."""
    training = LongTraining(nodes, demo, "elastic", [*ELASTIC, "--loop.checkpoint_every=5"])
    training.submit()
    training.until(lambda: training.step() >= 8)
    reached = training.step()
    nodes.machines[2].kill()
    resumed = training.until(lambda: training.lines("resumed"))
    going = resumed + training.until(lambda: training.step() > reached)
    alone = training.lines("resumed")[-1]
    assert alone["workers"] == 1
    nodes.machines[2].start()
    grown = training.until(lambda: training.lines("resumed")[-1]["workers"] == 2)
    difference = same(training.end(), fixed_long)
    print(
        f"\nnode lost at step {reached}: one worker goes on from step {alone['step']} after {resumed:.0f} s and is beyond"
        f" after {going:.0f} s; the node back: two again after {grown:.0f} s, from step {training.lines('resumed')[-1]['step']};"
        f" {len(fixed_long)} steps, largest difference of a loss {difference:.1e}"
    )
    assert going <= 120
    assert difference <= 1e-3


def test_a_warning_writes_a_checkpoint(nodes: Cluster, demo: Path, fixed_long: list[dict[str, Any]]):
    """A spot node is to be taken away in 20 s. No other checkpoint is written, so what is resumed is the warning's."""
    training = LongTraining(nodes, demo, "warned", [*ELASTIC, "--loop.checkpoint_every=0"])
    training.submit()
    training.until(lambda: training.step() >= 5)
    warned, gone = training.step(), nodes.machines[2]
    node = nodes.alive()[gone.address]
    told = nodes.head.run(
        "ray", "drain-node", f"--address={nodes.address}", f"--node-id={node}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=20",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    training.until(lambda: list((training.folder / "checkpoints").glob("step-*")), 20)
    time.sleep(15)
    gone.kill()
    took = training.until(lambda: training.lines("resumed"))
    resumed = training.lines("resumed")[0]
    difference = same(training.end(), fixed_long)
    print(
        f"\nwarned at step {warned}, went on from step {resumed['step']} {took:.0f} s after the node was gone;"
        f" largest difference of a loss {difference:.1e}"
    )
    assert resumed["step"] >= warned
    assert difference <= 1e-3


def test_the_job_s_process_is_killed(nodes: Cluster, demo: Path, fixed: list[dict[str, Any]]):
    """The same submission goes on from the newest checkpoint."""
    training = Training(nodes, demo, "driver", ["--loop.checkpoint_every=5"])
    training.submit()
    training.until(lambda: training.step() >= 8)
    for one in titled(nodes.head, f"--run-name={training.name}"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    began = time.monotonic()
    while nodes.status(training.job) != "FAILED" or any(titled(one, "RayTrainWorker") for one in nodes.machines):
        assert time.monotonic() - began < 60, nodes.status(training.job)
        time.sleep(0.2)
    left = time.monotonic() - began
    training.submit()
    training.until(lambda: training.lines("resumed"))
    resumed = training.lines("resumed")[0]
    difference = same(training.end(), fixed)
    print(
        f"\ndriver killed: failed, and no worker left, after {left:.0f} s; submitted again it went on from step"
        f" {resumed['step']}; largest difference of a loss {difference:.1e}"
    )
    assert resumed["step"] >= 5
    assert difference <= 1e-3


def test_the_head_is_lost(nodes: Cluster, demo: Path, fixed: list[dict[str, Any]]):
    """Jobs end with the head. Started again, it takes the same submission, which goes on from the newest checkpoint."""
    training = Training(nodes, demo, "head", ["--loop.checkpoint_every=5"])
    training.submit()
    training.until(lambda: training.step() >= 8)
    nodes.head.kill()
    began = time.monotonic()
    nodes.head.start()
    nodes.wait_for(3, 180)
    back = time.monotonic() - began
    training.submit()
    training.until(lambda: training.lines("resumed"))
    difference = same(training.end(), fixed)
    print(
        f"\nhead killed and started again: three nodes after {back:.0f} s; the job, submitted again, went on from step"
        f" {training.lines('resumed')[0]['step']}; largest difference of a loss {difference:.1e}"
    )
    assert difference <= 1e-3


@pytest.mark.parametrize("cut", [1, 2])
def test_the_network_of_a_node_is_cut_in_a_training(
    cables: Cluster, demo: Path, fixed_long: list[dict[str, Any]], cut: int
):
    """A second of silence is waited for. After 30 s the node was given up: the other goes on, and takes it in when it is back.
    The workers on the silent node, which know nothing of that, write nothing more."""
    silent = cables.machines[cut]
    training = LongTraining(cables, demo, f"cut-{cut}", [*ELASTIC, "--loop.checkpoint_every=5"])
    training.submit()
    training.until(lambda: training.step() >= 6)
    silent.cut()
    time.sleep(1)
    silent.mend()
    reached = training.step()
    training.until(lambda: training.step() > reached + 2)
    assert not training.lines("resumed")
    silent.cut()
    began, reached = time.monotonic(), training.step()
    training.until(lambda: training.step() > reached + 1)
    going = time.monotonic() - began
    assert [line["workers"] for line in training.lines("resumed")] == [1]
    time.sleep(max(0, 30 - going))
    silent.mend()
    grown = training.until(lambda: training.lines("resumed")[-1]["workers"] == 2)
    difference = same(training.end(), fixed_long)
    print(
        f"\nnetwork of node {cut} cut for 1 s at step 6: waited for; cut at step {reached}: one worker is beyond after"
        f" {going:.0f} s; two again {grown:.0f} s after the cable was back; largest difference of a loss {difference:.1e}"
    )
    assert going <= 120
    assert difference <= 1e-3


def test_a_sweep_loses_a_node(nodes: Cluster, demo: Path):
    """Two trials at a time, the node of one lost: it goes on where there is room. Both score as in a sweep that lost nothing."""
    whole = Sweep(nodes, demo, "whole")
    whole.submit()
    whole.ended()
    lost = Sweep(nodes, demo, "lost")
    lost.submit()
    lost.until(lambda: len(told := lost.validations()) == 2 and min(told) >= 1)
    nodes.machines[2].kill()
    before = sum(lost.validations())
    time.sleep(10)
    nodes.machines[2].start()
    took = 10 + lost.until(lambda: len(lost.resumed()) > 0)
    lost.ended()
    print(
        f"\na sweep lost one node of two after {before} of 6 validations: its trial went on after {took:.0f} s, the node back"
        " after 10"
    )
    assert lost.scores() == whole.scores()
    assert nodes.free() == 2.0


PORT = 8000


@pytest.fixture
def service(nodes: Cluster, tmp_path: Path):
    """The reward service with an emulated model, a replica on each worker; asked at the proxy of a node that stays."""
    model = publish_emulated(tmp_path / "model", "1", pass_s=0.005)
    state = tmp_path / "state"
    key = KeyStore(state / FILE, poll_s=0).create("tests", scopes=("score",), rate="10000000/minute")
    command = ("python", "-m", "tests.nodes.on_head", "serve", str(model), str(state), f"{PORT}")
    process = nodes.head.spawn(*command, output=tmp_path / "deploy.txt")
    assert process.wait(180) == 0, (tmp_path / "deploy.txt").read_text()[-3000:]
    for machine in nodes.machines:
        wait_until_ready(f"http://{machine.address}:{PORT}")
    yield Service(PORT, state, key, host=nodes.machines[1].address)
    for machine in nodes.machines:  # the head may have been lost
        if not machine.wanted:
            machine.start()
    nodes.wait_for(3, 180)
    nodes.head.run("serve", "shutdown", "-y", "--address", nodes.dashboard)


def replicas(nodes: Cluster) -> list[int]:
    return [len(titled(machine, "ServeReplica:reward")) for machine in nodes.machines]


def test_a_node_is_lost_under_fifty_requests_a_second(nodes: Cluster, service: Service, tmp_path: Path):
    assert replicas(nodes) == [0, 1, 1]
    load = service.load(small_pair(tmp_path), rate=50, seconds=60)
    time.sleep(10)
    nodes.machines[2].kill()
    time.sleep(20)
    nodes.machines[2].start()
    outcome = load.wait()
    lost = outcome.ms(1, until=29)
    print(f"\nnode lost at 10 s: longest {lost:.0f} ms; started again at 30 s, on the same two processors: {outcome}")
    assert not outcome.failed
    assert lost <= 5_000


def test_the_head_is_lost_and_the_service_answers_on(nodes: Cluster, service: Service, tmp_path: Path):
    if not nodes.redis:
        pytest.skip("a head that may die keeps its state in a Redis: apt-get install redis-server")
    load = service.load(small_pair(tmp_path), rate=20, seconds=60)
    time.sleep(10)
    nodes.head.kill()
    time.sleep(20)
    nodes.head.start()
    outcome = load.wait()
    print(f"\nhead lost at 10 s, started again at 30 s, 20 requests/s for 60 s: {outcome}")
    assert not outcome.failed
    nodes.wait_for(3, 120)
    wait_until_ready(f"http://{nodes.head.address}:{PORT}", 120)
    assert sum(replicas(nodes)) == 2  # the ones that were there: nothing was started anew
    assert ready(service.url)


@pytest.mark.parametrize("seconds", [5, 30])
def test_the_network_of_a_node_is_cut_while_pairs_are_made(cables: Cluster, tmp_path: Path, seconds: float):
    """First one worker's, then the other's. Nothing is lost and nothing is there twice."""
    tasks = make_dataset(tmp_path, 150)
    pause = str(0.004 * seconds)  # so that it is not over before both were cut
    cuts: list[tuple[int, int]] = []
    pairs = cables.head.spawn(
        "python", "-m", "tests.nodes.on_head", "pairs", str(tmp_path), pause, output=tmp_path / "said.txt"
    )

    def cut() -> None:
        for share, machine in ((0.1, cables.machines[1]), (0.4, cables.machines[2])):
            wait_for(tmp_path, round(share * tasks), 300)
            machine.cut()
            before = len(done(tmp_path))
            time.sleep(seconds)
            machine.mend()
            cuts.append((before, len(done(tmp_path))))

    cutter = threading.Thread(target=cut)
    began = time.monotonic()
    cutter.start()
    try:
        assert pairs.wait(500) == 0, (tmp_path / "said.txt").read_text()[-4000:]
    finally:
        with contextlib.suppress(psutil.Error):
            pairs.kill()
    cutter.join()
    assert len(cuts) == 2
    counts = json.loads((tmp_path / "said.txt").read_text().split("COUNTS")[1].splitlines()[0])
    found = check(tmp_path, counts, tasks)
    print(
        f"\n{seconds} s cuts of each worker's network: {tasks} tasks in {time.monotonic() - began:.0f} s, {found} pairs,"
        f" 0 lost, 0 doubled; outcomes at the start and the end of each cut: {cuts}"
    )
