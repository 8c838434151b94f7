"""The client that blocks. Any number of threads may share one."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import httpx2
import pandas as pd
from tenacity import Retrying

from countryreward.client import batch_calls as batches
from countryreward.client import generation_calls as generations
from countryreward.client import score_calls as questions
from countryreward.client.address import address, headers
from countryreward.client.attempts import Attempt
from countryreward.client.batch_handles import BatchHandle
from countryreward.client.calls import Call, Done, Pause, Replies, Reply, Round, Talk, advance
from countryreward.client.client_errors import Refused
from countryreward.client.generation_handles import GenerationHandle
from countryreward.client.request_forms import ImageLike
from countryreward.client.retrying import Budget, Patience, Retries
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.scoring.contracts import PairRequest, Product, Ranking, ScoreRequest, Verdict

T = TypeVar("T")


class Client:
    """The service as a Scorer: `with Client(url, key) as judge: judge.score("Oak desk lamp", "a.jpg", "b.jpg", markets=["KR"])`.

    Raises `Refused` for what the service does not accept, `NotAllowed` for the key (both `UserError`), `Unavailable` when it
    gave up, `BadAnswer` when the answer is not the service's.
    """

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

        timeout_s: for each wait of one attempt. parallel: calls in flight. evidence: past ads shown per verdict of `score`.
        max_verdicts: in one call, as the service has it.
        """
        self.url = address(url)
        self._http = httpx2.Client(base_url=self.url, headers=headers(key), follow_redirects=False)
        self._timeout_s, self._retries = timeout_s, retries or Retries()
        self._budget = Budget(self._retries, parallel)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="countryreward-client")
        self._evidence, self._max_verdicts = evidence, max_verdicts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Close the connections; the client cannot be used after it."""
        self._threads.shutdown(cancel_futures=True)
        self._http.close()

    @overload
    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]: ...

    @overload
    def score(self, requests: Sequence[PairRequest], /) -> list[Verdict]: ...

    @overload
    def score(
        self,
        product: Product | str,
        image_a: ImageLike,
        image_b: ImageLike,
        *,
        markets: Sequence[str] | None = None,
    ) -> list[Verdict]: ...

    def score(
        self,
        product: Product | str | Sequence[ScoreRequest] | Sequence[PairRequest],
        image_a: ImageLike | None = None,
        image_b: ImageLike | None = None,
        *,
        markets: Sequence[str] | None = None,
    ) -> list[Verdict] | list[list[Verdict]]:
        """One verdict per market (default: all of the training); of requests, the verdicts of each in the order of its questions.

        Raises the error of the first call that is refused.
        """
        limits = {"evidence": self._evidence, "max_verdicts": self._max_verdicts}
        if not isinstance(product, Product | str):
            pairs = [request for request in product if isinstance(request, PairRequest)]
            if pairs:
                return self._run(questions.score_pairs(pairs, **limits))
            requests = [request for request in product if isinstance(request, ScoreRequest)]
            return self._run(questions.score_all(requests, **limits))
        if image_a is None or image_b is None:
            raise UserError("image_a, image_b: give both images, as bytes or as the path of a file")
        return self._run(questions.score_product(product, image_a, image_b, markets, **limits))

    def rank(
        self, product: Product | str, images: Sequence[ImageLike], markets: Sequence[str] | None = None
    ) -> list[Ranking]:
        """Several images of one product, best first, per market (default: all of the training)."""
        return self._run(questions.rank(product, images, markets, max_verdicts=self._max_verdicts))

    def score_frame(
        self, pairs: pd.DataFrame, markets: Sequence[str] | None = None, *, progress: bool = True
    ) -> pd.DataFrame:
        """A table of pairs in, a table of answers out (scoring/frames.py). For more than some thousand rows use `batch`."""
        return self._run(
            questions.score_frame(pairs, markets, progress=progress, evidence=0, max_verdicts=self._max_verdicts)
        )

    def markets(self) -> dict[str, str]:
        """Code to name of the markets the service's model was trained on."""
        return self._run(questions.known_markets())

    def models(self) -> list[dict[str, Any]]:
        """Versions of what answers."""
        return self._run(questions.models())

    def batch(
        self,
        table: pd.DataFrame | str | Path,
        images: str | Path | None = None,
        *,
        markets: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> BatchHandle:
        """Send a table (DataFrame, .csv or .parquet) to be judged while you do something else.

        images: a zip, or a folder whose PNG, JPEG and WEBP files are sent; None: the table holds file bytes or URLs (in a
        DataFrame also `Path`s). idempotency_key: sending again with the same key gives the same job; None: a new one.
        """
        return BatchHandle(self._run, self._run(batches.start(table, images, markets, idempotency_key)))

    def batches(self) -> list[BatchHandle]:
        """All batch jobs of this key's tenant, newest first."""
        return [BatchHandle(self._run, job) for job in self._run(batches.jobs())]

    def open_batch(self, job_id: str) -> BatchHandle:
        """A batch job that was started before."""
        return BatchHandle(self._run, self._run(batches.state(job_id)))

    def generate(
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
    ) -> GenerationHandle:
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
        return GenerationHandle(self._run, self._run(talk))

    def generations(self) -> list[GenerationHandle]:
        """All generation jobs of this key's tenant, newest first."""
        return [GenerationHandle(self._run, job) for job in self._run(generations.jobs())]

    def open_generation(self, job_id: str) -> GenerationHandle:
        """A generation job that was started before."""
        return GenerationHandle(self._run, self._run(generations.state(job_id)))

    def designs(self, count: int = 8, seed: int = 0) -> list[Design]:
        """Designs drawn from the service's templates."""
        return self._run(generations.designs(count, seed))

    def _run(self, talk: Talk[T]) -> T:
        replies: Replies | None = None
        try:
            while True:
                step = advance(talk, replies)
                if isinstance(step, Done):
                    return step.value
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                replies = self._round(step) if isinstance(step, Round) else []
        finally:
            talk.close()  # temporary files of an upload

    def _round(self, asked: Round) -> Replies:
        if len(asked.calls) == 1:
            return [self._send(asked.calls[0], asked.keep_refusals)]
        flying = [self._threads.submit(self._send, call, asked.keep_refusals) for call in asked.calls]
        try:
            return [future.result() for future in flying]
        finally:
            for future in flying:
                future.cancel()

    def _send(self, call: Call, keep_refusals: bool) -> Reply | Refused:
        patience = Patience(call, self._retries, self._budget, self._timeout_s)
        try:
            return Retrying(**patience.tenacity())(self._attempt, call, patience)
        except Refused as refused:
            if not keep_refusals:
                raise
            return refused

    def _attempt(self, call: Call, patience: Patience) -> Reply:
        with Attempt(call, patience) as attempt:
            response = self._http.send(self._http.build_request(**attempt.request()), stream=True)
            try:
                attempt.answered(response)
                for chunk in response.iter_bytes():
                    attempt.take(chunk)
            finally:
                response.close()
            return attempt.reply(response)
