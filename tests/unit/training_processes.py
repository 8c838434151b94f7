"""Starts `training_process.py` once for every rank."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def train(engine: str, world: int, **options: Any) -> dict[str, Any]:
    """What the first of `world` processes found. options: those of training_process.py."""
    return json.loads(run(engine, world, **options)[0].split("FOUND")[1].splitlines()[0])


def run(engine: str, world: int, **options: Any) -> list[str]:
    """What each of `world` processes printed. options: those of training_process.py."""
    here = Path(__file__).parent
    told = json.dumps({"planned": 0, "folder": "", "stop": 0, "records": 32, "epochs": 1, "planted": -1} | options)
    workers = []
    meet = Path(tempfile.mkdtemp(), "meet")  # a file: a port that was free may be taken by the time it is used
    for rank in range(world):
        place = {"MEET": f"file://{meet}", "WORLD_SIZE": str(world)}
        place |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        place["PYTHONPATH"] = os.pathsep.join([str(here.parents[1]), str(here.parents[1] / "platform")])
        command = [sys.executable, str(here / "training_process.py"), engine, told]
        workers.append(
            subprocess.Popen(command, env=os.environ | place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    done = [worker.communicate(timeout=240) for worker in workers]
    ended = [worker.returncode for worker in workers]
    assert ended == [0] * world, (ended, *(errors[-3000:] for _, errors in done))
    return [printed for printed, _ in done]
