"""Twenty killed workers, ten killed drivers, a thousand flipped bytes: the long forms of tests/cluster/test_resume.py.

make torture        # prints what it measures
"""

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from countryreward.data.artifacts import open_artifact
from countryreward.errors import UserError
from countryreward.machine import describe_machine
from countryreward.scoring.model_folder import ModelFolder
from countryreward.training.checkpoints import KIND
from tests.cluster.demo_run import Run
from tests.cluster.kill_run import DDP, SHORT, ZERO2, Training, all_gone, workers_of

EVERY = 6
ENGINES = {"ddp": DDP, "zero2": ZERO2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    print(describe_machine())
    return tmp_path_factory.mktemp("runs")


def training(demo: Run, runs: Path, name: str, engine: str) -> Training:
    return Training(demo.folder, runs, name, [*SHORT, *ENGINES[engine], "--loop.epochs=1.2"])


@pytest.mark.parametrize("engine", ENGINES)
def test_twenty_killed_workers_change_no_bit(demo: Run, runs: Path, engine: str):
    clean = training(demo, runs, f"{engine}-clean", engine).run()
    hurt, rng = training(demo, runs, f"{engine}-hurt", engine), random.Random(1)
    process = hurt.start()
    seconds, lost = [], []
    for _ in range(20):
        hurt.wait_for(max(hurt.step(), EVERY - 1) + rng.randint(1, EVERY), process)
        at, before = hurt.step(), hurt.went_on()
        killed = time.monotonic()
        rng.choice(workers_of(process)).kill()
        back = hurt.wait_to_go_on(before, process)
        hurt.wait_for(back + 1, process)  # the first step after it
        seconds.append(time.monotonic() - killed)
        lost.append(at - back)
    hurt.finish(process)
    print(
        f"\n{engine}: 20 SIGKILLs; identical weights: {hurt.weights() == clean.weights()}; recovery to the next step "
        f"{sorted(seconds)[10]:.1f} s (median), {max(seconds):.1f} s (longest); steps lost at most {max(lost)} of {EVERY}"
    )
    assert max(lost) <= EVERY
    assert hurt.weights() == clean.weights()
    assert hurt.weights("best") == clean.weights("best")


def test_ten_killed_drivers_change_no_bit(demo: Run, runs: Path):
    clean = training(demo, runs, "driver-clean", "ddp").run()
    hurt, rng, writing = training(demo, runs, "driver-hurt", "ddp"), random.Random(2), 0
    partial = hurt.folder / "checkpoints" / ".tmp-checkpoint"
    for number in range(10):
        process = hurt.start()
        hurt.wait_for(max(hurt.step(), EVERY) + rng.randint(1, EVERY), process)
        while number % 2 and not partial.exists():  # every other one while a checkpoint is being written
            assert process.poll() is None, hurt.said()[-3000:]
        writing += partial.exists()
        with all_gone(process):
            process.kill()
            process.wait()
    hurt.run()
    print(
        f"\n10 drivers killed -9, {writing} during a checkpoint; identical weights: {hurt.weights() == clean.weights()}"
    )
    assert hurt.weights() == clean.weights()
    assert "is refused" not in hurt.said()  # none was ever torn under its name


def test_a_thousand_flipped_bytes_are_refused_by_name(demo: Run, runs: Path, tmp_path: Path):
    started = training(demo, runs, "flipped", "ddp")
    process = started.start()
    started.wait_for(2 * EVERY, process)
    process.terminate()
    process.wait(60)
    checkpoint = max((started.folder / "checkpoints").glob("step-*"))
    model, rng = tmp_path / "model", random.Random(3)
    shutil.copytree(demo.model, model)
    refused, named, by_file = 0, 0, Counter()
    for number in range(1000):
        folder = (checkpoint, model)[number % 2]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        victim = rng.choice(files)
        data = bytearray(victim.read_bytes())
        at = rng.randrange(len(data)) if data else 0
        whole = bytes(data)
        data[at : at + 1] = bytes([(data[at] if data else 0) ^ rng.randint(1, 255)])
        victim.write_bytes(data)
        try:
            open_artifact(folder, kind=KIND) if folder == checkpoint else ModelFolder.open(folder)
        except UserError as error:
            refused += 1
            named += victim.name in str(error)
            by_file[victim.suffix] += 1
        victim.write_bytes(whole)
    open_artifact(checkpoint, kind=KIND)
    ModelFolder.open(model)
    print(
        f"\n1,000 folders with one byte flipped: {refused} refused, the file named in {named}; by ending {dict(by_file)}"
    )
    assert refused == named == 1000
