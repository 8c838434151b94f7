"""A scorer that is asked again, with pauses, while it is not ready or fails: no caller waits for a job."""

import asyncio
import time

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from countryreward.errors import UserError
from countryreward.scoring.contracts import Verdict
from countryreward.serving.inference.async_scorer import AsyncScorer, ScoreRequest

_LONGEST_PAUSE_S = 60.0


class NoAnswer(Exception):
    """The scorer failed again and again, or was never ready."""


class RetryingScorer:
    """Asks `tries` times while the scorer fails, the pauses doubling from first_pause_s on.

    wait_s: how long it may be that it is not ready; None: for ever.
    """

    def __init__(
        self, asked: AsyncScorer, *, tries: int, first_pause_s: float, poll_s: float, wait_s: float | None = None
    ) -> None:
        self.asked, self.poll_s, self.wait_s = asked, poll_s, wait_s
        self._patient = AsyncRetrying(
            stop=stop_after_attempt(tries),
            wait=wait_exponential_jitter(multiplier=first_pause_s, max=_LONGEST_PAUSE_S, jitter=first_pause_s),
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and not isinstance(error, UserError)),
            reraise=True,
        )

    async def judge(self, ask: ScoreRequest) -> list[Verdict]:
        """As `AsyncScorer.judge`. Raises `NoAnswer`."""
        began = time.monotonic()
        while not self.asked.ready():
            if self.wait_s is not None and time.monotonic() - began > self.wait_s:
                raise NoAnswer
            await asyncio.sleep(self.poll_s)
        try:
            verdicts = await self._patient.copy()(self.asked.judge, ask)
        except UserError:
            raise
        except Exception as error:
            raise NoAnswer from error
        asked = [market for market in ask.markets for _ in ask.pairs]
        assert [verdict.market for verdict in verdicts] == asked, "one verdict per market and pair, in order"
        return verdicts
