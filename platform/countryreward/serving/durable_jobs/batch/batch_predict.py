"""One part of a batch job: every row asked, the refused ones told apart, the outcome on disk."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from countryreward.data.decoding import ImageError
from countryreward.data.quarantine import QuarantinedRow
from countryreward.errors import UserError
from countryreward.scoring.contracts import RequestImageError, ScoreRequest, Verdict
from countryreward.scoring.pair_table import SIDES
from countryreward.scoring.verdict_shards import copies_of, product_of
from countryreward.serving.durable_jobs.batch.batch_results import Part, read_part, write_part
from countryreward.serving.durable_jobs.batch.batch_store import StoredJob
from countryreward.serving.durable_jobs.batch.batch_table import JobTable, refusal_of
from countryreward.serving.durable_jobs.job_worker import to_the_end
from countryreward.serving.durable_jobs.retrying_scorer import RetryingScorer
from countryreward.serving.inference.served_scorer import ServedScorer

Row = dict[str, Any]
_AT_ONCE = 8  # rows asked at a time, so that they share forward passes


class PartJudging:
    """Judges parts. A row is asked `tries` times while the scorer fails, the pauses doubling from first_pause_s on."""

    def __init__(self, scorer: ServedScorer, *, tries: int, first_pause_s: float, poll_s: float) -> None:
        self._scorer = RetryingScorer(scorer, tries=tries, first_pause_s=first_pause_s, poll_s=poll_s)

    async def judge(self, job: StoredJob, table: JobTable, parts: Path, number: int) -> Part:
        """Judge and write one part. Raises `NoAnswer`."""
        rows = await to_the_end(table.part, number)
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(row: Row) -> Sequence[Verdict] | QuarantinedRow:
            async with turn:
                return await self._judge_row(job, table, row)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(row)) for row in rows]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        outcomes = [(row, task.result()) for row, task in zip(rows, tasks, strict=True)]
        judged = [(row, outcome) for row, outcome in outcomes if not isinstance(outcome, QuarantinedRow)]
        refused = [outcome for _, outcome in outcomes if isinstance(outcome, QuarantinedRow)]
        await to_the_end(write_part, parts, number, judged, refused)
        part = await to_the_end(read_part, parts, number)
        assert part is not None, "the part was just written"
        assert part.judged + part.reasons.total() == len(rows), "a row of the part was lost"
        return part

    async def _judge_row(self, job: StoredJob, table: JobTable, row: Row) -> Sequence[Verdict] | QuarantinedRow:
        images = []
        for side in SIDES:
            try:
                images.append(await asyncio.to_thread(table.image, row[f"hash_{side[-1]}"]))
            except ImageError as error:
                return refusal_of(row, error.reason, side, error.field_value)
        request = ScoreRequest.of_ads(
            product_of(row),
            images,
            copies_of(row),
            markets=table.markets or (row["market"],),
            tenant=job.tenant,
            evidence=0,
            urgent=False,
        )
        try:
            return await self._scorer.score(request)
        except RequestImageError as error:
            return refusal_of(row, error.reason, SIDES[error.position], error.field_value)
        except UserError as error:
            return refusal_of(row, "refused_prompt", "row", str(error))
