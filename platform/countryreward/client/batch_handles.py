"""Batch jobs at a distance: handles that block and handles that are awaited."""

from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd

from countryreward.api.schemas import BatchJob
from countryreward.client import batch_calls as batches
from countryreward.client.calls import Talk


class BatchHandle:
    """A batch job. `job` is what was last heard of it."""

    def __init__(self, run: Callable[[Talk[Any]], Any], job: BatchJob) -> None:
        self._run, self.job = run, job

    def __repr__(self) -> str:
        return f"BatchHandle({self.id!r}, {self.job.state!r})"

    @property
    def id(self) -> str:
        """For `Client.open_batch`, also in another run."""
        return self.job.id

    def state(self) -> BatchJob:
        """What became of it."""
        self.job = self._run(batches.state(self.id))
        return self.job

    def wait(self, *, progress: bool = True, poll_s: float = 2.0) -> BatchJob:
        """Until it is done, asked every `poll_s` seconds. Raises `UserError` when it failed or was cancelled.

        After `Unavailable` the job goes on: wait again.
        """
        self.job = self._run(batches.wait(self.id, progress=progress, poll_s=poll_s))
        return self.job

    def verdicts(self) -> pd.DataFrame:
        """One row per good row and market, in the table's order (docs/scoring.md)."""
        return self._run(batches.verdicts(self.id))

    def quarantine(self) -> pd.DataFrame:
        """The rows that were refused: reason, field, value, way out."""
        return self._run(batches.quarantine(self.id))

    def cancel(self) -> None:
        """Stop it. The service deletes what was sent and what was judged."""
        self._run(batches.delete(self.id))

    def delete(self) -> None:
        """The same as `cancel`, for a job that is done."""
        self._run(batches.delete(self.id))


class AsyncBatchHandle:
    """`BatchHandle` to be awaited."""

    def __init__(self, run: Callable[[Talk[Any]], Awaitable[Any]], job: BatchJob) -> None:
        self._run, self.job = run, job

    def __repr__(self) -> str:
        return f"AsyncBatchHandle({self.id!r}, {self.job.state!r})"

    @property
    def id(self) -> str:
        """For `AsyncClient.open_batch`, also in another run."""
        return self.job.id

    async def state(self) -> BatchJob:
        """What became of it."""
        self.job = await self._run(batches.state(self.id))
        return self.job

    async def wait(self, *, progress: bool = True, poll_s: float = 2.0) -> BatchJob:
        """Until it is done, asked every `poll_s` seconds. Raises `UserError` when it failed or was cancelled.

        After `Unavailable` the job goes on: wait again.
        """
        self.job = await self._run(batches.wait(self.id, progress=progress, poll_s=poll_s))
        return self.job

    async def verdicts(self) -> pd.DataFrame:
        """One row per good row and market, in the table's order (docs/scoring.md)."""
        return await self._run(batches.verdicts(self.id))

    async def quarantine(self) -> pd.DataFrame:
        """The rows that were refused: reason, field, value, way out."""
        return await self._run(batches.quarantine(self.id))

    async def cancel(self) -> None:
        """Stop it. The service deletes what was sent and what was judged."""
        await self._run(batches.delete(self.id))

    async def delete(self) -> None:
        """The same as `cancel`, for a job that is done."""
        await self._run(batches.delete(self.id))
