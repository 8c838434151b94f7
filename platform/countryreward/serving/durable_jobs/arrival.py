"""How a job comes in: its folder is filled aside, then appears whole, or not at all."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countryreward.serving.durable_jobs.job_folders import JobFolders
from countryreward.serving.durable_jobs.lease import Lease
from countryreward.serving.http.problems import Problem

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Arrival:
    """A job that is being brought in: fill `folder`, then `settle`, under the store's lock of `place`."""

    place: Path
    folder: Path

    def settle(self, name: str) -> None:
        """It is there from now on, under its id."""
        os.rename(self.folder, self.place / name)
        _fsync_folder(self.place)


@contextlib.contextmanager
def arriving(store: JobFolders[Any], place: Path) -> Iterator[Arrival]:
    """A new folder of a tenant; unsettled, it is removed at the end. Raises `Problem` busy: no room on the disk."""
    fresh = place / f".new-{secrets.token_hex(8)}"
    with store.locked(place):  # the sweep, too, takes the lease under this lock
        fresh.mkdir(mode=0o700)
        lease = Lease.take(fresh)
    assert lease is not None, "nobody else knows the new folder"
    try:
        yield Arrival(place, fresh)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise Problem("busy", "there is no room for the upload now; try again later", retry_after=600) from None
        raise
    finally:
        lease.release()
        shutil.rmtree(fresh, ignore_errors=True)


def check_key(key: str | None) -> None:
    """An Idempotency-Key as it may be. Raises `Problem`."""
    if key is not None and not re.fullmatch(r"[A-Za-z0-9_-]{8,128}", key):
        raise Problem("invalid_input", "Idempotency-Key: write 8 to 128 letters, digits, - or _")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
