"""An AsyncScorer over a Serve handle: what answers in one application asks the replicas of another."""

import asyncio
from collections.abc import Callable
from typing import Any

from ray.serve.exceptions import BackPressureError

from countryreward.errors import UserError
from countryreward.scoring.contracts import Verdict
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.request_log import fault
from countryreward.serving.inference.async_scorer import RequestImageError, ScoreRequest


class HandleAsker:
    """`HandleAsker(partial(serve.get_deployment_handle, "reward", "reward"))`. `follow` keeps what is known of it new.

    find: gives the handle, or raises while the other one is not there; it may block. timeout_s: for one `judge`.
    look_s: for a look at whether it is there. Belongs to one event loop.
    """

    def __init__(self, find: Callable[[], Any], *, timeout_s: float = 120.0, look_s: float = 5.0) -> None:
        self.find, self.timeout_s, self.look_s = find, timeout_s, look_s
        self._handle: Any = None
        self._about: dict[str, Any] | None = None
        self._told: type[Exception] | None = None

    @property
    def markets(self) -> tuple[str, ...]:
        """See `AsyncScorer`; none while it is not there."""
        return tuple((self._about or {}).get("markets", ()))

    def about(self) -> dict[str, Any]:
        """See `AsyncScorer`."""
        return self._about or {"model": None, "knowledge_base": None}

    def ready(self) -> bool:
        """See `Answering`: whether it answered at the last look."""
        return self._about is not None

    def busy(self, tenant: str = "") -> float | None:
        """See `Answering`. A call that is not urgent waits its turn there."""
        return None

    async def follow(self, every_s: float) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Ask for its versions now."""
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(self.find)
            self._about = await asyncio.wait_for(_answer(self._handle.about.remote()), self.look_s)
        except Exception as error:  # whatever it is, it is not there; why is told once, until it was there again
            if type(error) is not self._told:
                fault("looking for the application that answers", error)
            self._about, self._told = None, type(error)
        else:
            self._told = None

    async def judge(self, ask: ScoreRequest) -> list[Verdict]:
        """See `AsyncScorer`. Raises `TimeoutError`, `Problem` busy where no replica has room, what Ray raises for a dead one."""
        assert self._handle is not None, "ready() comes first"
        try:
            return await asyncio.wait_for(_answer(self._handle.judge.remote(ask)), self.timeout_s)
        except RequestImageError as refused:
            raise _told(refused) from None
        except UserError as error:
            raise _told(error) from None
        except BackPressureError:
            raise Problem("busy", retry_after=1) from None


async def _answer(response: Any) -> Any:
    return await response


def _told(error: UserError) -> UserError:
    """Without the other process's traceback, which Ray puts into the message."""
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, UserError) else error
