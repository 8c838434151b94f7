"""A sweep whose driver is killed -9 again and again ends as one that was left alone: the same scores, the same best trial."""

import random
import signal
import time
from pathlib import Path

from tests.cluster.test_sweep import Sweep

OPTIONS = ("--sweep.scheduler=none", "--loop.epochs=0.3", "--loop.validations=2", "--loop.checkpoint_every=5")
KILLS = 4


def scores(sweep: Sweep) -> dict[str, float]:
    report = sweep.report()
    return {trial["name"]: trial[report["metric"]]["value"] for trial in report["trials"]}


def test_killed_at_random_it_ends_the_same(run: Path, tmp_path: Path) -> None:
    alone = Sweep(run, tmp_path / "alone", *OPTIONS)
    started = time.monotonic()
    alone.finish()
    whole = time.monotonic() - started
    killed, dice = Sweep(run, tmp_path / "killed", *OPTIONS), random.Random(0)
    ended_first = 0
    for _ in range(KILLS):
        process = killed.start()
        until = time.monotonic() + dice.uniform(0.2, 0.7) * whole
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        ended_first += process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed.finish()
    print(f"\nsweep: {whole:.0f} s alone; {KILLS - ended_first} kills; best {killed.report()['best']}")
    assert killed.report()["best"] == alone.report()["best"]
    assert scores(killed) == scores(alone)
    assert "still taken" not in killed.said()
