"""The client that is awaited: `Client` with another way of waiting."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import httpx2
import pandas as pd
from tenacity import AsyncRetrying

from countryreward.client import batch_calls as batches
from countryreward.client import generation_calls as generations
from countryreward.client import score_calls as questions
from countryreward.client.address import address, headers
from countryreward.client.attempts import Attempt
from countryreward.client.batch_handles import AsyncBatchHandle
from countryreward.client.calls import Call, Done, Pause, Replies, Reply, Round, Talk, advance
from countryreward.client.client_errors import Refused
from countryreward.client.generation_handles import AsyncGenerationHandle
from countryreward.client.request_forms import ImageLike
from countryreward.client.retrying import Budget, Patience, Retries
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.scoring.contracts import PairRequest, Product, Ranking, ScoreRequest, Verdict

T = TypeVar("T")


class AsyncClient:
    """`Client` to be awaited: `async with AsyncClient(url, key) as judge: await judge.score(...)`. The same errors."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        parallel: int = 4,
        evidence: int = 5,
        max_verdicts: int = 2_000,
    ) -> None:
        """url, key: default to COUNTRYREWARD_URL and COUNTRYREWARD_KEY.

        The options are those of `Client`.
        """
        self.url = address(url)
        self._http = httpx2.AsyncClient(base_url=self.url, headers=headers(key), follow_redirects=False)
        self._timeout_s, self._retries = timeout_s, retries or Retries()
        self._budget = Budget(self._retries, parallel)
        self._free = asyncio.Semaphore(parallel)
        self._evidence, self._max_verdicts = evidence, max_verdicts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def close(self) -> None:
        """Close the connections; the client cannot be used after it."""
        await self._http.aclose()

    async def about(self) -> dict[str, Any]:
        """Versions of the model and the knowledge base that answer."""
        (first, *_) = await self.models()
        return {"model": first.get("model"), "knowledge_base": first.get("knowledge_base")}

    @overload
    async def score(self, request: ScoreRequest | Sequence[PairRequest], /) -> list[Verdict]: ...

    @overload
    async def score(
        self,
        product: Product | str,
        image_a: ImageLike,
        image_b: ImageLike,
        *,
        markets: Sequence[str] | None = None,
    ) -> list[Verdict]: ...

    async def score(
        self,
        product: Product | str | ScoreRequest | Sequence[PairRequest],
        image_a: ImageLike | None = None,
        image_b: ImageLike | None = None,
        *,
        markets: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """One verdict per market (default: all of the training); of a `ScoreRequest`, in the order of its questions.

        Raises the error of the first call that is refused.
        """
        limits = {"evidence": self._evidence, "max_verdicts": self._max_verdicts}
        if isinstance(product, ScoreRequest):
            (verdicts,) = await self._run(questions.score_all([product], **limits))
            return verdicts
        if not isinstance(product, Product | str):
            return await self._run(questions.score_pairs(product, **limits))
        if image_a is None or image_b is None:
            raise UserError("image_a, image_b: give both images, as bytes or as the path of a file")
        return await self._run(questions.score_product(product, image_a, image_b, markets, **limits))

    async def rank(
        self, product: Product | str, images: Sequence[ImageLike], markets: Sequence[str] | None = None
    ) -> list[Ranking]:
        """Several images of one product, best first, per market (default: all of the training)."""
        return await self._run(questions.rank(product, images, markets, max_verdicts=self._max_verdicts))

    async def score_frame(
        self, pairs: pd.DataFrame, markets: Sequence[str] | None = None, *, progress: bool = True
    ) -> pd.DataFrame:
        """A table of pairs in, a table of answers out (scoring/frames.py). For more than some thousand rows use `batch`."""
        return await self._run(
            questions.score_frame(pairs, markets, progress=progress, evidence=0, max_verdicts=self._max_verdicts)
        )

    async def markets(self) -> dict[str, str]:
        """Code to name of the markets the service's model was trained on."""
        return await self._run(questions.known_markets())

    async def models(self) -> list[dict[str, Any]]:
        """Versions of what answers."""
        return await self._run(questions.models())

    async def batch(
        self,
        table: pd.DataFrame | str | Path,
        images: str | Path | None = None,
        *,
        markets: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncBatchHandle:
        """Send a table (DataFrame, .csv or .parquet) to be judged while you do something else.

        images: a zip, or a folder whose PNG, JPEG and WEBP files are sent; None: the table holds file bytes or URLs (in a
        DataFrame also `Path`s). idempotency_key: sending again with the same key gives the same job; None: a new one.
        """
        return AsyncBatchHandle(self._run, await self._run(batches.start(table, images, markets, idempotency_key)))

    async def batches(self) -> list[AsyncBatchHandle]:
        """All batch jobs of this key's tenant, newest first."""
        return [AsyncBatchHandle(self._run, job) for job in await self._run(batches.jobs())]

    async def open_batch(self, job_id: str) -> AsyncBatchHandle:
        """A batch job that was started before."""
        return AsyncBatchHandle(self._run, await self._run(batches.state(job_id)))

    async def generate(
        self,
        product: Product | str,
        image: ImageLike,
        *,
        markets: Sequence[str] | None = None,
        designs: Sequence[Design | str] = (),
        count: int | None = None,
        keep: int | None = None,
        seed: int = 0,
        px: int | None = None,
        steps: int | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncGenerationHandle:
        """Ask for ads of a product: image is its own picture, designs say how each ad is staged.

        markets: for which the ads are ranked, the best `keep` (4); None: nowhere. designs: none: `count` (8) are written for the
        markets, or drawn from the service's templates. seed: the same gives the same. px, steps: None: the renderer's own.
        idempotency_key: as of `batch`.
        """
        talk = generations.start(
            product,
            image,
            markets=markets,
            designs=designs,
            count=count,
            keep=keep,
            seed=seed,
            px=px,
            steps=steps,
            idempotency_key=idempotency_key,
        )
        return AsyncGenerationHandle(self._run, await self._run(talk))

    async def generations(self) -> list[AsyncGenerationHandle]:
        """All generation jobs of this key's tenant, newest first."""
        return [AsyncGenerationHandle(self._run, job) for job in await self._run(generations.jobs())]

    async def open_generation(self, job_id: str) -> AsyncGenerationHandle:
        """A generation job that was started before."""
        return AsyncGenerationHandle(self._run, await self._run(generations.state(job_id)))

    async def designs(self, count: int = 8, seed: int = 0) -> list[Design]:
        """Designs drawn from the service's templates."""
        return await self._run(generations.designs(count, seed))

    async def _run(self, talk: Talk[T]) -> T:
        replies: Replies | None = None
        try:
            while True:
                step = await asyncio.to_thread(advance, talk, replies)  # it reads image files
                if isinstance(step, Done):
                    return step.value
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                replies = await self._round(step) if isinstance(step, Round) else []
        finally:
            with contextlib.suppress(ValueError):  # cancelled while its thread runs: then it is closed when that ends
                talk.close()

    async def _round(self, asked: Round) -> Replies:
        flying = [asyncio.create_task(self._send(call, asked.keep_refusals)) for call in asked.calls]
        try:
            return [await task for task in flying]
        finally:
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)

    async def _send(self, call: Call, keep_refusals: bool) -> Reply | Refused:
        async with self._free:
            patience = Patience(call, self._retries, self._budget, self._timeout_s)
            try:
                return await AsyncRetrying(**patience.tenacity())(self._attempt, call, patience)
            except Refused as refused:
                if not keep_refusals:
                    raise
                return refused

    async def _attempt(self, call: Call, patience: Patience) -> Reply:
        with Attempt(call, patience) as attempt:
            response = await self._http.send(self._http.build_request(**attempt.request()), stream=True)
            try:
                attempt.answered(response)
                async for chunk in response.aiter_bytes():
                    attempt.take(chunk)
            finally:
                await response.aclose()
            return attempt.reply(response)
