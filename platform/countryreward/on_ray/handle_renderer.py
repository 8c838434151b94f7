"""A renderer over a Serve handle: the generator's replicas on the same Ray, without HTTP and without a key."""

from collections.abc import Sequence
from typing import Any

from countryreward.generation.ad_contracts import Refusal, RenderedFile, RenderJob


class HandleRenderer:
    """`HandleRenderer(serve.get_app_handle("generator"))`: an `AsyncRenderer`. Raises what Ray raises for a dead replica."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def about(self) -> dict[str, Any]:
        """See `AsyncRenderer`."""
        return await self.handle.about_renderer.remote()

    async def render(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        """See `AsyncRenderer`."""
        return await self.handle.render.remote(list(jobs))
