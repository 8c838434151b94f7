"""The generator service as the renderer of the pair-making loop (an `AsyncRenderer` of `generation/ad_maker.py`)."""

import asyncio
import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from countryreward.client.async_client import AsyncClient
from countryreward.client.client_errors import NotAllowed, Refused, Unavailable
from countryreward.client.job_handles import AsyncGenerationHandle
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Fidelity, Refusal, RenderedFile, RenderJob
from countryreward.scoring.contracts import Product


class ClientRenderer:
    """The generator at the end of a client: an `AsyncRenderer`. One generation job per ad, removed when the ad is here.

    A job that is asked for again while the service still has it is not made again. at_once: jobs that wait or run there, no more
    than the service's `max_generations`.
    """

    def __init__(self, client: AsyncClient, *, at_once: int = 8, poll_s: float = 0.2) -> None:
        self.client, self.poll_s, self._slots = client, poll_s, asyncio.Semaphore(at_once)

    async def about(self) -> dict[str, Any]:
        """Its name, version and px, as a first ad says them, which is made of a grey picture."""
        (design,) = await self.client.designs(1)
        grey = _png(np.full((64, 64, 3), 128, np.uint8))
        ad = await self._make("Plain box", grey, {"designs": [design]})
        if isinstance(ad, Refusal):
            raise UserError(f"generator: it does not make a first ad ({ad.reason}); look at its log")
        return {"name": ad.made.get("renderer"), "version": ad.made.get("version"), "px": ad.made.get("px")}

    async def render(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        """The ad of every job, or why there is none. Raises `NotAllowed`, `Unavailable`, `BadAnswer`."""
        return list(await asyncio.gather(*(self._render(job) for job in jobs)))

    async def _render(self, job: RenderJob) -> RenderedFile | Refusal:
        options = {"designs": [job.design], "seed": job.seed, "px": job.px, "steps": job.steps}
        ad = await self._make(job.product, await asyncio.to_thread(_png, job.image), options)
        if isinstance(ad, RenderedFile):  # what was sent is a file of its own; the ad was made from the same pixels
            ad.made["image_hash"] = job.image_hash
        return ad

    async def _make(self, product: Product | str, picture: bytes, options: dict[str, Any]) -> RenderedFile | Refusal:
        async with self._slots:
            try:
                handle = await self.client.generate(product, picture, **options)
            except NotAllowed:
                raise
            except UserError as error:
                return Refusal(reason=str(error))
            try:
                return await self._fetch(handle)
            except Refused as error:  # the service has it no more
                raise Unavailable(f"generation {handle.id}: it is gone ({error})") from None

    async def _fetch(self, handle: AsyncGenerationHandle) -> RenderedFile | Refusal:
        while (job := await handle.state()).state in ("waiting", "running"):
            await asyncio.sleep(self.poll_s)
        if job.state != "done" and not job.error:
            raise Unavailable(f"generation {handle.id}: it is {job.state}")
        if job.images:
            (image,) = job.images
            png = await handle.image(image.n)
            result = RenderedFile(
                png=png,
                sha256=image.sha256,
                fidelity=Fidelity(**image.fidelity.model_dump()),
                made={"px": image.px} | image.made,
            )
        else:
            result = Refusal(reason=job.refused[0].reason if job.refused else str(job.error))
        with contextlib.suppress(Refused, Unavailable):  # it goes by itself after some days
            await handle.delete()
        return result


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
