"""What the pair-making loop asks beside an `AsyncScorer`: writers and renderers that are awaited."""

from collections.abc import Sequence
from typing import Any, Protocol

from countryreward.generation.ad_contracts import Refusal, RenderedFile, RenderJob
from countryreward.generation.outcomes import Outcome
from countryreward.generation.preference_pairs import DesignedTask
from countryreward.generation.tasks import AdTask


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
