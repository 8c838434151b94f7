"""The renderer that needs no trained weights: the marketplace's drawer stages the product."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import cv2

from countryreward.data.marketplace.drawer import draw
from countryreward.data.marketplace.wording import design_to_spec
from countryreward.errors import UserError
from countryreward.generation.contracts import Rendered, RenderJob
from countryreward.generation.fidelity import fidelity
from countryreward.generation.subject import Subject, subject_of

_VERSION = 1  # raised whenever the same job would give other bytes
_KEPT = 64  # products whose subject is kept
_PX = (32, 1024)


class DrawerRenderer:
    """A `Renderer`: pictures as the simulator makes them.

    A product that the marketplace could have drawn is drawn anew, any other is cut out of its own picture and pasted into
    the drawn scene. Words of a design that are none of the drawer's are taken for the nearest of its own.
    """

    def __init__(self, *, px: int = 224, threads: int | None = None) -> None:
        """`threads` draw the jobs of one call at once; None: one per core, 8 at most."""
        _check_px(px)
        self._px = px
        self._threads = threads or min(8, _cores())
        self._subjects: dict[tuple[str, str], Subject] = {}

    @property
    def name(self) -> str:
        """drawer."""
        return "drawer"

    @property
    def version(self) -> str:
        """OpenCV's is part of it: another one may round otherwise."""
        return f"drawer-{_VERSION}-opencv-{cv2.__version__}"

    @property
    def px(self) -> int:
        """Side of an ad where a job names none."""
        return self._px

    def check(self, job: RenderJob) -> None:
        """Raises `UserError` for a side the drawer does not draw or a picture of the wrong kind."""
        _check_px(job.px or self._px)
        check_picture(job)

    def render(self, jobs: Sequence[RenderJob]) -> list[Rendered]:
        """In order, several at once. The same job gives the same bytes."""
        for job in jobs:
            self.check(job)
        subjects = [self._subject(job) for job in jobs]
        if len(jobs) < 2 or self._threads < 2:
            return [self._render(*pair) for pair in zip(jobs, subjects, strict=True)]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self._render, jobs, subjects))

    def _render(self, job: RenderJob, subject: Subject) -> Rendered:
        px = job.px or self._px
        pixels = draw(job.design, subject.look or subject.tile, px=px, seed=job.seed)
        return Rendered(pixels=pixels, fidelity=fidelity(subject.view, pixels), made=self._made(job, subject, px))

    def _made(self, job: RenderJob, subject: Subject, px: int) -> dict[str, Any]:
        return {
            "renderer": self.name,
            "version": self.version,
            "design": asdict(job.design),
            "title": job.product.title,
            "category": job.product.category,
            "attributes": dict(job.product.attributes),
            "image_hash": job.image_hash,
            "seed": job.seed,
            "px": px,
            "steps": None,
            "product": subject.seen,
            "look": asdict(subject.look) if subject.look else None,
            "spec": asdict(design_to_spec(job.design)),
        }

    def _subject(self, job: RenderJob) -> Subject:
        words = (job.product.title, job.product.category, sorted(job.product.attributes.items()))
        key = job.image_hash, repr(words)
        found = self._subjects.pop(key, None) or subject_of(job.product, job.image)
        self._subjects[key] = found  # now the newest
        while len(self._subjects) > _KEPT:
            del self._subjects[next(iter(self._subjects))]
        return found


def check_picture(job: RenderJob) -> None:
    """Raises `UserError` unless the product's picture is RGB uint8 of at least 8 pixels a side and the seed is not negative."""
    image = job.image
    if image.ndim != 3 or image.shape[2] != 3 or str(image.dtype) != "uint8" or min(image.shape[:2]) < 8:
        raise UserError(
            f"image: {image.dtype} {list(image.shape)}; give RGB uint8 [height, width, 3], 8 pixels or more"
        )
    if not 0 <= job.seed < 2**63:
        raise UserError(f"seed: {job.seed}; write a whole number from 0 to 2**63 - 1")


def _check_px(px: int) -> None:
    if not _PX[0] <= px <= _PX[1]:
        raise UserError(f"px: {px}; the drawer draws {_PX[0]} to {_PX[1]} pixels a side")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
