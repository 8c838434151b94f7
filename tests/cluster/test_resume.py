"""Training that is killed, stopped or handed damaged checkpoints goes on where it was, to the very same weights."""

import random
import signal
import time
from pathlib import Path

import pytest
from tests.cluster.demo_run import Run
from tests.cluster.kill_run import DDP, SHORT, Training, all_gone, workers_of

EVERY = 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def training(demo: Run, runs: Path, name: str) -> Training:
    return Training(demo.folder, runs, name, [*SHORT, *DDP, "--loop.epochs=0.2"])


@pytest.fixture(scope="module")
def clean(demo: Run, runs: Path) -> Training:
    """The run that nothing happened to."""
    return training(demo, runs, "clean").run()


def same(one: Training, other: Training) -> None:
    """Weights to the bit, and the log line by line but for times and resumes."""
    assert one.weights() == other.weights()
    kept = [
        [(line["kind"], line["step"], line.get("loss"), line.get("bce"), line.get("log_loss")) for line in found]
        for found in ([line for line in made.lines() if line["kind"] != "resumed"] for made in (one, other))
    ]
    assert kept[0] == kept[1]


def test_three_workers_killed_at_random_steps_change_no_bit(demo: Run, runs: Path, clean: Training):
    hurt, rng = training(demo, runs, "hurt"), random.Random(0)
    process = hurt.start()
    for _ in range(3):
        hurt.wait_for(max(hurt.step(), EVERY - 1) + rng.randint(2, EVERY), process)
        at, before = hurt.step(), hurt.said().count("going on from the checkpoint")
        rng.choice(workers_of(process)).kill()
        while hurt.said().count("going on from the checkpoint") == before:
            assert process.poll() is None, hurt.said()[-3000:]
            time.sleep(0.05)
        assert hurt.resumes()[-1] >= at - EVERY
    hurt.finish(process)
    same(hurt, clean)
    assert not (hurt.folder / "checkpoints").exists()  # finished: nothing to go on from


def test_a_driver_killed_while_a_checkpoint_is_written_goes_on_with_the_same_command(
    demo: Run, runs: Path, clean: Training
):
    hurt = training(demo, runs, "driver")
    process = hurt.start()
    hurt.wait_for(EVERY, process)
    partial = hurt.folder / "checkpoints" / ".tmp-checkpoint"
    while not partial.exists():
        assert process.poll() is None, hurt.said()[-3000:]
    with all_gone(process):
        process.kill()
        process.wait()
    hurt.run()
    assert hurt.resumes()
    same(hurt, clean)


def test_stopped_by_sigterm_then_a_damaged_checkpoint_then_other_options(demo: Run, runs: Path, clean: Training):
    hurt = training(demo, runs, "stopped")
    process = hurt.start()
    hurt.wait_for(2 * EVERY, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, hurt.said()[-3000:]
    assert "a checkpoint was written, the same command goes on from it" in hurt.said()
    found = sorted(path.name for path in (hurt.folder / "checkpoints").glob("step-*"))
    assert len(found) == 2  # kept by count
    assert int(found[1][-8:]) == hurt.step()  # the newest is of the step it stopped at

    other = training(demo, runs, "stopped")
    other.options.append("--loop.weight_decay=0.5")
    process = other.start()
    assert process.wait(120) == 2
    assert "was written with loop {" in other.said()
    assert "give the run another name" in other.said()

    victim = next((hurt.folder / "checkpoints" / found[1]).glob("state.pt"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    hurt.run()
    assert f"checkpoint {found[1]} is refused" in hurt.said()
    assert "state.pt does not match its SHA-256" in hurt.said()
    assert hurt.resumes() == [int(found[0][-8:])]
    same(hurt, clean)
    assert hurt.weights("best") == clean.weights("best")

    process = hurt.start()  # finished and published: nothing to do
    hurt.finish(process, 60)
    assert "up to date" in hurt.said()
