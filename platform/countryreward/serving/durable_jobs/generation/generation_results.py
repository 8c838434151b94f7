"""What became of a generation job: images, refusals and rankings on disk, and the job as its tenant sees it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from countryreward.api.schemas import (
    GeneratedImage,
    GeneratedRanking,
    GenerationJob,
    RefusedDesign,
)
from countryreward.data.file_primitives import write_atomically
from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore, Plan, StoredGeneration
from countryreward.serving.http.problems import Problem

_RANKINGS = TypeAdapter(list[GeneratedRanking])


def write_image(folder: Path, image: GeneratedImage, png: bytes) -> None:
    """An image is there, once, when its .json is: the file comes first."""
    images = _images(folder)
    write_atomically(images / f"{image.n:04d}.png", png)
    write_atomically(images / f"{image.n:04d}.json", image.model_dump_json())


def write_refused(folder: Path, refused: RefusedDesign) -> None:
    """Write down that there will be no image of a design, and why."""
    write_atomically(_images(folder) / f"{refused.n:04d}.refused.json", refused.model_dump_json())


def write_rankings(folder: Path, rankings: Sequence[GeneratedRanking]) -> None:
    """Write the rankings of all markets at once."""
    write_atomically(folder / "rankings.json", _RANKINGS.dump_json(list(rankings)))


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the designs of a job that was sent without any."""
    write_atomically(folder / "designs.json", plan.model_dump_json())


def read_plan(folder: Path) -> Plan | None:
    """The designs that were planned; None: nothing was, or not yet."""
    try:
        return Plan.model_validate_json((folder / "designs.json").read_bytes())
    except FileNotFoundError:
        return None


def finished(folder: Path) -> set[int]:
    """Positions of the designs that are done with."""
    return {int(name[:4]) for name in _names(folder) if re.fullmatch(r"\d{4}(\.refused)?\.json", name)}


def images_of(folder: Path) -> list[GeneratedImage]:
    """All images that are made so far, in the designs' order."""
    names = sorted(name for name in _names(folder) if re.fullmatch(r"\d{4}\.json", name))
    return [GeneratedImage.model_validate_json((folder / "images" / name).read_bytes()) for name in names]


def refused_of(folder: Path) -> list[RefusedDesign]:
    """All designs that were refused so far, in the designs' order."""
    names = sorted(name for name in _names(folder) if name.endswith(".refused.json"))
    return [RefusedDesign.model_validate_json((folder / "images" / name).read_bytes()) for name in names]


def image_path(store: GenerationStore, tenant: str, job_id: str, n: int) -> Path:
    """The PNG file of image n, as soon as it is made. Raises `Problem` not_found, also for a job of another tenant."""
    folder, job = store.find(tenant, job_id)
    path = folder / "images" / f"{n:04d}.png"
    if not (0 <= n < job.total and job.state != "cancelled" and path.with_suffix(".json").exists()):
        raise Problem("not_found", "there is no such image, or not yet")
    return path


def shown(
    store: GenerationStore, folder: Path, job: StoredGeneration, queue: Sequence[str] | None = None
) -> GenerationJob:
    """The job as its tenant sees it, with what has been made so far. queue: of the store, where it is known."""
    shared = {"id", "state", "total", "error", "created", "finished", "deleted_after"}
    note = "; ".join(part for part in (job.designs_note, job.note) if part) or None
    answer = GenerationJob(**job.model_dump(include=shared), markets=list(job.markets), note=note)
    if job.state == "waiting":
        queue = store.queue() if queue is None else queue
        answer.position = queue.index(job.id) if job.id in queue else 0  # else it was taken up this moment
    if job.state in ("running", "done"):
        try:
            answer.images, answer.refused = images_of(folder), refused_of(folder)
            answer.done = len(answer.images) + len(answer.refused)
            if job.state == "done" and job.markets:
                answer.rankings = _RANKINGS.validate_json((folder / "rankings.json").read_bytes())
        except FileNotFoundError:  # it is being removed, or nothing was ranked
            pass
    return answer


def all_shown(store: GenerationStore, tenant: str) -> list[GenerationJob]:
    """All jobs of a tenant, newest first."""
    queue, place = store.queue(), store.place(tenant)
    return [shown(store, place / job.id, job, queue) for job in store.jobs_of(tenant)]


def _images(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir(exist_ok=True, mode=0o700)
    return images


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder / "images")
    except FileNotFoundError:
        return []
