"""Passes of a generation job: of its writer, which gives designs, and of its renderer, which gives images on disk. They block."""

import shutil
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
from countryreward.generation.ad_contracts import DesignWriter, Refusal, Renderer, RenderJob
from countryreward.generation.ad_maker import AdRequest, rendered_files, write_designs
from countryreward.scoring.contracts import Product
from countryreward.serving.durable_jobs.generation.generation_results import read_plan, write_image, write_refused
from countryreward.serving.durable_jobs.generation.generation_store import Asked, Plan, PlannedDesign, StoredGeneration
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import GenerationLimits


@dataclass(eq=False)
class GenerationInputs:
    """What a generation job was sent and, where its designs were planned, the plan; read from its folder."""

    asked: Asked
    product: Product
    original: bytes
    """File of the product's own picture."""
    pixels: np.ndarray
    """RGB uint8 [height, width, 3] of it."""
    plan: Plan | None
    """The designs, where some were to be written; None: they are yet to be planned, or none is to be."""

    @classmethod
    def read(cls, folder: Path, config: GenerationLimits) -> "GenerationInputs":
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


def render_pass(
    renderer: Renderer,
    folder: Path,
    stored: StoredGeneration,
    inputs: GenerationInputs,
    group: Sequence[int],
    metrics: MetricsObserver,
) -> None:
    """Make the images of these designs in one pass, each written as soon as it is there. What cannot be made is refused."""
    jobs = [inputs.job(stored, n) for n in group]
    for position, answer in rendered_files(renderer, jobs, on_pass=metrics.rendered):
        n, job = group[position], jobs[position]
        if isinstance(answer, Refusal):
            refuse(folder, inputs, n, answer.reason, metrics)
        else:
            image = GeneratedImage(
                n=n,
                **dict(inputs.planned(n)),
                seed=job.seed,
                px=renderer.px if job.px is None else job.px,
                sha256=answer.sha256,
                fidelity=ImageFidelity(**asdict(answer.fidelity)),
                made=answer.made,
            )
            write_image(folder, image, answer.png)


def refuse(folder: Path, inputs: GenerationInputs, n: int, reason: str, metrics: MetricsObserver) -> None:
    """There will be no image of this design."""
    write_refused(folder, RefusedDesign(n=n, reason=reason[:1_000], **dict(inputs.planned(n))))
    metrics.design_refused()


def forget_images(folder: Path) -> None:
    """Remove the images of another renderer, or of another version of it."""
    shutil.rmtree(folder / "images", ignore_errors=True)


TRIES = 3
"""Times that a writer is asked for a design, with other seeds, before one of the templates takes its place."""
_UNUSABLE = "what the writer wrote could not be used"
_FAILED = "the writer failed again and again"
_SEEDS = 1_000_003  # apart from one pass to the next; torch reads the lower 32 bits of a seed alone


class DesignPlanner:
    """Designs of one job as they are written: design n for market n % len(markets), all in a pass, at most `TRIES` passes."""

    def __init__(
        self, writer: DesignWriter, stored: StoredGeneration, inputs: GenerationInputs, metrics: MetricsObserver
    ) -> None:
        assert stored.markets, "a writer writes for a market"
        self.writer, self._stored, self._inputs, self._metrics = writer, stored, inputs, metrics
        self._left, self._pass = list(range(stored.total)), 0
        self._written: dict[int, DesignFields] = {}
        self._unwritten: dict[int, str] = {}

    def done(self) -> bool:
        """Whether nothing is left to be asked."""
        return not self._left

    def write_pass(self) -> None:
        """Ask for all that is left. A design that the writer refuses, or fails on in the last pass, is of the templates."""
        group, self._left = self._left, []
        answers = write_designs(self.writer, [self._request(n) for n in group])
        for n, answer in zip(group, answers, strict=True):
            if isinstance(answer, UserError):
                self._unwritten[n] = str(answer)[:500]
                continue
            self._metrics.design_written(accepted=bool(answer.candidates))
            if answer.candidates:
                self._written[n] = DesignFields.of(answer.candidates[0].design)
            elif self._pass + 1 < TRIES:
                self._left.append(n)
            else:
                self._unwritten[n] = _UNUSABLE
        self._pass += 1

    def plan(self) -> Plan:
        """All designs, those of the templates in the places where none could be written."""
        assert self.done(), "some are still to be written"
        designs = [
            PlannedDesign(design=self._written[n], market=self._market(n), writer=self.writer.version)
            if n in self._written
            else PlannedDesign(design=template)
            for n, template in enumerate(self._inputs.asked.designs)
        ]
        return Plan(designs=designs, writer=self.writer.version, note=_note(self._unwritten, len(designs)))

    def _request(self, n: int) -> AdRequest:
        inputs = self._inputs
        return AdRequest(
            product=inputs.product,
            market=self._market(n),
            image=inputs.pixels,
            image_hash=inputs.asked.image_hash,
            seeds=[self._stored.seed + n + self._pass * _SEEDS],
        )

    def _market(self, n: int) -> str:
        return self._stored.markets[n % len(self._stored.markets)]


def template_plan(inputs: GenerationInputs, *, failed: bool = False) -> Plan:
    """From the templates alone. failed: there is a writer, but it fails whenever it is asked."""
    designs = [PlannedDesign(design=template) for template in inputs.asked.designs]
    reasons = dict.fromkeys(range(len(designs)), _FAILED) if failed else {}
    return Plan(designs=designs, note=_note(reasons, len(designs)))


def _note(reasons: dict[int, str], total: int) -> str | None:
    """In plain words, what is from the templates and why."""
    counts = Counter(reason for _, reason in sorted(reasons.items()))
    parts = [f"{count} of {total} designs from the templates: {reason}" for reason, count in counts.items()]
    return "; ".join(parts)[:1_000] or None
