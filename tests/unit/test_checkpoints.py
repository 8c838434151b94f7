"""Checkpoints are whole or refused by name; the newest whole one is taken up; a full disk is said and costs nothing."""

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from countryreward.errors import UserError
from countryreward.training import checkpoints
from countryreward.training.checkpoints import CheckpointStore, random_state, set_random_state
from countryreward.training.distributed import ProcessGroup

IDENTITY = {"dataset": "v1", "loop": {"seed": 0}}


def store(folder: Path, **changes: Any) -> CheckpointStore:
    return CheckpointStore(folder / "checkpoints", **{"identity": IDENTITY, "ranks": ProcessGroup()} | changes)


def write(folder: Path) -> None:
    (folder / "part").mkdir()
    torch.save(torch.arange(1000), folder / "part" / "state.pt")


def newest(made: CheckpointStore, said: list[str] | None = None) -> tuple[Path, dict[str, Any]]:
    found = made.newest(pytest.fail if said is None else said.append)
    assert found is not None
    path, states = found
    assert len(states) == 1
    return path, states[0]


def names(made: CheckpointStore) -> list[str]:
    return sorted(path.name for path in made.folder.iterdir())


def test_the_newest_come_back_and_older_ones_go(tmp_path: Path):
    made = store(tmp_path)
    assert made.newest(pytest.fail) is None
    for step in (10, 20, 30):
        made.save(step, {"progress": {"step": step}, "values": torch.ones(3)}, write, size=1)
    assert names(made) == ["step-00000020", "step-00000030"]
    path, state = newest(made)
    assert path.name == "step-00000030"
    assert state["progress"] == {"step": 30}
    assert torch.equal(torch.load(path / "part" / "state.pt"), torch.arange(1000))
    made.remove()
    assert not made.folder.exists()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << (at % 8)
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "rank-0000.pt", "part/state.pt"])
def test_one_flipped_byte_anywhere_and_the_one_before_is_taken(tmp_path: Path, name: str):
    rng = random.Random(name)
    for _ in range(15):
        made = store(tmp_path)
        made.save(1, {"step": 1}, write, size=1)
        path = made.save(2, {"step": 2}, write, size=1)
        flip(path / name, rng.randrange((path / name).stat().st_size))
        said: list[str] = []
        assert newest(made, said)[1] == {"step": 1}
        assert len(said) == 1
        assert Path(name).name in said[0]
        assert "step-00000002 is refused" in said[0]
        assert names(made) == ["refused-step-00000002", "step-00000001"]
        made.remove()


def test_of_damaged_ones_the_last_is_kept(tmp_path: Path):
    made = store(tmp_path, keep=3)
    for step in (1, 2, 3):
        made.save(step, {"step": step}, write, size=1)
    for name in ("step-00000002", "step-00000003"):
        flip(made.folder / name / "part" / "state.pt", 100)
    said: list[str] = []
    assert newest(made, said)[1] == {"step": 1}
    assert len(said) == 2
    assert names(made) == ["refused-step-00000002", "step-00000001"]


def test_torn_ones_are_never_taken(tmp_path: Path):
    made = store(tmp_path)
    made.save(1, {"step": 1}, write, size=1)
    path = made.save(2, {"step": 2}, write, size=1)
    (path / "part" / "state.pt").unlink()
    partial = made.folder / ".tmp-checkpoint"
    partial.mkdir()
    (partial / "rank-0000.pt").write_bytes(b"half")
    said: list[str] = []
    assert newest(made, said)[1] == {"step": 1}
    assert "state.pt is missing" in said[0]
    made.save(2, {"step": 2}, write, size=1)
    assert names(made) == ["refused-step-00000002", "step-00000001", "step-00000002"]


def test_another_identity_is_an_error_that_names_what_differs(tmp_path: Path):
    store(tmp_path).save(1, {"step": 1}, write, size=1)
    with pytest.raises(UserError, match=r"written with dataset v1 \(now v2\); set"):
        store(tmp_path, identity=IDENTITY | {"dataset": "v2"}).newest(pytest.fail)
    with pytest.raises(UserError, match=r"written with loop\.seed 0 \(now 1\); set"):
        store(tmp_path, identity=IDENTITY | {"loop": {"seed": 1}}).newest(pytest.fail)


def test_no_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = store(tmp_path)
    made.save(1, {"step": 1}, write, size=1)
    usage = type("Usage", (), {"free": 999})
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"disk is full: 1,000 bytes are needed in .*, 999 are free"):
        made.save(2, {"step": 2}, lambda _: pytest.fail("written"), size=1000)
    assert newest(made)[1] == {"step": 1}
    assert names(made) == ["step-00000001"]


def test_a_disk_that_fills_up_while_writing_keeps_the_one_before(tmp_path: Path):
    """A real full disk: a RAM disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]).returncode:
        pytest.skip("no right to mount a RAM disk here")
    try:
        made = store(disk)
        made.save(1, {"step": 1}, write, size=1)

        def large(folder: Path) -> None:
            torch.save(torch.zeros(2**20), folder / "state.pt")

        def raw(folder: Path) -> None:
            (folder / "state.bin").write_bytes(bytes(2**22))

        for too_much in (large, raw):  # torch and the system complain in different ways
            with pytest.raises(UserError, match="the disk is full: 4,194,304 bytes are needed"):
                made.save(2, {"step": 2}, too_much, size=2**22)
            assert names(made) == ["step-00000001"]
        assert newest(made)[1] == {"step": 1}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_random_generators_go_on_where_they_were(tmp_path: Path):
    def draw() -> tuple:
        return random.random(), float(np.random.rand()), torch.rand(3).tolist()  # noqa: NPY002

    torch.save(random_state(), tmp_path / "state.pt")
    first = draw()
    draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == first
