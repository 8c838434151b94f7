"""Scorers and renderers over a Serve handle: what runs on the same Ray asks the replicas without HTTP and without a key."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ray.serve.exceptions import BackPressureError

from countryreward import markets
from countryreward.data.market_table import as_market
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Refusal, RenderedFile, RenderJob
from countryreward.scoring.contracts import ScoreRequest, Verdict
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.request_log import fault


class HandleScorer:
    """`HandleScorer(serve.get_app_handle("reward"))`: an `AsyncScorer`. Nothing is asked again: it raises what Ray raises for a
    replica that died or has no room."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def about(self) -> dict[str, Any]:
        """Versions of model and knowledge base, and the markets, of whichever replica answers."""
        return await self.handle.about.remote()

    async def score(self, request: ScoreRequest, /) -> list[Verdict]:
        """In the order of the request's questions. Raises `UserError` for what is wrong with it."""
        try:
            return await self.handle.score.remote(request)
        except UserError as error:  # Ray puts the other process's traceback into the message
            cause = getattr(error, "cause", error)
            raise cause if isinstance(cause, UserError) else error from None


class HandleRenderer:
    """`HandleRenderer(serve.get_app_handle("generator"))`: an `AsyncRenderer`. Raises what Ray raises for a dead replica."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def about(self) -> dict[str, Any]:
        """name, version and px of the renderer."""
        return await self.handle.about_renderer.remote()

    async def render(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        """The ad of every job as a PNG file, in order, or why there is none."""
        return await self.handle.render.remote(list(jobs))


class FollowedHandleScorer:
    """A `ServedScorer` over the handle of another application, which may come and go: `follow` keeps what is known of it new.

    find: gives the handle, or raises while the application is not there; it may block. timeout_s: for one `score`. look_s: for a
    look at whether it is there. Belongs to one event loop.
    """

    def __init__(self, find: Callable[[], Any], *, timeout_s: float = 120.0, look_s: float = 5.0) -> None:
        self.find, self.timeout_s, self.look_s = find, timeout_s, look_s
        self._scorer: HandleScorer | None = None
        self._about: dict[str, Any] | None = None
        self._last_error: type[Exception] | None = None

    @property
    def markets(self) -> tuple[str, ...]:
        """Markets of the training; none while the application is not there."""
        return tuple((self._about or {}).get("markets", ()))

    async def about(self) -> dict[str, Any]:
        """What it told of itself at the last look."""
        return self._about or {"model": None, "knowledge_base": None}

    def ready(self) -> bool:
        """Whether it answered at the last look."""
        return self._about is not None

    def busy(self, tenant: str = "") -> float | None:
        """Never: a call waits its turn there."""
        return None

    async def follow(self, every_s: float) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Ask for its versions now, and for its markets that are no countries, which this process then knows."""
        try:
            if self._scorer is None:
                self._scorer = HandleScorer(await asyncio.to_thread(self.find))
            about = await asyncio.wait_for(self._scorer.about(), self.look_s)
            markets.define(map(as_market, about.get("defined", ())), replace=True)
            self._about = about
        except Exception as error:  # whatever it is, it is not there; why is told once, until it was there again
            if type(error) is not self._last_error:
                fault("looking for the application that answers", error)
            self._about, self._last_error = None, type(error)
        else:
            self._last_error = None

    async def score(self, request: ScoreRequest, /) -> list[Verdict]:
        """As `HandleScorer.score`; raises `TimeoutError`, and `Problem` busy where no replica has room."""
        assert self._scorer is not None, "ready() comes first"
        try:
            return await asyncio.wait_for(self._scorer.score(request), self.timeout_s)
        except BackPressureError:
            raise Problem("busy", retry_after=1) from None
