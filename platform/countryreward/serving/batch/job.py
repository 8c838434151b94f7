"""One batch job as it lies in its folder."""

import shutil
from pathlib import Path

from countryreward.serving.schemas import BatchJob

FINISHED = ("done", "failed", "cancelled")


class StoredJob(BatchJob):
    """job.json: what the tenant sees, and what the runner needs."""

    tenant: str
    ending: str
    markets: tuple[str, ...] = ()
    """Asked for every row; none: each row's own."""
    trained: tuple[str, ...] | None = None
    """What stands in where neither the call nor the table names a market; kept from the first start on."""
    fingerprint: str
    """Of table, images and markets: the same Idempotency-Key must come with the same."""
    starts: int = 0
    """Since a part was finished."""

    def shown(self) -> BatchJob:
        """What the tenant sees."""
        return BatchJob(**{name: getattr(self, name) for name in BatchJob.model_fields})


def cancelled(folder: Path) -> bool:
    """Whether somebody asked to stop the job."""
    return (folder / "cancel").exists()


def unfinished(job: StoredJob) -> bool:
    """It waits or runs."""
    return job.state not in FINISHED


def load(folder: Path, *, raw: bool = False) -> StoredJob | None:
    """None: it is not there. raw: as stored; otherwise one that is to be cancelled is shown as cancelled already."""
    try:
        job = StoredJob.model_validate_json((folder / "job.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not raw and unfinished(job) and cancelled(folder):
        job.state = "cancelled"
    return job


def leftovers(folder: Path, job: StoredJob) -> list[Path]:
    """What a finished job keeps no longer."""
    names = [f"table.{job.ending}", "images.zip", "work"]
    names += [] if job.state == "done" else ["verdicts.parquet", "quarantine.jsonl"]
    return [folder / name for name in names if (folder / name).exists()]


def drop(folder: Path, job: StoredJob) -> None:
    """Remove that."""
    for path in leftovers(folder, job):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
