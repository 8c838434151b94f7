"""Training that is killed or handed damaged checkpoints goes on to the very same weights. Long form: tests/torture."""

import random
from pathlib import Path

import pytest

from countryreward import CountryReward
from tests.cluster.demo_run import Run
from tests.cluster.kill_run import DDP, SHORT, Training, all_gone, workers_of

EVERY = 6


def same(one: Training, other: Training) -> None:
    """Weights to the bit, and the log line by line but for times and resumes."""
    assert one.weights() == other.weights()
    assert one.weights("best") == other.weights("best")
    kept = [
        [(line["kind"], line["step"], line.get("loss"), line.get("bce"), line.get("log_loss")) for line in found]
        for found in ([line for line in made.lines() if line["kind"] != "resumed"] for made in (one, other))
    ]
    assert kept[0] == kept[1]


def kill_a_worker(run: Training, process, rng: random.Random) -> None:
    """At a random step after the first checkpoint; returns when the run goes on."""
    run.wait_for(max(run.step(), EVERY - 1) + rng.randint(1, EVERY), process)
    at, before = run.step(), run.went_on()
    rng.choice(workers_of(process)).kill()
    assert run.wait_to_go_on(before, process) >= at - EVERY


@pytest.mark.long
def test_killed_workers_a_killed_driver_and_a_damaged_checkpoint_change_no_bit(demo: Run, tmp_path: Path):
    options = [*SHORT, *DDP, "--loop.epochs=0.3"]
    clean = Training(demo.folder, tmp_path, "clean", options).run()
    hurt, rng = Training(demo.folder, tmp_path, "hurt", options), random.Random(0)
    process = hurt.start()
    kill_a_worker(hurt, process, rng)
    kill_a_worker(hurt, process, rng)

    checkpoints = hurt.folder / "checkpoints"
    while not (checkpoints / ".tmp-checkpoint").exists():  # the driver, while a checkpoint is written
        assert process.poll() is None, hurt.said()[-3000:]
    with all_gone(process):
        process.kill()
        process.wait()
    before, newest = sorted(checkpoints.glob("step-*"))  # kept by count
    data = bytearray((newest / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "state.pt").write_bytes(data)

    times = hurt.went_on()
    process = hurt.start()
    assert hurt.wait_to_go_on(times, process) == int(before.name[-8:])
    assert f"checkpoint {newest.name} is refused" in hurt.said()
    assert "state.pt does not match its SHA-256" in hurt.said()
    kill_a_worker(hurt, process, rng)
    hurt.finish(process)
    same(hurt, clean)
    assert not checkpoints.exists()  # finished: nothing to go on from

    published = tmp_path / "hurt-model"  # LoRA's updates are merged into what is published
    assert CountryReward.from_pretrained(published).probe_deviation() < 1e-4
    assert {"adapter_config.json", "adapter_model.safetensors"} == {
        path.name for path in (published / "adapter").iterdir()
    }
