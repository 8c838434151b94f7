"""What kind of failure a call came back with: one that passes, a death, or a fault of what was called; and when to call again."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from countryreward.client import Unavailable
from countryreward.errors import UserError

AnswerT = TypeVar("AnswerT")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 8.0


class Failure(Enum):
    """What kind of failure a call came back with."""

    PASSING = "passing"
    """Nobody answered: a time-out, a cut connection, no room. The call is made again until the time for retries is over."""
    DEATH = "death"
    """Who was asked died. Made again; what kills again and again is set aside."""
    FAULT = "fault"
    """Who was asked raised something that it should not. Made again a few times."""


def failure_of(error: Exception) -> Failure:
    """The kind of failure that an exception of a call is. A `UserError` is raised again: it is for whoever started the loop,
    such as a key that is not allowed."""
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


async def pause_before_retry(name: str, tries: int, until: float, retry_s: float, last: Exception) -> None:
    """Sleeps before the next try: longer after each one, up to some seconds, and never the same for two callers.

    name: of who was called, for the message. tries: failed so far. until: `time.monotonic()` at which retries end, `retry_s`
    seconds after they began. last: what the last try raised. Raises `UserError` when the pause would go beyond.
    """
    seconds = random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(tries - 1, 10))
    if time.monotonic() + seconds > until:
        raise UserError(
            f"{name}: no answer for {retry_s:g} s; the last: {error_line(last)}; run the same command again when it is there:"
            " what is finished is kept"
        ) from last
    await asyncio.sleep(seconds)


async def call_with_retries(call: Callable[[], Awaitable[AnswerT]], name: str, retry_s: float) -> AnswerT:
    """One call, made again for `retry_s` seconds until it is answered. A fault is raised at once.

    name: of who is called. Raises `UserError` when nobody answered in that time.
    """
    until, tries = time.monotonic() + retry_s, 0
    while True:
        try:
            return await call()
        except Exception as error:
            if failure_of(error) is Failure.FAULT:
                raise
            tries, last = tries + 1, error
        await pause_before_retry(name, tries, until, retry_s, last)


def error_line(error: Exception) -> str:
    """An error in one line: its type and the last line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
