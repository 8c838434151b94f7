"""What kind of failure a call came back with: one that passes, a death, or a fault of what was called; and when to call again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from countryreward.client import Unavailable
from countryreward.errors import UserError

T = TypeVar("T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 8.0


class Failure(Enum):
    """Of one call."""

    PASSING = "passing"
    """Nobody answered: a time-out, a cut connection, no room. The call is made again until patience ends."""
    DEATH = "death"
    """Who was asked died. Made again; what kills again and again is set aside."""
    FAULT = "fault"
    """Who was asked raised something that it should not. Made again a few times."""


def failure_of(error: Exception) -> Failure:
    """Raises `error` itself when it is a `UserError`: that is for who started the loop, such as a key that is not allowed."""
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.serve.exceptions import RayServeException

    if isinstance(error, UserError):
        raise error
    if isinstance(error, RayActorError):
        return Failure.DEATH
    passing = (TimeoutError, ConnectionError, Unavailable, RayServeException)
    if isinstance(error, RayTaskError):  # it is also of the type of what was raised there, where that is possible
        return Failure.PASSING if isinstance(error, passing) else Failure.FAULT
    return Failure.PASSING if isinstance(error, (*passing, RayError)) else Failure.FAULT


async def pause(name: str, tries: int, until: float, patience_s: float, last: Exception) -> None:
    """Before the next try: longer after each one, up to some seconds, and never the same for two callers.

    until: `time.monotonic()` at the end of patience. Raises `UserError` when it would go beyond.
    """
    seconds = random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(tries - 1, 10))
    if time.monotonic() + seconds > until:
        raise UserError(
            f"{name}: no answer for {patience_s:g} s; the last: {in_a_line(last)}; run the same command again when it is there:"
            " what is finished is kept"
        ) from last
    await asyncio.sleep(seconds)


async def patiently(call: Callable[[], Awaitable[T]], name: str, patience_s: float) -> T:
    """One call, made again until it is answered. A fault is raised at once."""
    until, tries = time.monotonic() + patience_s, 0
    while True:
        try:
            return await call()
        except Exception as error:
            if failure_of(error) is Failure.FAULT:
                raise
            tries, last = tries + 1, error
        await pause(name, tries, until, patience_s, last)


def in_a_line(error: Exception) -> str:
    """Its type and its last line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
