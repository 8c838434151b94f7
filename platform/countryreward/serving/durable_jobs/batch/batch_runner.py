"""Batch jobs in the background of a replica: one at a time, judged row by row while no caller waits for something else."""

import functools
import threading
import time
from collections import Counter
from pathlib import Path

from countryreward import __version__
from countryreward.errors import UserError
from countryreward.serving.durable_jobs.batch.batch_predict import PartJudging
from countryreward.serving.durable_jobs.batch.batch_results import put_together, read_part
from countryreward.serving.durable_jobs.batch.batch_store import JobStore, StoredJob
from countryreward.serving.durable_jobs.batch.batch_table import JobTable, read_job
from countryreward.serving.durable_jobs.job_folders import Claim, Clock, cancelled, utc_now
from countryreward.serving.durable_jobs.job_worker import JobWorker, to_the_end
from countryreward.serving.durable_jobs.retrying_scorer import NoAnswer
from countryreward.serving.http.request_log import fault
from countryreward.serving.inference.served_scorer import ServedScorer
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import RewardServiceConfig

_SAVE_S = 1.0  # job.json is written at most so often


class BatchJobs(JobWorker[StoredJob]):
    """The batch jobs of a service: `store` for its routes, and a task that works them off between `start` and `stop`.

    Any number of replicas may share the folder. A job whose replica was killed is taken up by another one at the next part.
    """

    config: RewardServiceConfig

    def __init__(
        self,
        scorer: ServedScorer,
        config: RewardServiceConfig,
        *,
        watching: MetricsObserver | None = None,
        now: Clock = utc_now,
        tries: int = 8,
        first_pause_s: float = 1.0,
    ) -> None:
        """tries: how often a row is asked while the scorer fails before its job fails, the pauses doubling from first_pause_s."""
        self.scorer, self.store, self._tries = scorer, JobStore(config, now, watching), tries
        super().__init__(self.store, config)
        self._parts = PartJudging(scorer, tries=tries, first_pause_s=first_pause_s, poll_s=config.poll_s)

    def can_work(self) -> bool:
        return self.scorer.ready()

    async def work(self, claim: Claim[StoredJob], halted: threading.Event) -> None:
        folder, job = claim.folder, claim.job
        if job.trained is None:
            job.trained = tuple(self.scorer.markets)
            await to_the_end(self.store.save, folder, job)

        def go_on() -> None:
            if halted.is_set() or cancelled(folder):
                raise _Halted

        try:
            table = await to_the_end(read_job, folder, job, self.config, go_on)
            parts = folder / "work" / f"parts-{__version__}"  # another version may find other rows good
            await to_the_end(functools.partial(parts.mkdir, exist_ok=True))
            await self._judge(folder, job, table, parts)
        except UserError as error:
            await to_the_end(self.store.end, folder, job, "failed", str(error))
            return
        except NoAnswer as error:
            fault(f"batch job {job.id}, which failed", error)
            reason = f"the model did not answer in {self._tries} tries; send the table again later"
            await to_the_end(self.store.end, folder, job, "failed", reason)
            return
        counts = await to_the_end(put_together, table, parts, folder)
        _set_progress(job, counts["kept"], counts["verdicts"], counts["reasons"])
        await to_the_end(self.store.end, folder, job, "done")

    async def _judge(self, folder: Path, job: StoredJob, table: JobTable, parts: Path) -> None:
        """Every part that is not finished yet, with the progress in job.json."""
        job.rows = table.rows
        judged, verdicts, reasons = 0, 0, Counter(refusal.reason for refusal in table.refusals)
        saved = -_SAVE_S
        for number in range(table.parts):
            part = await to_the_end(read_part, parts, number)
            if part is None:
                part = await self._parts.judge(job, table, parts, number)
                job.starts = 0
            judged, verdicts, reasons = judged + part.judged, verdicts + part.verdicts, reasons + part.reasons
            _set_progress(job, judged, verdicts, reasons)
            if time.monotonic() - saved >= _SAVE_S:
                await to_the_end(self.store.save, folder, job)
                saved = time.monotonic()


class _Halted(Exception):
    """Raised inside the reading of a table when its job is to stop."""


def _set_progress(job: StoredJob, judged: int, verdicts: int, reasons: Counter[str]) -> None:
    job.judged, job.verdicts = judged, verdicts
    job.quarantined, job.reasons = reasons.total(), dict(reasons.most_common())
