"""What the studio keeps of a tenant: results with their pictures made small, and which jobs were made there.

STATE/studio/TENANT/results/RESULT/ holds result.json, 0.jpg, 1.jpg ... Such a folder appears whole, by a rename from `.new-*`,
and disappears whole, by one to `.trash-*`. STATE/studio/TENANT/KIND/JOB.json says what a job was made of; the job itself lies
with all others.
"""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image
from pydantic import BaseModel, Field

from countryreward.data.decoding import decode
from countryreward.data.file_primitives import read_json, write_atomically
from countryreward.serving.durable_jobs.job_folders import JobFolders
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import SharedServiceConfig, StudioConfig
from countryreward.serving.studio.verdict_text import MarketSaid

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_RESULT = re.compile(r"r-[0-9a-f]{32}")
_LEFT_S = 3_600.0  # what somebody began to write and did not finish within this time is left over
Clock = Callable[[], datetime]


class Result(BaseModel):
    """What is kept of a comparison."""

    id: str
    title: str
    by: str = Field(description="Who asked.")
    created: datetime
    deleted_after: datetime | None = Field(description="null: a sample, which is never deleted.")
    pictures: list[str] = Field(description="Names of the files as they were sent.")
    headlines: list[str] = Field(default_factory=list, description="Of the pictures' ads; empty where there is none.")
    markets: list[MarketSaid]
    note: str = Field(default="", description="What to know about a sample.")


def utc_now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def tenants_folder(state: str | Path, tenant: str) -> Path:
    """Where the studio keeps what is a tenant's."""
    assert _TENANT.fullmatch(tenant), "made by `GuestStore.invite`, which demands it"
    return Path(state).absolute() / "studio" / tenant


def small(data: bytes, config: SharedServiceConfig, px: int) -> bytes:
    """A picture as a JPEG of at most px by px pixels. Raises `ImageError`."""
    picture = decode(data, max_bytes=config.max_image_bytes, max_pixels=config.max_pixels)
    picture.thumbnail((px, px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85, optimize=True)
    return file.getvalue()


class CampaignStore:
    """Keeps, finds and removes results. All of it blocks: call it in a thread."""

    def __init__(self, config: SharedServiceConfig, studio: StudioConfig, now: Clock = utc_now) -> None:
        self.config, self.studio, self.now = config, studio, now
        self.root = Path(config.state).absolute() / "studio"
        self.retention = timedelta(hours=config.retention_hours)

    def keep(
        self,
        tenant: str,
        *,
        title: str,
        by: str,
        names: Sequence[str],
        pictures: Sequence[bytes],
        said: list[MarketSaid],
        headlines: Sequence[str] = (),
    ) -> Result:
        """Keep a result for the retention time. pictures: as `small` made them. Raises `Problem` when the disk is full."""
        place, created = self._place(tenant), self.now()
        result = Result(
            id=f"r-{secrets.token_hex(16)}",
            title=title,
            by=by,
            created=created,
            deleted_after=created + self.retention,
            pictures=list(names),
            headlines=list(headlines),
            markets=said,
        )
        fresh = place / f".new-{secrets.token_hex(8)}"
        try:
            fresh.mkdir(mode=0o700)
            for number, picture in enumerate(pictures):
                (fresh / f"{number}.jpg").write_bytes(picture)
            write_atomically(fresh / "result.json", result.model_dump_json(), mode=0o600)
            os.rename(fresh, place / result.id)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise Problem("busy", "the result could not be kept; try again later", retry_after=60) from None
        for old in self.results(tenant)[self.studio.max_results :]:
            self._remove(place / old.id)
        return result

    def results(self, tenant: str) -> list[Result]:
        """Newest first."""
        whole = [result for folder in self._place(tenant).glob("r-*") if (result := _load(folder))]
        alive = [result for result in whole if self._alive(result)]
        return sorted(alive, key=lambda result: (result.created, result.id), reverse=True)

    def find(self, tenant: str, result_id: str) -> Result:
        """Raises `Problem` not_found, also for another tenant's."""
        result = _load(self._place(tenant) / result_id) if _RESULT.fullmatch(result_id) else None
        if result is None or not self._alive(result):
            raise Problem("not_found", "this result is not there, or was deleted; compare the pictures again")
        return result

    def picture(self, tenant: str, result_id: str, number: int) -> Path:
        """The file of a picture. Raises `Problem` not_found."""
        self.find(tenant, result_id)
        path = self._place(tenant) / result_id / f"{number}.jpg"
        if number < 0 or not path.is_file():
            raise Problem("not_found", "there is no such picture")
        return path

    def delete(self, tenant: str, result_id: str) -> None:
        """Raises `Problem` not_found."""
        self.find(tenant, result_id)
        self._remove(self._place(tenant) / result_id)

    def delete_all(self, tenant: str) -> int:
        """Remove all results of a tenant; returns how many there were."""
        folders = list(self._place(tenant).glob("r-*"))
        for folder in folders:
            self._remove(folder)
        return len(folders)

    def sweep(self) -> None:
        """Remove what is past its time, and what killed processes left."""
        for folder in self.root.glob("*/results/.*-*"):
            with contextlib.suppress(FileNotFoundError):
                if folder.name.startswith(".trash-") or time.time() - folder.stat().st_mtime > _LEFT_S:
                    shutil.rmtree(folder, ignore_errors=True)
        for folder in self.root.glob("*/results/r-*"):
            result = _load(folder)
            if result is None or not self._alive(result):
                self._remove(folder)

    def _alive(self, result: Result) -> bool:
        return result.deleted_after is None or self.now() < result.deleted_after

    def _place(self, tenant: str) -> Path:
        place = tenants_folder(self.config.state, tenant) / "results"
        for folder in (self.root, place.parent, place):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place

    def _remove(self, folder: Path) -> None:
        trash = folder.with_name(f".trash-{secrets.token_hex(8)}")
        with contextlib.suppress(FileNotFoundError):  # another replica was faster
            os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)


def _load(folder: Path) -> Result | None:
    """None: it is not there, or not whole."""
    try:
        return Result.model_validate_json((folder / "result.json").read_bytes())
    except (OSError, ValueError):
        return None


def lines(results: Sequence[Result]) -> Iterator[dict[str, object]]:
    """What a list shows of each result."""
    for result in results:
        yield {
            "id": result.id,
            "title": result.title,
            "by": result.by,
            "created": result.created,
            "pictures": len(result.pictures),
            "markets": len(result.markets),
        }


StoreT = TypeVar("StoreT", bound=JobFolders[Any])


class StudioJobs(Generic[StoreT]):
    """Jobs of one kind that were made in the studio; jobs of the same tenant that were not are nobody's here.

    jobs: where all jobs of this kind lie. What one was made of is kept beside them, in STATE/studio/TENANT/KIND/JOB.json.
    """

    kind: ClassVar[str]
    gone: ClassVar[str]
    """What to say of a job that is not there."""

    def __init__(self, jobs: StoreT) -> None:
        self.jobs = jobs

    def add(self, tenant: str, job_id: str, origin: dict[str, Any]) -> None:
        """Remember a job, and what it was made of; `origin` is not empty."""
        write_atomically(self._place(tenant) / f"{job_id}.json", json.dumps(origin), mode=0o600)

    def origin(self, tenant: str, job_id: str) -> dict[str, Any] | None:
        """What a job was made of; None: it was not made here."""
        return read_json(self._place(tenant) / f"{job_id}.json") or None

    def find_made(self, tenant: str, job_id: str) -> tuple[Path, Any, dict[str, Any]]:
        """Folder, job and what it was made of. Raises `Problem` not_found, also for a job that was not made in the studio."""
        folder, job = self.jobs.find(tenant, job_id)
        origin = self.origin(tenant, job_id)
        if origin is None:
            raise Problem("not_found", self.gone)
        return folder, job, origin

    def delete(self, tenant: str, job_id: str) -> None:
        """Stop a job if it runs, and remove all of it. Raises `Problem` not_found."""
        self.find_made(tenant, job_id)
        self.jobs.delete(tenant, job_id)  # one that waits or runs ends as cancelled, what was sent and made is gone
        with contextlib.suppress(Problem):
            self.jobs.delete(tenant, job_id)
        (self._place(tenant) / f"{job_id}.json").unlink(missing_ok=True)

    def delete_all(self, tenant: str) -> int:
        """Remove all that a tenant had made here; returns how many jobs there were."""
        job_ids = [job.id for job in self.jobs.jobs_of(tenant) if self.origin(tenant, job.id) is not None]
        for job_id in job_ids:
            with contextlib.suppress(Problem):  # a colleague was faster
                self.delete(tenant, job_id)
        return len(job_ids)

    def sweep(self) -> None:
        """Forget those whose job is gone."""
        for path in (Path(self.jobs.config.state).absolute() / "studio").glob(f"*/{self.kind}/?-*.json"):
            try:
                self.jobs.find(path.parents[1].name, path.stem)
            except Problem:
                with contextlib.suppress(FileNotFoundError):  # another replica was faster
                    path.unlink()

    def _place(self, tenant: str) -> Path:
        place = tenants_folder(self.jobs.config.state, tenant) / self.kind
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place
