"""The renderer of a config; and the one that needs no trained weights, in which the marketplace's drawer stages the product."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import cv2

from countryreward.data.marketplace.drawer import draw
from countryreward.data.marketplace.vocabulary import design_to_spec
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Rendered, Renderer, RenderJob
from countryreward.generation.fidelity import fidelity
from countryreward.generation.generation_config import RendererConfig
from countryreward.generation.subject import Subject, Subjects

_VERSION = 1  # raised whenever the same job would give other bytes
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
        self._subjects = Subjects()

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
        job.check()

    def render(self, jobs: Sequence[RenderJob]) -> list[Rendered]:
        """In order, several at once. The same job gives the same bytes."""
        for job in jobs:
            self.check(job)
        subjects = [self._subjects.of(job) for job in jobs]
        if len(jobs) < 2 or self._threads < 2:
            return [self._render(*pair) for pair in zip(jobs, subjects, strict=True)]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self._render, jobs, subjects))

    def _render(self, job: RenderJob, subject: Subject) -> Rendered:
        px = job.px or self._px
        spec = design_to_spec(job.design)
        pixels = draw(spec, subject.look or subject.tile, px=px, seed=job.seed)
        made = job.made_by(self, product_seen=subject.seen, px=px, steps=None) | {
            "look": asdict(subject.look) if subject.look else None,
            "spec": asdict(spec),
        }
        return Rendered(pixels=pixels, fidelity=fidelity(subject.view, pixels), made=made)


def _check_px(px: int) -> None:
    if not _PX[0] <= px <= _PX[1]:
        raise UserError(f"px: {px}; the drawer draws {_PX[0]} to {_PX[1]} pixels a side")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def renderer_of(config: RendererConfig) -> Renderer:
    """The renderer of `config.kind`, loaded. Raises `UserError` where its model is not found or not as expected."""
    if config.kind == "drawer":
        return DrawerRenderer(px=config.own_px(), threads=config.threads or None)
    from countryreward.generation.sdxl import DiffusionRenderer

    return DiffusionRenderer.load(config)
