"""Writers, renderers and scorers that block, as those that are awaited: one call at a time, in a thread."""

import asyncio
from collections.abc import Sequence
from typing import Any

from countryreward.generation.ad_contracts import AdTask, DesignWriter, Refusal, RenderedFile, Renderer, RenderJob
from countryreward.generation.ad_maker import DesignedTask, design_tasks, render_files
from countryreward.generation.outcomes import Outcome
from countryreward.scoring.contracts import PairRequest, Scorer, ScoreRequest, Verdict


class ThreadedWriter:
    """An `AsyncWriter`."""

    def __init__(self, writer: DesignWriter) -> None:
        self.writer, self._one = writer, asyncio.Lock()

    async def version(self) -> str:
        return self.writer.version

    async def design_tasks(self, tasks: Sequence[AdTask], designs: int) -> list[DesignedTask | Outcome]:
        async with self._one:
            return await asyncio.to_thread(design_tasks, self.writer, tasks, designs)


class ThreadedRenderer:
    """An `AsyncRenderer`."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer, self._one = renderer, asyncio.Lock()

    async def about(self) -> dict[str, Any]:
        return {"name": self.renderer.name, "version": self.renderer.version, "px": self.renderer.px}

    async def render(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        async with self._one:
            return await asyncio.to_thread(render_files, self.renderer, jobs)


class ThreadedScorer:
    """A `ServedScorer` that is always ready and never busy."""

    def __init__(self, scorer: Scorer, markets: Sequence[str] = (), about: dict[str, Any] | None = None) -> None:
        self.scorer, self.markets, self._about = scorer, tuple(markets), about or {}
        self._one = asyncio.Lock()

    async def about(self) -> dict[str, Any]:
        return {"model": None, "knowledge_base": None} | self._about

    def ready(self) -> bool:
        return True

    def busy(self, tenant: str = "") -> float | None:
        return None

    async def score(self, request: ScoreRequest, /) -> list[Verdict]:
        async with self._one:
            (verdicts,) = await asyncio.to_thread(self.scorer.score, [request])
            return verdicts


def each_pair(request: ScoreRequest) -> list[PairRequest]:
    """A request's questions, in order, for scorers that answer them one by one."""
    return [
        PairRequest(
            product=request.product,
            image_a=request.creatives[a].image,
            image_b=request.creatives[b].image,
            market=market,
            as_of=request.as_of,
        )
        for market, a, b in request.questions()
    ]
