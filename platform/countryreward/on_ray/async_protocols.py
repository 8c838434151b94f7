"""What the pair-making loop asks: writers, renderers and scorers that are awaited, and those of this process as such."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from countryreward.generation.ad_contracts import DesignWriter, Refusal, RenderedFile, Renderer, RenderJob
from countryreward.generation.outcomes import Outcome
from countryreward.generation.preference_pairs import DesignedTask, propose
from countryreward.generation.render_files import render_files
from countryreward.generation.tasks import AdTask
from countryreward.scoring.contracts import PairRequest, Scorer, Verdict


class AsyncWriter(Protocol):
    """Writers, of one version."""

    async def version(self) -> str:
        """See `DesignWriter`."""
        ...

    async def propose(self, tasks: Sequence[AdTask], designs: int) -> list[DesignedTask | Outcome]:
        """As `generation.pairs.propose`."""
        ...


class AsyncRenderer(Protocol):
    """A renderer that answers with files."""

    async def about(self) -> dict[str, Any]:
        """name, version, px."""
        ...

    async def render(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        """As `render_files`."""
        ...


class AwaitedScorer(Protocol):
    """A scorer. `score` raises `UserError` for what is wrong with a request."""

    async def about(self) -> dict[str, Any]:
        """model, knowledge_base: versions, or None."""
        ...

    async def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]:
        """One verdict per request, in order."""
        ...


class LocalWriter:
    """A writer of this process."""

    def __init__(self, writer: DesignWriter) -> None:
        self.writer, self._one = writer, asyncio.Lock()

    async def version(self) -> str:
        """See `AsyncWriter`."""
        return self.writer.version

    async def propose(self, tasks: Sequence[AdTask], designs: int) -> list[DesignedTask | Outcome]:
        """See `AsyncWriter`. One call at a time, in a thread."""
        async with self._one:
            return await asyncio.to_thread(propose, self.writer, tasks, designs)


class LocalRenderer:
    """A renderer of this process."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer, self._one = renderer, asyncio.Lock()

    async def about(self) -> dict[str, Any]:
        """See `AsyncRenderer`."""
        return {"name": self.renderer.name, "version": self.renderer.version, "px": self.renderer.px}

    async def render(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        """See `AsyncRenderer`. One call at a time, in a thread."""
        async with self._one:
            return await asyncio.to_thread(render_files, self.renderer, jobs)


class LocalScorer:
    """A scorer of this process."""

    def __init__(self, scorer: Scorer, about: dict[str, Any] | None = None) -> None:
        self.scorer, self._about, self._one = scorer, about or {}, asyncio.Lock()

    async def about(self) -> dict[str, Any]:
        """See `AwaitedScorer`."""
        return {"model": None, "knowledge_base": None} | self._about

    async def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]:
        """See `AwaitedScorer`. One call at a time, in a thread."""
        async with self._one:
            return await asyncio.to_thread(self.scorer.score, requests)
