"""A small Renderer: the marketplace's drawer, with words in a design that make it slow, refuse, fail or die."""

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from countryreward.data.design import Design
from countryreward.data.marketplace.catalogue import CATEGORIES
from countryreward.data.marketplace.drawer import ProductLook, draw
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Fidelity, Rendered, RenderJob

STUDIO = Design(foreground="Bare.", background="A studio.", color_tone="Neutral.", lighting="Daylight.")


@dataclass
class LiteralRenderer:
    """Draws a product of the category that the title's hash names."""

    name: str = "literal"
    version: str = "1"
    px: int = 64
    pause_s: float = 0.0
    log: Path | None = None
    """Every image made is written there, a line each."""
    passes: list[list[int]] = field(default_factory=list)
    """Seeds of every pass."""

    def check(self, job: RenderJob) -> None:
        if "forbidden" in job.design.foreground:
            raise UserError("design: this renderer cannot do it; write another")
        if job.px is not None and job.px % 8:
            raise UserError(f"px: {job.px} is no multiple of 8; write another")

    def render(self, jobs: Sequence[RenderJob]) -> list[Rendered]:
        self.passes.append([job.seed for job in jobs])
        for job in jobs:
            if "late refusal" in job.design.foreground:
                raise UserError("design: it cannot be done after all; write another")
            if "broken" in job.design.foreground:
                raise RuntimeError("the renderer is broken")
            if "deadly" in job.design.foreground:
                os.kill(os.getpid(), signal.SIGKILL)
            self.check(job)
        time.sleep(self.pause_s * len(jobs))
        return [self._one(job) for job in jobs]

    def _one(self, job: RenderJob) -> Rendered:
        digest = hashlib.sha256(job.product.title.encode()).digest()
        look = ProductLook(category=list(CATEGORIES)[digest[0] % len(CATEGORIES)], colour="RED")
        if self.log:
            with open(self.log, "a", encoding="utf-8") as log:
                log.write(f"{job.product.title} {job.seed}\n")
        return Rendered(
            pixels=draw(job.design, look, px=job.px or self.px, seed=job.seed),
            fidelity=Fidelity(edges=0.5, look=0.75, score=0.6),
            made={"renderer": self.name, "version": self.version, "design": asdict(job.design), "seed": job.seed},
        )
