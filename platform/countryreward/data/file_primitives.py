"""Files that outlive a killed process: written whole or not at all, locked by one process at a time, read although torn."""

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

_POLL_S = 0.1


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, also after a crash. mode: less the umask."""
    with replaced_file(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A free path in the same folder to write to; when the block ends, its file takes the place of `path` in one step.

    An exception inside the block leaves `path` as it was and removes what was written. A process killed inside it leaves a
    file named `.tmp-*`.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """A path beside `path` that no other process or thread uses; its name begins with `.tmp-`."""
    return path.with_name(f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


def sync_file(path: Path) -> None:
    """Return when the file's content is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the folder's entries (files made, renamed, removed) are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where the file is missing, torn or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class LockHeldError(Exception):
    """Another process holds the lock. `holder`: its process id, where it has written one into the file."""

    def __init__(self, path: Path, holder: int | None) -> None:
        super().__init__(f"{path} is held by process {holder or 'unknown'}")
        self.holder = holder


class FileLock:
    """A lock on a file, held by one process at a time; the kernel frees it when that process ends, however it ends.

    Use it as a context manager, or call `release`. On a file system that several nodes share it holds only where flock is passed
    on (NFS version 4 does, if mounted so).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    @classmethod
    def take(cls, path: Path, *, wait_s: float | None = None, mode: int = 0o666, signed: bool = False) -> "FileLock":
        """Take the lock; the file is made where there is none (mode: less the umask), its folder is not.

        wait_s: seconds to wait for another holder before `LockHeldError`; None: for as long as it takes. signed: write this
        process's id into the file, for the message of those who come too late.
        """
        until = time.monotonic() + (wait_s or 0.0)
        while (lock := cls._attempt(path, mode, wait=wait_s is None)) is None:
            if wait_s is not None and time.monotonic() >= until:
                raise LockHeldError(path, _holder(path))
            if wait_s is not None:
                time.sleep(_POLL_S)
        if signed:
            lock._file.truncate(0)
            lock._file.write(str(os.getpid()).encode())
            lock._file.flush()
        return lock

    @classmethod
    def _attempt(cls, path: Path, mode: int, *, wait: bool) -> "FileLock | None":
        """None: another process holds it, which with `wait` never happens."""
        while True:
            file = open(path, "ab", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115 (closed by release)
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return cls(file)
            file.close()  # the file was removed or replaced meanwhile: a lock on it would keep nobody out

    def release(self) -> None:
        """Let another process take it."""
        self._file.close()

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the `FileLock` of this file now. Never makes the file."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _holder(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None
