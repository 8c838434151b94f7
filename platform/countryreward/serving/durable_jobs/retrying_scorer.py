"""A scorer that is asked again, with pauses, while it is not ready or fails: no caller waits for a job."""

import asyncio
import time

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from countryreward.errors import UserError
from countryreward.scoring.contracts import ScoreRequest, Verdict
from countryreward.serving.inference.served_scorer import ServedScorer

_LONGEST_PAUSE_S = 60.0


class NoAnswer(Exception):
    """The scorer failed again and again, or was never ready."""


class RetryingScorer:
    """Asks `tries` times while the scorer fails, the pauses doubling from first_pause_s on.

    wait_s: how long it may be that it is not ready; None: for ever.
    """

    def __init__(
        self, scorer: ServedScorer, *, tries: int, first_pause_s: float, poll_s: float, wait_s: float | None = None
    ) -> None:
        self.scorer, self.poll_s, self.wait_s = scorer, poll_s, wait_s
        self._retrying = AsyncRetrying(
            stop=stop_after_attempt(tries),
            wait=wait_exponential_jitter(multiplier=first_pause_s, max=_LONGEST_PAUSE_S, jitter=first_pause_s),
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and not isinstance(error, UserError)),
            reraise=True,
        )

    async def score(self, request: ScoreRequest, /) -> list[Verdict]:
        """As `AsyncScorer.score`. Raises `NoAnswer`."""
        began = time.monotonic()
        while not self.scorer.ready():
            if self.wait_s is not None and time.monotonic() - began > self.wait_s:
                raise NoAnswer
            await asyncio.sleep(self.poll_s)
        try:
            verdicts = await self._retrying.copy()(self.scorer.score, request)
        except UserError:
            raise
        except Exception as error:
            raise NoAnswer from error
        markets = [market for market, _, _ in request.questions()]
        assert [verdict.market for verdict in verdicts] == markets, "one verdict per market and pair, in order"
        return verdicts
