"""What every kind of job has in its job.json, beside what it is about."""

import fcntl
import os
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel

from countryreward.api.schemas import JobState

FINISHED = ("done", "failed", "cancelled")


class Stored(BaseModel):
    """What the folders of jobs need to know of a job."""

    id: str
    state: JobState
    error: str | None = None
    """Why it failed, and the way out."""
    created: datetime
    finished: datetime | None = None
    deleted_after: datetime | None = None
    tenant: str
    fingerprint: str
    """SHA-256 of what was asked: the same Idempotency-Key must come with the same."""
    starts: int = 0
    """Since it last got on."""


J = TypeVar("J", bound=Stored)


def cancelled(folder: Path) -> bool:
    """Whether somebody asked to stop the job."""
    return (folder / "cancel").exists()


def unfinished(job: Stored) -> bool:
    """It waits or runs."""
    return job.state not in FINISHED


def load(model: type[J], folder: Path, *, raw: bool = False) -> J | None:
    """None: it is not there. raw: as stored; otherwise one that is to be cancelled is shown as cancelled already."""
    try:
        job = model.model_validate_json((folder / "job.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not raw and unfinished(job) and cancelled(folder):
        job.state = "cancelled"
    return job


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
