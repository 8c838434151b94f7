"""Ctrl-C and SIGTERM in the driver of a training; what the workers do then is in test_job_submit.py."""

import os
import signal
import time
from pathlib import Path

import pytest

from countryreward.on_ray.training import in_a_thread, stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_workers_and_waits_for_them(tmp_path: Path, number: int):
    def until_asked() -> None:
        os.kill(os.getpid(), number)
        while not (tmp_path / "stop").exists():
            time.sleep(0.01)

    before = signal.getsignal(number)
    with stopping(tmp_path) as asked:
        in_a_thread(until_asked)
    assert asked == [number]
    assert signal.getsignal(number) == before


def test_the_second_ends_everything_at_once(tmp_path: Path):
    def never() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), stopping(tmp_path):
        in_a_thread(never)
    assert time.monotonic() - started < 10


def test_an_error_of_the_training_comes_through(tmp_path: Path):
    def fail() -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"), stopping(tmp_path):
        in_a_thread(fail)
