"""Who works in a job folder: the process that holds the lock on its file `lease`."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


class Lease:
    """Held by one process at a time, among all replicas of a node; the kernel frees it when the process dies, however it dies.

    On a file system that several nodes share it holds only where flock is passed on (NFS version 4 does, if mounted so):
    elsewhere let the replicas of one node alone run jobs.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle

    @classmethod
    def take(cls, folder: Path) -> "Lease | None":
        """None: another one holds it, or the folder is gone."""
        try:
            handle = open(folder / "lease", "ab")  # noqa: SIM115 (closed by release)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours, there = os.fstat(handle.fileno()), os.stat(folder / "lease")
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):  # else the folder was removed meanwhile
                return cls(handle)
        except (BlockingIOError, FileNotFoundError):
            pass
        handle.close()
        return None

    def release(self) -> None:
        """Let another one take it."""
        self._handle.close()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
