"""What every kind of job has in its job.json, beside what it is about."""

from datetime import datetime
from pathlib import Path
from typing import TypeVar

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
