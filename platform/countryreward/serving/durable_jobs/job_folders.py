"""The folders of jobs, shared by all replicas: STATE/jobs/TENANT/JOB/. Every kind of job has a store of its own.

job.json    what was asked and how far it is, replaced in one step
cancel      somebody asked to stop it or to remove it
lease       a lock: only the process that holds it writes into the folder, `cancel` and what a store itself adds apart
...         what the kind of job needs

A folder appears whole, by a rename from `.new-*`, and disappears whole, by a rename to `.trash-*`.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from countryreward.api.schemas import JobState
from countryreward.data.file_primitives import FileLock, LockHeldError, sync_folder, write_atomically
from countryreward.serving.http.problems import Problem
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import SharedServiceConfig

FINISHED = ("done", "failed", "cancelled")
MAX_STARTS = 5
"""A job that was started so often without getting on fails: it may be what kills its replicas."""
Clock = Callable[[], datetime]
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Stored(BaseModel):
    """What every kind of job has in its job.json, beside what it is about."""

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
    """How often a replica began with it since it last got on."""


J = TypeVar("J", bound=Stored)


def cancelled(folder: Path) -> bool:
    """Whether somebody asked to stop the job."""
    return (folder / "cancel").exists()


def unfinished(job: Stored) -> bool:
    """Whether it waits or runs."""
    return job.state not in FINISHED


def load(model: type[J], folder: Path, *, raw: bool = False) -> J | None:
    """The job in a folder; None: there is none. raw: as stored; else one that is to be cancelled shows as cancelled already."""
    try:
        job = model.model_validate_json((folder / "job.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not raw and unfinished(job) and cancelled(folder):
        job.state = "cancelled"
    return job


def take_lease(folder: Path) -> FileLock | None:
    """The right to work in a job's folder; None where another process has it, or the folder is gone.

    It holds among all replicas of a node. On a file system that several nodes share it holds only where flock is passed on
    (NFS version 4 does, if mounted so): elsewhere let the replicas of one node alone run jobs.
    """
    try:
        return FileLock.take(folder / "lease", wait_s=0)
    except (LockHeldError, FileNotFoundError, NotADirectoryError):
        return None


@dataclass(frozen=True)
class Claim(Generic[J]):
    """A job and the right to work on it."""

    folder: Path
    job: J
    lease: FileLock


def utc_now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class JobFolders(ABC, Generic[J]):
    """Finds, claims, ends and removes jobs of one kind. A subclass says which kind, and what of it is kept."""

    model: type[J]
    """What job.json holds."""
    letter: ClassVar[str]
    """Ids begin with it."""
    noun: ClassVar[str]
    """What people call such a job."""
    smaller: ClassVar[str]
    """What may help where a job does not get on: send ..."""
    again: ClassVar[str]
    """What to send once more."""
    results: ClassVar[tuple[str, ...]]
    """Names of what a job that is done keeps in its folder, and another one does not."""

    def __init__(
        self, config: SharedServiceConfig, now: Clock = utc_now, watching: MetricsObserver | None = None
    ) -> None:
        self.config, self.now, self.watching = config, now, watching or MetricsObserver()
        self.root = Path(config.state).absolute() / "jobs"
        self.retention = timedelta(hours=config.retention_hours)

    @abstractmethod
    def inputs(self, job: J) -> list[str]:
        """Names of what lies in the job's folder for the sake of the work alone: removed when the job has ended."""

    @abstractmethod
    def tell_ended(self, state: str) -> None:
        """Tell `watching` that a job ended: done, failed or cancelled."""

    @abstractmethod
    def tell_open(self, jobs: int, oldest_s: float) -> None:
        """Tell `watching` that so many jobs wait or run, the oldest sent so many seconds ago."""

    def leftovers(self, folder: Path, job: J) -> list[Path]:
        """What a finished job keeps no longer, as far as it is there."""
        names = [*self.inputs(job), *(() if job.state == "done" else self.results)]
        return [folder / name for name in names if (folder / name).exists()]

    def place(self, tenant: str) -> Path:
        """The folder of a tenant's jobs, made if need be. A tenant of any spelling stays inside `root`."""
        plain = re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", tenant)
        name = tenant if plain else "~" + hashlib.sha256(tenant.encode("utf-8", "replace")).hexdigest()[:32]
        for folder in (self.root, self.root / name):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.root / name

    def locked(self, place: Path) -> FileLock:
        """The right to decide which folders of a tenant there are, for a `with` block. Held for moments only."""
        return FileLock.take(place / ".lock")

    def find(self, tenant: str, job_id: str) -> tuple[Path, J]:
        """Folder and job. Raises `Problem` not_found, also for a job of another tenant."""
        folder = self.place(tenant) / job_id
        job = load(self.model, folder) if re.fullmatch(f"{self.letter}-[0-9a-f]{{16}}", job_id) else None
        if job is None:
            raise Problem("not_found", f"there is no such {self.noun}, or it has been deleted")
        return folder, job

    def jobs_of(self, tenant: str) -> list[J]:
        """All jobs of a tenant, newest first."""
        jobs = [job for folder in self.place(tenant).glob(f"{self.letter}-*") if (job := load(self.model, folder))]
        return sorted(jobs, key=lambda job: (job.created, job.id), reverse=True)

    def open_jobs(self) -> list[tuple[Path, J]]:
        """Folder and job of all that wait or run, of all tenants, oldest first."""
        jobs = [(folder, job) for folder in self._folders() if (job := load(self.model, folder)) and unfinished(job)]
        return sorted(jobs, key=lambda placed: (placed[1].created, placed[0]))

    def tell_backlog(self) -> None:
        """Tell `watching` how many jobs wait or run, and since when."""
        sent = [job.created for _, job in self.open_jobs()]
        self.tell_open(len(sent), max(0.0, (self.now() - min(sent)).total_seconds()) if sent else 0.0)

    def save(self, folder: Path, job: J) -> None:
        """Write job.json. For the holder of the lease."""
        write_atomically(folder / "job.json", job.model_dump_json(indent=1))

    def claim(self) -> Claim[J] | None:
        """The oldest job that waits, or whose runner died; None: there is none."""
        waiting = [
            (job.created, folder)
            for folder in self._folders()
            if (job := load(self.model, folder, raw=True)) and unfinished(job)
        ]
        for _, folder in sorted(waiting):
            lease = take_lease(folder)
            if lease is None:
                continue
            job = load(self.model, folder, raw=True)
            if job and unfinished(job) and not cancelled(folder) and job.starts < MAX_STARTS:
                job.state, job.starts = "running", job.starts + 1
                self.save(folder, job)
                return Claim(folder, job, lease)
            if job and unfinished(job):
                stuck = (
                    f"the job was started {MAX_STARTS} times without getting on; send {self.smaller}, or report its id"
                )
                self.end(folder, job, "cancelled" if cancelled(folder) else "failed", stuck)
            lease.release()
        return None

    def end(self, folder: Path, job: J, state: JobState, error: str | None = None) -> None:
        """Finish a job, for the holder of the lease. Whatever `state` does not need is removed."""
        job.state = state
        job.error = error[:1_000] if error and state == "failed" else None
        job.finished = self.now()
        job.deleted_after = job.finished + self.retention
        self.save(folder, job)
        self.drop(folder, job)
        self.tell_ended(state)

    def drop(self, folder: Path, job: J) -> None:
        """Remove what a finished job keeps no longer."""
        for path in self.leftovers(folder, job):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def delete(self, tenant: str, job_id: str) -> None:
        """Cancel a job that waits or runs, remove a finished one. A running one stops within `poll_s`."""
        folder, job = self.find(tenant, job_id)
        with contextlib.suppress(FileNotFoundError):
            (folder / "cancel").touch()
        if lease := take_lease(folder):
            with lease:
                if not unfinished(job):
                    self._remove(folder)
                elif still := load(self.model, folder, raw=True):
                    self.end(folder, still, "cancelled")

    def sweep(self) -> None:
        """Remove what is past its time, and what killed processes left."""
        for place in self.root.glob("*/"):
            for leftover in place.glob(".trash-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with self.locked(place):
                for fresh in place.glob(".new-*"):
                    if lease := take_lease(fresh):  # whoever brought it in is gone
                        with lease:
                            shutil.rmtree(fresh, ignore_errors=True)
        for folder in self._folders():
            job = load(self.model, folder, raw=True)
            if job and self._due(folder, job) and (lease := take_lease(folder)):
                with lease:
                    if job := load(self.model, folder, raw=True):
                        self._tidy(folder, job)

    def _due(self, folder: Path, job: J) -> bool:
        if unfinished(job):
            return cancelled(folder) or job.created + 7 * self.retention < self.now()
        past = job.deleted_after is None or job.deleted_after < self.now()
        return past or (cancelled(folder) and job.state != "cancelled") or bool(self.leftovers(folder, job))

    def _tidy(self, folder: Path, job: J) -> None:
        if cancelled(folder) and job.state != "cancelled":
            self.end(folder, job, "cancelled")
        elif unfinished(job) and self._due(folder, job):
            self.end(folder, job, "failed", f"the job waited too long; send {self.again} again")
        elif not unfinished(job) and (job.deleted_after is None or job.deleted_after < self.now()):
            self._remove(folder)
        elif not unfinished(job):
            self.drop(folder, job)

    def _remove(self, folder: Path) -> None:
        trash = folder.with_name(f".trash-{secrets.token_hex(8)}")
        with self.locked(folder.parent):
            os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.root.glob(f"*/{self.letter}-*"))


@dataclass(frozen=True)
class Arrival:
    """A job that is being brought in: fill `folder`, then `settle`, under the store's lock of `place`."""

    place: Path
    folder: Path

    def settle(self, name: str) -> None:
        """It is there from now on, under its id."""
        os.rename(self.folder, self.place / name)
        sync_folder(self.place)


@contextlib.contextmanager
def arriving(store: JobFolders[Any], place: Path) -> Iterator[Arrival]:
    """A new folder of a tenant; unsettled, it is removed at the end. Raises `Problem` busy: no room on the disk."""
    fresh = place / f".new-{secrets.token_hex(8)}"
    with store.locked(place):  # the sweep, too, takes the lease under this lock
        fresh.mkdir(mode=0o700)
        lease = take_lease(fresh)
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
