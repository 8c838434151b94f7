"""When a failed call is repeated. A killed replica's requests come back as errors and only the client can repeat them; tight
retries make a storm, so waits are random, grow, and all calls of a client share one budget of retries."""

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from tenacity import RetryCallState, retry_if_exception_type, wait_exception, wait_random_exponential

from countryreward.client.client_errors import Unavailable
from countryreward.errors import UserError

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Of answers that say nothing against the call itself: the same call may be answered later."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
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


class RetryBudget:
    """Retries left to all calls of a client, so that a dead service is not stormed."""

    def __init__(self, policy: RetryPolicy, parallel: int) -> None:
        if parallel < 1:
            raise UserError(f"parallel: {parallel} must be at least 1")
        # A replica that dies takes every call in flight with it: each of them must be able to ask again.
        self._most = max(10.0, 2.5 * parallel) if policy.budget is None else policy.budget
        self._earned, self.left = policy.earned, self._most

    def take(self) -> bool:
        """Whether one more retry may be made; it then counts."""
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def earn(self) -> None:
        """Add what a call earns that was answered."""
        self.left = min(self._most, self.left + self._earned)


class AttemptFailed(Exception):
    """One attempt failed in a way that may pass. `retry_after_s`: how long the answer asks to wait, where it does."""

    def __init__(
        self, reason: str, *, status: int | None = None, request_id: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.request_id, self.retry_after_s = status, request_id, retry_after_s


class CallRetries:
    """How long and how often one call is tried: its attempts so far and its deadline."""

    def __init__(
        self, call_name: str, policy: RetryPolicy, budget: RetryBudget, *, timeout_s: float, patient: bool = False
    ) -> None:
        """call_name: for messages. timeout_s: for each wait of one attempt. patient: nobody waits for this one answer."""
        self._call_name, self._policy, self._budget, self._timeout_s = call_name, policy, budget, timeout_s
        self.deadline_s = policy.patient_deadline_s if patient else policy.deadline_s
        self._end = time.monotonic() + self.deadline_s
        self._exhausted = "retries"
        self.attempts = 0

    def tenacity_options(self) -> dict[str, Any]:
        """Options of `tenacity.AsyncRetrying`. Giving up raises `Unavailable`."""
        requested_wait = wait_exception(lambda error: getattr(error, "retry_after_s", None) or 0.0)
        spread = wait_random_exponential(multiplier=self._policy.first_s, max=self._policy.cap_s)
        return {
            "retry": retry_if_exception_type(AttemptFailed),
            # without the spread, all who were told the same second would come back together
            "wait": requested_wait + spread,
            "stop": self._stop,
            "retry_error_callback": self._give_up,
        }

    def timeout_left_s(self) -> float:
        """Seconds for one attempt, and for each wait within it."""
        return max(0.001, min(self._timeout_s, self.deadline_left_s()))

    def deadline_left_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._end - time.monotonic()

    def _stop(self, state: RetryCallState) -> bool:
        failure = _failure(state)
        # Who waits as told is in time, not at the end of its tries.
        waits_as_told = failure.retry_after_s is not None
        at_most = self._policy.at_most
        if at_most == 0 or (state.attempt_number > at_most and not waits_as_told):
            self._exhausted = f"its {at_most} retries"
        elif state.upcoming_sleep >= self.deadline_left_s():
            self._exhausted = f"its {self.deadline_s:g} s"
        elif (
            waits_as_told and failure.status == 429
        ) or self._budget.take():  # a rate limit is no sign of a dead service
            return False
        else:
            self._exhausted = "the client's budget of retries"
        return True

    def _give_up(self, state: RetryCallState) -> None:
        failure = _failure(state)
        request = f", request {failure.request_id}" if failure.request_id else ""
        wait = f"; it asks to wait {failure.retry_after_s:g} s" if failure.retry_after_s else ""
        raise Unavailable(
            f"{self._call_name}: given up after {self.attempts} attempts, {self._exhausted} used up; "
            f"the last: {failure}{request}{wait}",
            attempts=self.attempts,
            status=failure.status,
            request_id=failure.request_id,
        ) from failure.__cause__


def _failure(state: RetryCallState) -> AttemptFailed:
    failure = state.outcome and state.outcome.exception()
    assert isinstance(failure, AttemptFailed)
    return failure


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date of HTTP; None where it holds neither."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
