"""Files written whole or not at all, and locks that fall with the process that holds them."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from countryreward.data.file_primitives import (
    FileLock,
    LockHeldError,
    is_locked,
    read_json,
    replaced_file,
    write_atomically,
)


def killed_process(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=os.environ, capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def start_holder(lock: Path) -> subprocess.Popen[bytes]:
    """A process that holds the lock until it is killed."""
    script = f"""
        import time
        from pathlib import Path
        from countryreward.data.file_primitives import FileLock
        lock = FileLock.take(Path({str(lock)!r}), signed=True)
        print("held", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=os.environ, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path):
    write_atomically(tmp_path / "x.json", "1")
    write_atomically(tmp_path / "x.json", b"22")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "22"


def test_the_mode_is_that_of_the_umask_unless_a_narrower_one_is_named(tmp_path: Path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "open", "1")
        write_atomically(tmp_path / "private", "1", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_an_exception_while_writing_leaves_the_old_file_alone(tmp_path: Path):
    (tmp_path / "x").write_text("old")

    def fail() -> None:
        with replaced_file(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize(("step", "content"), [("sync_file", "old"), ("os.replace", "old"), ("sync_folder", "new")])
def test_killed_before_a_step_the_file_is_the_old_or_the_new_one(tmp_path: Path, step: str, content: str):
    (tmp_path / "x").write_text("old")
    killed_process(f"""
        import os, signal
        from pathlib import Path
        from countryreward.data import file_primitives
        def die(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        owner = os if {step!r}.startswith("os.") else file_primitives
        setattr(owner, {step!r}.removeprefix("os."), die)
        file_primitives.write_atomically(Path({str(tmp_path / "x")!r}), "new")
    """)
    assert (tmp_path / "x").read_text() == content
    assert all(path.name == "x" or path.name.startswith(".tmp-x-") for path in tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1', b"[1]", b"\xff\xfe"])
def test_json_that_is_missing_torn_or_no_object_reads_as_empty(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") == {}


def test_a_json_object_is_read(tmp_path: Path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_a_second_process_is_told_who_holds_the_lock_and_a_killed_one_holds_nothing(tmp_path: Path):
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    assert not lock.exists()
    holder = start_holder(lock)
    try:
        assert is_locked(lock)
        with pytest.raises(LockHeldError, match=f"is held by process {holder.pid}$") as refusal:
            FileLock.take(lock, wait_s=0)
        assert refusal.value.holder == holder.pid
        started = time.monotonic()
        with pytest.raises(LockHeldError):
            FileLock.take(lock, wait_s=0.3)
        assert time.monotonic() - started >= 0.3
    finally:
        holder.kill()
        holder.wait(timeout=60)
    assert not is_locked(lock)
    with FileLock.take(lock, wait_s=0):
        assert is_locked(lock)
    assert not is_locked(lock)


def test_without_a_limit_it_waits_for_the_holder(tmp_path: Path):
    order = []

    def wait() -> None:
        with FileLock.take(tmp_path / "lock"):
            order.append("second")

    with FileLock.take(tmp_path / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_a_lock_on_a_removed_file_keeps_nobody_out_so_the_new_file_is_locked(tmp_path: Path):
    path = tmp_path / "lock"
    stale = FileLock.take(path)
    acquired = []
    thread = threading.Thread(target=lambda: acquired.append(FileLock.take(path)))
    thread.start()
    time.sleep(0.2)  # it waits on the file that is removed now
    path.unlink()
    stale.release()
    thread.join(timeout=10)
    assert is_locked(path)
    acquired[0].release()


def test_the_lock_file_is_as_private_as_asked_and_its_folder_is_never_made(tmp_path: Path):
    with FileLock.take(tmp_path / "lock", mode=0o600):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError):
        FileLock.take(tmp_path / "absent" / "lock", wait_s=0)
