"""Generation jobs at a distance: handles that block and handles that are awaited."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from countryreward.api.schemas import GenerationJob
from countryreward.client import generation_calls as generations
from countryreward.client.calls import Talk


class GenerationHandle:
    """A generation job. `job` is what was last heard of it: `job.images`, `job.rankings`, `job.refused`, `job.position`."""

    def __init__(self, run: Callable[[Talk[Any]], Any], job: GenerationJob) -> None:
        self._run, self.job = run, job

    def __repr__(self) -> str:
        return f"GenerationHandle({self.id!r}, {self.job.state!r})"

    @property
    def id(self) -> str:
        """For `Client.open_generation`, also in another run."""
        return self.job.id

    def state(self) -> GenerationJob:
        """What became of it."""
        self.job = self._run(generations.state(self.id))
        return self.job

    def wait(self, *, progress: bool = True, poll_s: float = 1.0) -> GenerationJob:
        """Until it is done, asked every `poll_s` seconds. Raises `UserError` when it failed or was cancelled.

        After `Unavailable` the job goes on: wait again.
        """
        self.job = self._run(generations.wait(self.id, progress=progress, poll_s=poll_s))
        return self.job

    def image(self, n: int) -> bytes:
        """Image n as a PNG file, as soon as it is made. Raises `Refused` before."""
        return self._run(generations.image(self.id, n))

    def save(self, folder: str | Path) -> list[Path]:
        """All images that were made when last heard, as files ID-N.png."""
        return self._run(generations.save(self.id, [image.n for image in self.job.images], Path(folder)))

    def cancel(self) -> None:
        """Stop it. The service deletes what was sent and what was made."""
        self._run(generations.delete(self.id))

    def delete(self) -> None:
        """The same as `cancel`, for a job that is done."""
        self._run(generations.delete(self.id))


class AsyncGenerationHandle:
    """`GenerationHandle` to be awaited."""

    def __init__(self, run: Callable[[Talk[Any]], Awaitable[Any]], job: GenerationJob) -> None:
        self._run, self.job = run, job

    def __repr__(self) -> str:
        return f"AsyncGenerationHandle({self.id!r}, {self.job.state!r})"

    @property
    def id(self) -> str:
        """For `AsyncClient.open_generation`, also in another run."""
        return self.job.id

    async def state(self) -> GenerationJob:
        """What became of it."""
        self.job = await self._run(generations.state(self.id))
        return self.job

    async def wait(self, *, progress: bool = True, poll_s: float = 1.0) -> GenerationJob:
        """Until it is done, asked every `poll_s` seconds. Raises `UserError` when it failed or was cancelled.

        After `Unavailable` the job goes on: wait again.
        """
        self.job = await self._run(generations.wait(self.id, progress=progress, poll_s=poll_s))
        return self.job

    async def image(self, n: int) -> bytes:
        """Image n as a PNG file, as soon as it is made. Raises `Refused` before."""
        return await self._run(generations.image(self.id, n))

    async def save(self, folder: str | Path) -> list[Path]:
        """All images that were made when last heard, as files ID-N.png."""
        return await self._run(generations.save(self.id, [image.n for image in self.job.images], Path(folder)))

    async def cancel(self) -> None:
        """Stop it. The service deletes what was sent and what was made."""
        await self._run(generations.delete(self.id))

    async def delete(self) -> None:
        """The same as `cancel`, for a job that is done."""
        await self._run(generations.delete(self.id))
