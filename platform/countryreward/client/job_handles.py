"""Jobs of the service that go on while the caller does something else: batches of pairs, and ads that are made."""

import abc
import asyncio
import contextlib
import json
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

import pandas as pd
import pyarrow as pa

from countryreward.api.schemas import BatchAnswer, BatchJob, GenerationAnswer, GenerationJob
from countryreward.client.client_errors import BadAnswer
from countryreward.client.connection import Call, Connection, Reply
from countryreward.data.quarantine import QuarantinedRow
from countryreward.errors import UserError
from countryreward.progress import bar

BATCHES, GENERATIONS = "v1/batch", "v1/generate"
"""Paths of the service."""
PNG_START = b"\x89PNG\r\n\x1a\n"
JobT = TypeVar("JobT", BatchJob, GenerationJob)


def job_path(route: str, job_id: str) -> str:
    """The path of one job of `BATCHES` or `GENERATIONS`."""
    return f"{route}/{quote(job_id, safe='')}"


class AsyncJobHandle(abc.ABC, Generic[JobT]):
    """A job of the service, to be awaited. `job` is the service's last answer about it."""

    kind: str
    """In messages."""
    route: str
    poll_s: float
    """Seconds between two questions of `wait`."""
    progress_title: str
    way_out: str
    """Of a job that was cancelled."""

    def __init__(self, connection: Connection, job: JobT) -> None:
        self._connection, self.job = connection, job

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.job.state!r})"

    @property
    def id(self) -> str:
        """For `open_batch` or `open_generation` of a client, also in another run."""
        return self.job.id

    @property
    def path(self) -> str:
        """Under the service's address."""
        return job_path(self.route, self.id)

    @abc.abstractmethod
    async def state(self) -> JobT:
        """The job as it is now."""

    @abc.abstractmethod
    def progress(self) -> tuple[int, int]:
        """(how many are done, how many there are) of `job`; 0 of them: not yet known."""

    async def wait(self, *, progress: bool = True, poll_s: float | None = None) -> JobT:
        """Until it is done, asked every `poll_s` seconds. Raises `UserError` when it failed or was cancelled.

        After `Unavailable` the job goes on: wait again. progress: show a bar. poll_s: None: 2 for a batch, 1 for ads.
        """
        with bar(self.progress_title) if progress else contextlib.nullcontext() as show:
            while True:
                job = await self.state()
                done, total = self.progress()
                if show and total:
                    show(done, total)
                if job.state not in ("waiting", "running"):
                    break
                await asyncio.sleep(self.poll_s if poll_s is None else poll_s)
        if job.state != "done":
            raise UserError(f"{self.kind} {self.id}: it is {job.state}; {job.error or self.way_out}")
        return job

    async def cancel(self) -> None:
        """Stop it. The service deletes what was sent and what came of it."""
        await self._connection.delete(self.path)

    async def delete(self) -> None:
        """The same as `cancel`, for a job that is done."""
        await self._connection.delete(self.path)


class AsyncBatchHandle(AsyncJobHandle[BatchJob]):
    """A table that the service judges, to be awaited. `job` is the service's last answer about it."""

    kind, route, poll_s = "batch", BATCHES, 2.0
    progress_title, way_out = "rows judged", "send the table again"

    async def state(self) -> BatchJob:
        """The job as it is now."""
        self.job = (await self._connection.get(self.path, BatchAnswer)).job
        return self.job

    def progress(self) -> tuple[int, int]:
        """(rows judged or refused, rows)."""
        return self.job.judged + self.job.quarantined, self.job.rows or 0

    async def verdicts(self) -> pd.DataFrame:
        """One row per good row and market, in the table's order, with the columns that docs/scoring.md lists."""
        with tempfile.TemporaryDirectory(prefix="countryreward-") as folder:
            to = Path(folder) / "verdicts.parquet"
            call = Call(method="GET", path=f"{self.path}/verdicts", query={"format": "parquet"}, to=to, patient=True)
            reply = await self._connection.send(call)
            try:
                return await asyncio.to_thread(pd.read_parquet, to)
            except (pa.ArrowException, ValueError):
                raise BadAnswer("verdicts: the answer is no Parquet file", request_id=reply.request_id) from None

    async def quarantine(self) -> pd.DataFrame:
        """The rows that were refused: reason, field, value, way out."""
        reply = await self._connection.send(Call(method="GET", path=f"{self.path}/quarantine", patient=True))
        try:
            rows = [json.loads(line) for line in reply.content.splitlines() if line.strip()]
            return pd.DataFrame(rows, columns=None if rows else [column.name for column in fields(QuarantinedRow)])
        except (ValueError, TypeError):
            raise BadAnswer("quarantine: the answer is not JSON lines", request_id=reply.request_id) from None


class AsyncGenerationHandle(AsyncJobHandle[GenerationJob]):
    """Ads that the service makes, to be awaited. `job` is the service's last answer: its images, rankings, refused, position."""

    kind, route, poll_s = "generation", GENERATIONS, 1.0
    progress_title, way_out = "images made", "send the request again"

    async def state(self) -> GenerationJob:
        """The job as it is now."""
        self.job = (await self._connection.get(self.path, GenerationAnswer)).job
        return self.job

    def progress(self) -> tuple[int, int]:
        """(ads made or refused, ads)."""
        return self.job.done, self.job.total

    async def image(self, n: int) -> bytes:
        """Image n as a PNG file, as soon as it is made. Raises `Refused` before."""
        return _png(await self._connection.send(self._image_call(n)))

    async def save(self, folder: str | Path) -> list[Path]:
        """All images that `job` lists, as files ID-N.png of a folder, which is made if need be."""
        if not self.job.images:
            return []
        numbers = [image.n for image in self.job.images]
        replies = await self._connection.send_all([self._image_call(n) for n in numbers])
        images = {Path(folder) / f"{self.id}-{n}.png": _png(reply) for n, reply in zip(numbers, replies, strict=True)}
        await asyncio.to_thread(_write_files, Path(folder), images)
        return list(images)

    def _image_call(self, n: int) -> Call:
        return Call(method="GET", path=f"{self.path}/images/{n}")


def _png(reply: Reply) -> bytes:
    if not reply.content.startswith(PNG_START):
        raise BadAnswer("image: the answer is no PNG file", request_id=reply.request_id)
    return reply.content


def _write_files(folder: Path, contents: dict[Path, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_bytes(content)
