"""The service as an `AsyncScorer`: questions, tables, batch jobs and ads over HTTP."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import pandas as pd

from countryreward import markets as countries
from countryreward.api import schemas
from countryreward.client.client_errors import BadAnswer, Refused
from countryreward.client.connection import Call, Connection, Reply, all_results
from countryreward.client.job_handles import (
    BATCHES,
    GENERATIONS,
    AsyncBatchHandle,
    AsyncGenerationHandle,
    job_path,
)
from countryreward.client.request_forms import (
    Fields,
    ImageLike,
    as_product,
    batch_upload,
    copies_field,
    copy_fields,
    idempotency_header,
    known_field,
    market_codes,
    product_fields,
    read_images,
)
from countryreward.client.retrying import RetryPolicy
from countryreward.data.design import Design
from countryreward.data.market_table import as_market
from countryreward.errors import UserError
from countryreward.progress import bar
from countryreward.scoring.contracts import (
    Copy,
    PairRequest,
    Product,
    Ranking,
    ScoreRequest,
    Verdict,
    merge_pairs,
    words_of,
)
from countryreward.scoring.frames import FrameRequests

T = TypeVar("T")
FRAME_ROWS = 64
"""Rows of a frame whose images are held in memory at a time."""


class AsyncClient:
    """The service, to be awaited: `async with AsyncClient(url, key) as judge: await judge.score(request)`.

    Raises `Refused` for what the service does not accept, `NotAllowed` for the key (both `UserError`), `Unavailable` when it
    gave up, `BadAnswer` when the answer is not the service's.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: RetryPolicy | None = None,
        parallel: int = 4,
        evidence: int = 5,
        max_verdicts: int = 2_000,
    ) -> None:
        """url, key: default to COUNTRYREWARD_URL and COUNTRYREWARD_KEY.

        timeout_s: for each wait of one attempt. parallel: calls in flight. evidence: past ads shown per verdict of `score`,
        where a request does not say it. max_verdicts: in one call, as the service has it.
        """
        self._connection = Connection(url, key, timeout_s=timeout_s, retries=retries, parallel=parallel)
        self.url = self._connection.url
        self.slots_of_their_own = self._connection.slots_of_their_own
        self._evidence, self._max_verdicts = evidence, max_verdicts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def close(self) -> None:
        """Close the connections; the client cannot be used after it."""
        await self._connection.close()

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
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict]: ...

    async def score(
        self,
        product: Product | str | ScoreRequest | Sequence[PairRequest],
        image_a: ImageLike | None = None,
        image_b: ImageLike | None = None,
        *,
        markets: Sequence[str] | None = None,
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict]:
        """One verdict per market (default: all of the training); of a `ScoreRequest`, in the order of its questions.

        copies: the words of ad A and of ad B. Raises the error of the first call that is refused.
        """
        if isinstance(product, ScoreRequest):
            (verdicts,) = await self.score_all([product])
            return verdicts
        if not isinstance(product, Product | str):
            await self._learn([pair.market for pair in product if isinstance(pair, PairRequest)])
            requests, places = merge_pairs(product)
            answers = await self.score_all(requests)
            return [answers[request][place] for request, place in places]
        if image_a is None or image_b is None:
            raise UserError("image_a, image_b: give both images, as bytes or as the path of a file")
        return await self.score_product(product, image_a, image_b, markets, copies)

    async def score_all(self, requests: Sequence[ScoreRequest]) -> list[list[Verdict]]:
        """The verdicts of every request, each in the order of its questions, with the calls of all of them in parallel.

        Nothing is sent when one of them cannot be. Raises the error of the first call that is refused.
        """
        asked = [(*request.markets, *(result.market for result in request.known)) for request in requests]
        await self._learn([market for markets in asked for market in markets])
        calls = [self._score_calls(request, self._evidence) for request in requests]
        return await all_results(self._send_score(request_calls) for request_calls in calls)

    async def score_product(
        self,
        product: Product | str,
        image_a: ImageLike,
        image_b: ImageLike,
        markets: Sequence[str] | None = None,
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict]:
        """One verdict per market; None: all that the service's model was trained on. copies: the words of A and of B."""
        product = as_product(product)
        a, b = await read_images([(image_a, "image_a"), (image_b, "image_b")])
        if markets is None:
            fields = product_fields(product, evidence=self._evidence)
            for copy, side in zip(words_of((a, b), copies), "ab", strict=True):
                fields |= copy_fields(copy, side)
            reply = await self._connection.send(_score_call(fields, a, b, patient=False))
            return reply.parse(schemas.ScoreAnswer).verdicts
        codes = await self._codes(markets)
        request = ScoreRequest.of_ads(product, (a, b), copies, markets=tuple(dict.fromkeys(codes)))
        (verdicts,) = await self.score_all([request])
        of_market = {verdict.market: verdict for verdict in verdicts}
        return [of_market[code] for code in codes]

    async def rank(
        self,
        product: Product | str,
        images: Sequence[ImageLike],
        markets: Sequence[str] | None = None,
        *,
        copies: Sequence[Copy | None] | None = None,
    ) -> list[Ranking]:
        """Several images of one product, best first, per market (default: all of the training). copies: the words of each."""
        if not images:
            raise UserError("images: the list is empty; give at least one image")
        fields = product_fields(as_product(product)) | copies_field(words_of(images, copies))
        contents = await read_images([(image, f"images[{n}]") for n, image in enumerate(images)])
        files = tuple(("images", f"image_{n}", content) for n, content in enumerate(contents))
        codes = list(await self.markets()) if markets is None else await self._codes(markets)
        pairs = len(images) * (len(images) - 1) // 2
        chunks = _chunks(list(dict.fromkeys(codes)), max(1, self._max_verdicts // max(1, pairs)))
        replies = await self._connection.send_all(
            [
                Call(method="POST", path="v1/rank", fields=fields | {"markets": list(chunk)}, files=files)
                for chunk in chunks
            ]
        )
        of_market: dict[str, Ranking] = {}
        for chunk, reply in zip(chunks, replies, strict=True):
            rankings = reply.parse(schemas.RankAnswer).rankings
            _check_markets([ranking.market for ranking in rankings], chunk, reply)
            of_market |= {ranking.market: ranking for ranking in rankings}
        return [of_market[code] for code in codes]

    async def score_frame(
        self, pairs: pd.DataFrame, markets: Sequence[str] | None = None, *, progress: bool = True
    ) -> pd.DataFrame:
        """A table of pairs in, a table of answers out, with the columns that `scoring.frames.score_frame` names.

        A row that is refused says so and the others are answered. For more than some thousand rows use `batch`.
        """
        await self._learn([market for market in (markets or pairs.get("market", ())) if isinstance(market, str)])
        requests = FrameRequests(pairs, markets)
        batches = requests.batches(FRAME_ROWS * max(1, len(markets or ())))
        with bar("rows scored") if progress else contextlib.nullcontext() as show:
            while batch := await asyncio.to_thread(next, batches, None):  # it reads image files
                requests.take(await all_results(self._score_row(request) for request in batch))
                if show:
                    show(requests.rows, len(pairs))
        return requests.frame()

    async def markets(self) -> dict[str, str]:
        """Code to name of the markets the service's model was trained on. Those that are no countries are known from then on."""
        answer = await self._connection.get("v1/markets", schemas.MarketsAnswer)
        countries.define((as_market(market.model_dump()) for market in answer.defined), replace=True)
        return {market.code: market.name for market in answer.markets}

    async def _learn(self, spellings: Sequence[str]) -> None:
        """Ask the service for its own markets where one of these is no country."""
        if any(countries.parse(spelling) is None for spelling in dict.fromkeys(spellings)):
            await self.markets()

    async def _codes(self, markets: Sequence[str]) -> list[str]:
        """Raises `UserError` for what is no market."""
        await self._learn(() if isinstance(markets, str) else markets)
        return market_codes(markets)

    async def models(self) -> list[dict[str, Any]]:
        """Versions of what answers."""
        return (await self._connection.get("v1/models", schemas.ModelsAnswer)).models

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
        headers = idempotency_header(idempotency_key)
        codes = [] if markets is None else await self._codes(markets)
        fields: Fields = {"markets": codes} if codes else {}
        async with batch_upload(table, images) as files:
            call = Call(method="POST", path=BATCHES, fields=fields, files=files, headers=headers, patient=True)
            job = (await self._connection.send(call)).parse(schemas.BatchAnswer).job
        return AsyncBatchHandle(self._connection, job)

    async def batches(self) -> list[AsyncBatchHandle]:
        """All batch jobs of this key's tenant, newest first."""
        answer = await self._connection.get(BATCHES, schemas.BatchesAnswer)
        return [AsyncBatchHandle(self._connection, job) for job in answer.jobs]

    async def open_batch(self, job_id: str) -> AsyncBatchHandle:
        """A batch job that was started before."""
        answer = await self._connection.get(job_path(BATCHES, job_id), schemas.BatchAnswer)
        return AsyncBatchHandle(self._connection, answer.job)

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
        idempotency_key: sending again with the same key gives the same job; None: a new one.
        """
        headers = idempotency_header(idempotency_key)
        numbers = {"count": count, "keep": keep, "seed": seed, "px": px, "steps": steps}
        fields = product_fields(as_product(product))
        fields |= {name: str(value) for name, value in numbers.items() if value is not None}
        fields |= {"markets": await self._codes(markets)} if markets else {}
        fields |= {"design": [_design_field(design) for design in designs]} if designs else {}
        (content,) = await read_images([(image, "image")])
        files = (("image", "image", content),)
        call = Call(method="POST", path=GENERATIONS, fields=fields, files=files, headers=headers)
        job = (await self._connection.send(call)).parse(schemas.GenerationAnswer).job
        return AsyncGenerationHandle(self._connection, job)

    async def generations(self) -> list[AsyncGenerationHandle]:
        """All generation jobs of this key's tenant, newest first."""
        answer = await self._connection.get(GENERATIONS, schemas.GenerationsAnswer)
        return [AsyncGenerationHandle(self._connection, job) for job in answer.jobs]

    async def open_generation(self, job_id: str) -> AsyncGenerationHandle:
        """A generation job that was started before."""
        answer = await self._connection.get(job_path(GENERATIONS, job_id), schemas.GenerationAnswer)
        return AsyncGenerationHandle(self._connection, answer.job)

    async def designs(self, count: int = 8, seed: int = 0) -> list[Design]:
        """Designs drawn from the service's templates."""
        query = {"count": str(count), "seed": str(seed)}
        answer = await self._connection.get(f"{GENERATIONS}/designs", schemas.DesignsAnswer, query)
        try:
            return [fields.design() for fields in answer.designs]
        except UserError:
            message = "designs: the service answered a design with an empty field"
            raise BadAnswer(message, request_id=answer.request_id) from None

    async def _score_row(self, request: ScoreRequest) -> list[Verdict] | UserError:
        """The verdicts of one row of a frame, without evidence, or why it is refused. Raises `NotAllowed`."""
        try:
            calls = self._score_calls(replace(request, urgent=False), 0)
        except UserError as error:
            return error
        try:
            return await self._send_score(calls)
        except Refused as refusal:
            return refusal

    def _score_calls(self, request: ScoreRequest, evidence: int) -> list[tuple[Call, list[int]]]:
        """The calls of a request: one per pair and `max_verdicts` of its markets, each with the places of its verdicts.

        evidence: where the request asks for all of it. Raises `UserError` for what cannot be sent.
        """
        codes = request.market_codes()
        evidence = evidence if request.evidence is None else request.evidence
        fields = product_fields(request.product, as_of=request.as_of, evidence=evidence)
        calls: list[tuple[Call, list[int]]] = []
        for column, (a, b) in enumerate(request.pairs):
            pair = request.creatives[a], request.creatives[b]
            images = pair[0].image, pair[1].image
            words = copy_fields(pair[0].copy, "a") | copy_fields(pair[1].copy, "b")
            known = [replace(result, pair=(0, 1)) for result in request.known_of(a, b)]
            for rows in _chunks(range(len(codes)), self._max_verdicts):
                markets: Fields = {"markets": [codes[row] for row in rows]}
                places = [row * len(request.pairs) + column for row in rows]
                asked = fields | words | known_field(known) | markets
                calls.append((_score_call(asked, *images, patient=not request.urgent), places))
        return calls

    async def _send_score(self, calls: Sequence[tuple[Call, list[int]]]) -> list[Verdict]:
        replies = await self._connection.send_all([call for call, _ in calls])
        of_place: dict[int, Verdict] = {}
        for (call, places), reply in zip(calls, replies, strict=True):
            verdicts = reply.parse(schemas.ScoreAnswer).verdicts
            _check_markets([verdict.market for verdict in verdicts], call.fields["markets"], reply)
            if "known" in call.fields:  # a service of the release before takes no notice of it, and does not say so
                verdicts = [replace(verdict, known_used=bool(verdict.known_used)) for verdict in verdicts]
            of_place |= zip(places, verdicts, strict=True)
        return [of_place[place] for place in range(len(of_place))]


def _score_call(fields: Fields, image_a: bytes, image_b: bytes, *, patient: bool) -> Call:
    files = ("image_a", "image_a", image_a), ("image_b", "image_b", image_b)
    return Call(method="POST", path="v1/score", fields=fields, files=files, patient=patient)


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _check_markets(answered: Sequence[str], asked: Sequence[str], reply: Reply) -> None:
    """Raises `BadAnswer` unless the service answered the markets that it was asked for, in that order."""
    if list(answered) != list(asked):
        raise BadAnswer(
            f"markets: the service answered {len(answered)} markets that are not the {len(asked)} asked",
            request_id=reply.request_id,
        )


def _design_field(design: Design | str) -> str:
    """A design's fields as JSON, which holds any text. Raises `UserError` for a text that is no design."""
    return json.dumps(asdict(Design.parse(design) if isinstance(design, str) else design), ensure_ascii=False)
