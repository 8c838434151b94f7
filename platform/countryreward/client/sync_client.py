"""The service as a `Scorer`, and its jobs, for code that blocks: every call runs in an `AsyncClient` in a thread of its own."""

import functools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import pandas as pd
from anyio.from_thread import BlockingPortal, start_blocking_portal

from countryreward.api.schemas import BatchJob, GenerationJob
from countryreward.client.async_client import AsyncClient
from countryreward.client.job_handles import AsyncBatchHandle, AsyncGenerationHandle, AsyncJobHandle, JobT
from countryreward.client.request_forms import ImageLike
from countryreward.client.retrying import RetryPolicy
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.scoring.contracts import Copy, PairRequest, Product, Ranking, ScoreRequest, Verdict, answer_either

P = ParamSpec("P")
T = TypeVar("T")


class ClientThread:
    """One thread with an event loop, in which the calls of all other threads run.

    It ends when it is closed, when neither a client nor a handle refers to it any more, or with the process.
    """

    def __init__(self, client: AsyncClient) -> None:
        portal_context = start_blocking_portal("asyncio", name="countryreward-client")
        self._portal, self._process = portal_context.__enter__(), os.getpid()
        self._own_slots = client.slots_of_their_own
        self._end = weakref.finalize(self, _end_forgotten, self._process, portal_context, self._portal, client)

    def run(self, function: Callable[P, Coroutine[Any, Any, T]], /, *arguments: P.args, **options: P.kwargs) -> T:
        """What the function comes to. Ctrl-C in the calling thread cancels it."""
        if not self._end.alive:
            raise RuntimeError("the client is closed; make another one")
        if self._process != os.getpid():  # a fork has the client, but not its thread
            raise RuntimeError("the client is of another process; make one in this process")
        call = self._portal.start_task_soon(functools.partial(self._own_slots, function, *arguments, **options))
        try:
            return call.result()
        except CancelledError:
            raise RuntimeError("the client was closed while this call ran") from None
        finally:
            call.cancel()  # does nothing to one that has ended
            del call  # its error refers to this frame

    def close(self) -> None:
        """Cancel what runs, close the connections and wait until the thread has ended."""
        if finalizer := self._end.detach():
            _, _, (process, *arguments), _ = finalizer
            if process == os.getpid():
                _end(*arguments)


def _end(portal_context: AbstractContextManager[BlockingPortal], portal: BlockingPortal, client: AsyncClient) -> None:
    portal.call(client.close)
    portal.call(portal.stop, True)
    portal_context.__exit__(None, None, None)


def _end_forgotten(process: int, *arguments: Any) -> None:
    """Called by the garbage collector, in any thread and even in the one that is to end, or at the end of the process."""
    if process != os.getpid():
        return
    if threading.main_thread().is_alive():
        threading.Thread(target=_end, args=arguments, daemon=True).start()
    else:  # the process ends: what still runs when the interpreter goes would never give up its locks
        _end(*arguments)


class _JobHandle(Generic[JobT]):
    def __init__(self, thread: ClientThread, handle: AsyncJobHandle[JobT]) -> None:
        self._run, self._handle = thread.run, handle

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.job.state!r})"

    @property
    def job(self) -> JobT:
        """The service's last answer about it."""
        return self._handle.job

    @property
    def id(self) -> str:
        """For `open_batch` or `open_generation` of a client, also in another run."""
        return self._handle.id

    def state(self) -> JobT:
        """The job as it is now."""
        return self._run(self._handle.state)

    def wait(self, *, progress: bool = True, poll_s: float | None = None) -> JobT:
        """Until it is done, asked every `poll_s` seconds. Raises `UserError` when it failed or was cancelled.

        After `Unavailable` the job goes on: wait again. progress: show a bar. poll_s: None: 2 for a batch, 1 for ads.
        """
        return self._run(self._handle.wait, progress=progress, poll_s=poll_s)

    def cancel(self) -> None:
        """Stop it. The service deletes what was sent and what came of it."""
        self._run(self._handle.cancel)

    def delete(self) -> None:
        """The same as `cancel`, for a job that is done."""
        self._run(self._handle.delete)


class BatchHandle(_JobHandle[BatchJob]):
    """A table that the service judges. `job` is the service's last answer about it."""

    _handle: AsyncBatchHandle

    def verdicts(self) -> pd.DataFrame:
        """One row per good row and market, in the table's order, with the columns that docs/scoring.md lists."""
        return self._run(self._handle.verdicts)

    def quarantine(self) -> pd.DataFrame:
        """The rows that were refused: reason, field, value, way out."""
        return self._run(self._handle.quarantine)


class GenerationHandle(_JobHandle[GenerationJob]):
    """Ads that the service makes. `job` is the service's last answer: its images, rankings, refused, position."""

    _handle: AsyncGenerationHandle

    def image(self, n: int) -> bytes:
        """Image n as a PNG file, as soon as it is made. Raises `Refused` before."""
        return self._run(self._handle.image, n)

    def save(self, folder: str | Path) -> list[Path]:
        """All images that `job` lists, as files ID-N.png of a folder, which is made if need be."""
        return self._run(self._handle.save, folder)


class Client:
    """The service as a Scorer: `with Client(url, key) as judge: judge.score("Oak desk lamp", "a.jpg", "b.jpg", markets=["KR"])`.

    Any number of threads may share one. Raises `Refused` for what the service does not accept, `NotAllowed` for the key (both
    `UserError`), `Unavailable` when it gave up, `BadAnswer` when the answer is not the service's.
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
        self._client = AsyncClient(
            url,
            key,
            timeout_s=timeout_s,
            retries=retries,
            parallel=parallel,
            evidence=evidence,
            max_verdicts=max_verdicts,
        )
        self.url = self._client.url
        self._thread = ClientThread(self._client)
        self._run = self._thread.run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def close(self) -> None:
        """Cancel what runs and close the connections; the client and its handles cannot be used after it."""
        self._thread.close()

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
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict]: ...

    def score(
        self,
        product: Product | str | Sequence[ScoreRequest] | Sequence[PairRequest],
        image_a: ImageLike | None = None,
        image_b: ImageLike | None = None,
        *,
        markets: Sequence[str] | None = None,
        copies: Sequence[Copy | None] = (None, None),
    ) -> list[Verdict] | list[list[Verdict]]:
        """One verdict per market (default: all of the training); of requests, the verdicts of each in the order of its questions.

        copies: the words of ad A and of ad B. Raises the error of the first call that is refused.
        """
        if not isinstance(product, Product | str):
            return answer_either(product, functools.partial(self._run, self._client.score_all))
        if image_a is None or image_b is None:
            raise UserError("image_a, image_b: give both images, as bytes or as the path of a file")
        return self._run(self._client.score_product, product, image_a, image_b, markets, copies)

    def rank(
        self,
        product: Product | str,
        images: Sequence[ImageLike],
        markets: Sequence[str] | None = None,
        *,
        copies: Sequence[Copy | None] | None = None,
    ) -> list[Ranking]:
        """Several images of one product, best first, per market (default: all of the training). copies: the words of each."""
        return self._run(self._client.rank, product, images, markets, copies=copies)

    def score_frame(
        self, pairs: pd.DataFrame, markets: Sequence[str] | None = None, *, progress: bool = True
    ) -> pd.DataFrame:
        """A table of pairs in, a table of answers out, with the columns that `scoring.frames.score_frame` names.

        A row that is refused says so and the others are answered. For more than some thousand rows use `batch`.
        """
        return self._run(self._client.score_frame, pairs, markets, progress=progress)

    def markets(self) -> dict[str, str]:
        """Code to name of the markets the service's model was trained on."""
        return self._run(self._client.markets)

    def models(self) -> list[dict[str, Any]]:
        """Versions of what answers."""
        return self._run(self._client.models)

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
        options = {"markets": markets, "idempotency_key": idempotency_key}
        return BatchHandle(self._thread, self._run(self._client.batch, table, images, **options))

    def batches(self) -> list[BatchHandle]:
        """All batch jobs of this key's tenant, newest first."""
        return [BatchHandle(self._thread, handle) for handle in self._run(self._client.batches)]

    def open_batch(self, job_id: str) -> BatchHandle:
        """A batch job that was started before."""
        return BatchHandle(self._thread, self._run(self._client.open_batch, job_id))

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
        idempotency_key: sending again with the same key gives the same job; None: a new one.
        """
        handle = self._run(
            self._client.generate,
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
        return GenerationHandle(self._thread, handle)

    def generations(self) -> list[GenerationHandle]:
        """All generation jobs of this key's tenant, newest first."""
        return [GenerationHandle(self._thread, handle) for handle in self._run(self._client.generations)]

    def open_generation(self, job_id: str) -> GenerationHandle:
        """A generation job that was started before."""
        return GenerationHandle(self._thread, self._run(self._client.open_generation, job_id))

    def designs(self, count: int = 8, seed: int = 0) -> list[Design]:
        """Designs drawn from the service's templates."""
        return self._run(self._client.designs, count, seed)
