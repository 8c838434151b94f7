"""When to ask again. A killed replica's requests come back as errors and only the client can repeat them; tight retries make a
storm, so waits are random, grow, and all calls of a client share one budget of retries."""

import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from tenacity import RetryCallState, retry_if_exception_type, wait_exception, wait_random_exponential

from countryreward.client.calls import Call
from countryreward.client.client_errors import Unavailable
from countryreward.errors import UserError

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may pass."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How a client repeats calls that failed in a way that may pass."""

    at_most: int = 5
    """Retries of one call; 0: none. An answer that says how long to wait (429, 503 with Retry-After) does not count."""
    first_s: float = 0.5
    """Retry n waits a random time up to this x 2^(n-1), beside what Retry-After asks for."""
    cap_s: float = 8.0
    """Largest random wait."""
    deadline_s: float = 60.0
    """For one call with all its retries; no attempt and no wait goes beyond it."""
    patient_deadline_s: float = 3_600.0
    """The same for calls of tables: uploads, downloads, rows of a frame."""
    budget: float | None = None
    """Retries that all calls of a client may make before others succeed; None: 10, or 2.5 x `parallel` where that is more."""
    earned: float = 0.2
    """What each call that was answered adds to the budget, never above where it started."""

    def __post_init__(self) -> None:
        for name in ("at_most", "first_s", "cap_s", "budget", "earned"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise UserError(f"retries.{name}: {getattr(self, name)} must be 0 or more")
        for name in ("deadline_s", "patient_deadline_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"retries.{name}: {getattr(self, name)} must be above 0")


class Budget:
    """Retries left to a client: a dead service is not stormed. Any thread."""

    def __init__(self, retries: Retries, parallel: int) -> None:
        if parallel < 1:
            raise UserError(f"parallel: {parallel} must be at least 1")
        # A replica that dies takes every call in flight with it: each of them must be able to ask again.
        self._most = max(10.0, 2.5 * parallel) if retries.budget is None else retries.budget
        self._earned, self.left = retries.earned, self._most
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more retry may be made; it then counts."""
        with self._lock:
            if self.left < 1:
                return False
            self.left -= 1
            return True

    def earn(self) -> None:
        """A call was answered."""
        with self._lock:
            self.left = min(self._most, self.left + self._earned)


class Failed(Exception):
    """One attempt failed in a way that may pass."""

    def __init__(
        self, reason: str, *, status: int | None = None, request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.request_id, self.retry_after = status, request_id, retry_after


class Patience:
    """How long and how often one call is tried."""

    def __init__(self, call: Call, retries: Retries, budget: Budget, timeout_s: float) -> None:
        self._call, self._retries, self._budget, self._timeout_s = call, retries, budget, timeout_s
        self.deadline_s = retries.patient_deadline_s if call.patient else retries.deadline_s
        self._until = time.monotonic() + self.deadline_s
        self._spent = "retries"
        self.attempts = 0

    def tenacity(self) -> dict[str, Any]:
        """Options of `tenacity.Retrying` and `AsyncRetrying`. Giving up raises `Unavailable`."""
        asked = wait_exception(lambda error: getattr(error, "retry_after", None) or 0.0)
        spread = wait_random_exponential(multiplier=self._retries.first_s, max=self._retries.cap_s)
        return {
            "retry": retry_if_exception_type(Failed),
            "wait": asked + spread,  # without the spread, all who were told the same second would come back together
            "stop": self._stop,
            "retry_error_callback": self._gave_up,
        }

    def left_s(self) -> float:
        """Seconds for one attempt, and for each wait within it."""
        return max(0.001, min(self._timeout_s, self.deadline_left_s()))

    def deadline_left_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._until - time.monotonic()

    def answered(self) -> None:
        """The last attempt was answered."""
        self._budget.earn()

    def _stop(self, state: RetryCallState) -> bool:
        wait_for = self._told_to_wait(state)
        at_most = self._retries.at_most
        if at_most == 0 or (state.attempt_number > at_most and wait_for is None):
            self._spent = f"its {at_most} retries"
        elif state.upcoming_sleep >= self.deadline_left_s():
            self._spent = f"its {self.deadline_s:g} s"
        elif wait_for == 429 or self._budget.take():  # a rate limit is no sign of a dead service
            return False
        else:
            self._spent = "the client's budget of retries"
        return True

    def _told_to_wait(self, state: RetryCallState) -> int | None:
        """The status of an answer that said how long to wait: who waits as told is in time, not at the end of its tries."""
        failed = state.outcome and state.outcome.exception()
        return failed.status if isinstance(failed, Failed) and failed.retry_after is not None else None

    def _gave_up(self, state: RetryCallState) -> None:
        failed = state.outcome and state.outcome.exception()
        assert isinstance(failed, Failed)
        named = f", request {failed.request_id}" if failed.request_id else ""
        wait = f"; it asks to wait {failed.retry_after:g} s" if failed.retry_after else ""
        raise Unavailable(
            f"{self._call.method} {self._call.path}: given up after {self.attempts} attempts, {self._spent} used up; "
            f"the last: {failed}{named}{wait}",
            attempts=self.attempts,
            status=failed.status,
            request_id=failed.request_id,
        ) from failed.__cause__


def seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header: seconds, or a date of HTTP; None where it says neither."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
