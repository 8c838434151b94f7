"""Passes of a generation job: of its writer, which gives designs, and of its renderer, which gives images on disk. They block."""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from countryreward.api.schemas import (
    DesignFields,
    GeneratedImage,
    ImageFidelity,
    RefusedDesign,
)
from countryreward.data.decoding import decode, pixels_of
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignRequest, DesignWriter, Rendered, Renderer, RenderJob
from countryreward.generation.render_files import png_of
from countryreward.scoring.contracts import Product
from countryreward.serving.durable_jobs.generation.generation_results import read_plan, write_image, write_refused
from countryreward.serving.durable_jobs.generation.generation_store import Asked, Plan, PlannedDesign, StoredGeneration
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import GenerationLimits


@dataclass(eq=False)
class Order:
    """What a generation job asks for, read from its folder."""

    asked: Asked
    product: Product
    original: bytes
    """File of the product's own picture."""
    pixels: np.ndarray
    """RGB uint8 [height, width, 3] of it."""
    plan: Plan | None
    """The designs, where some were to be written; None: they are yet to be planned, or none is to be."""

    @classmethod
    def read(cls, folder: Path, config: GenerationLimits) -> "Order":
        """From a job's folder. Raises `ImageError` where the picture's limits have changed."""
        asked = Asked.model_validate_json((folder / "asked.json").read_bytes())
        original = (folder / "product.image").read_bytes()
        picture = decode(original, max_bytes=config.max_image_bytes, max_pixels=config.max_pixels)
        product = Product(**asked.model_dump(exclude={"image_hash", "designs", "write"}))
        return cls(asked, product, original, pixels_of(picture), read_plan(folder))

    def planned(self, n: int) -> PlannedDesign:
        """The design that image n is made of, and for which market it was written."""
        return self.plan.designs[n] if self.plan else PlannedDesign(design=self.asked.designs[n])

    def job(self, stored: StoredGeneration, n: int) -> RenderJob:
        """For the renderer: image n. Its seed is the job's and n, so a design that is sent twice gives two images."""
        return RenderJob(
            design=self.planned(n).design.design(),
            product=self.product,
            image=self.pixels,
            image_hash=self.asked.image_hash,
            seed=stored.seed + n,
            px=stored.px,
            steps=stored.steps,
        )


def render_some(
    renderer: Renderer,
    folder: Path,
    stored: StoredGeneration,
    order: Order,
    group: Sequence[int],
    watching: MetricsObserver,
) -> None:
    """Make the images of these designs in one pass, each written as soon as it is there. What cannot be made is refused."""
    good: list[int] = []
    for n in group:
        try:
            renderer.check(order.job(stored, n))
            good.append(n)
        except UserError as error:
            refuse(folder, order, n, str(error), watching)
    if not good:
        return
    began = time.monotonic()
    try:
        images = renderer.render([order.job(stored, n) for n in good])
    except UserError as error:
        if len(good) == 1:
            refuse(folder, order, good[0], str(error), watching)
        else:  # one of them: which
            for n in good:
                render_some(renderer, folder, stored, order, [n], watching)
        return
    watching.rendered(len(images), time.monotonic() - began)
    for n, rendered in zip(good, images, strict=True):
        _write(folder, order, n, rendered, stored.seed + n)


def refuse(folder: Path, order: Order, n: int, reason: str, watching: MetricsObserver) -> None:
    """There will be no image of this design."""
    write_refused(folder, RefusedDesign(n=n, reason=reason[:1_000], **dict(order.planned(n))))
    watching.design_refused()


def forget_images(folder: Path) -> None:
    """Remove the images of another renderer, or of another version of it."""
    shutil.rmtree(folder / "images", ignore_errors=True)


def _write(folder: Path, order: Order, n: int, rendered: Rendered, seed: int) -> None:
    file = png_of(rendered)
    image = GeneratedImage(
        n=n,
        **dict(order.planned(n)),
        seed=seed,
        px=rendered.pixels.shape[1],
        sha256=file.sha256,
        fidelity=ImageFidelity(**asdict(rendered.fidelity)),
        made=rendered.made,
    )
    write_image(folder, image, file.png)


TRIES = 3
"""Times that a writer is asked for a design, with other seeds, before one of the templates takes its place."""
_UNUSABLE = "what the writer wrote could not be used"
_FAILED = "the writer failed again and again"
_SEEDS = 1_000_003  # apart from one pass to the next; torch reads the lower 32 bits of a seed alone


class Writing:
    """Designs of one job as they are written: design n for market n % len(markets), all in a pass, at most `TRIES` passes."""

    def __init__(self, writer: DesignWriter, stored: StoredGeneration, order: Order, watching: MetricsObserver) -> None:
        assert stored.markets, "a writer writes for a market"
        self.writer, self._stored, self._order, self._watching = writer, stored, order, watching
        self._left, self._pass = list(range(stored.total)), 0
        self._written: dict[int, DesignFields] = {}
        self._unwritten: dict[int, str] = {}

    def done(self) -> bool:
        """Whether nothing is left to be asked."""
        return not self._left

    def write_pass(self) -> None:
        """Ask for all that is left."""
        group, self._left = self._left, []
        self._write(group)
        self._pass += 1

    def plan(self) -> Plan:
        """All designs, those of the templates in the places where none could be written."""
        assert self.done(), "some are still to be written"
        designs = [
            PlannedDesign(design=self._written[n], market=self._market(n), writer=self.writer.version)
            if n in self._written
            else PlannedDesign(design=template)
            for n, template in enumerate(self._order.asked.designs)
        ]
        return Plan(designs=designs, writer=self.writer.version, note=_note(self._unwritten, len(designs)))

    def _write(self, group: Sequence[int]) -> None:
        try:
            answers = self.writer.write([self._request(n) for n in group])
        except UserError as error:
            if len(group) > 1:  # one of them: which
                for n in group:
                    self._write([n])
            else:
                self._unwritten[group[0]] = str(error)[:500]
            return
        for n, answer in zip(group, answers, strict=True):
            self._watching.design_written(accepted=answer.design is not None)
            if answer.design is not None:
                self._written[n] = DesignFields.of(answer.design)
            elif self._pass + 1 < TRIES:
                self._left.append(n)
            else:
                self._unwritten[n] = _UNUSABLE

    def _request(self, n: int) -> DesignRequest:
        order = self._order
        return DesignRequest(
            product=order.product,
            market=self._market(n),
            image=order.pixels,
            image_hash=order.asked.image_hash,
            seed=self._stored.seed + n + self._pass * _SEEDS,
        )

    def _market(self, n: int) -> str:
        return self._stored.markets[n % len(self._stored.markets)]


def template_plan(order: Order, *, failed: bool = False) -> Plan:
    """From the templates alone. failed: there is a writer, but it fails whenever it is asked."""
    designs = [PlannedDesign(design=template) for template in order.asked.designs]
    reasons = dict.fromkeys(range(len(designs)), _FAILED) if failed else {}
    return Plan(designs=designs, note=_note(reasons, len(designs)))


def _note(reasons: dict[int, str], total: int) -> str | None:
    """In plain words, what is from the templates and why."""
    counts = Counter(reason for _, reason in sorted(reasons.items()))
    parts = [f"{count} of {total} designs from the templates: {reason}" for reason, count in counts.items()]
    return "; ".join(parts)[:1_000] or None
