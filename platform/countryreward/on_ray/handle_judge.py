"""An AsyncScorer over a Serve handle: what apps on the same Ray ask the reward's replicas, without HTTP and without a key."""

import asyncio
import contextlib
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from countryreward.errors import UserError
from countryreward.scoring.contracts import Verdict
from countryreward.serving.asking import Ask
from countryreward.serving.problems import Problem


class HandleJudge:
    """`HandleJudge(serve.get_deployment_handle("reward", app_name="reward"))`; `follow` keeps what it knows of them fresh."""

    def __init__(self, handle: Any, *, poll_s: float = 2.0) -> None:
        self.handle, self.poll_s = handle, poll_s
        self._about: dict[str, Any] = {"model": None, "knowledge_base": None}

    @property
    def markets(self) -> tuple[str, ...]:
        """See `AsyncScorer`."""
        return tuple(self._about.get("markets", ()))

    def about(self) -> dict[str, Any]:
        """See `AsyncScorer`. As one of the replicas told at most `poll_s` ago."""
        return self._about

    def ready(self) -> bool:
        """See `Answering`. Whether a replica has answered yet."""
        return self._about["model"] is not None

    def busy(self, tenant: str = "") -> float | None:
        """See `Answering`. Serve's own queue says no, where there is no room."""
        return None

    async def judge(self, ask: Ask) -> list[Verdict]:
        """See `AsyncScorer`. Raises `Problem` busy when no replica has room."""
        try:
            return await self.handle.judge.remote(ask)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):  # without Ray's words around it
                raise error.cause from None
            raise
        except BackPressureError:
            raise Problem("busy", retry_after=1) from None

    async def follow(self) -> None:
        """Look for ever what the replicas answer with now. While none answers, the last word holds."""
        while True:
            with contextlib.suppress(RayError, RayServeException, TimeoutError):
                self._about = await asyncio.wait_for(self.handle.about.remote(), 30)
            await asyncio.sleep(self.poll_s)
