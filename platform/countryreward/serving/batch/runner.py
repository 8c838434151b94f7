"""Batch jobs in the background of a replica: one at a time, judged row by row while no caller waits for something else."""

import asyncio
import contextlib
import functools
import threading
import time
from collections import Counter
from pathlib import Path

from countryreward import __version__
from countryreward.errors import UserError
from countryreward.serving.asking import AsyncScorer
from countryreward.serving.batch.job import StoredJob, cancelled
from countryreward.serving.batch.judging import NoAnswer, PartJudging, to_the_end
from countryreward.serving.batch.parts import put_together, read_part
from countryreward.serving.batch.reading import JobTable, read_job
from countryreward.serving.batch.store import Claim, Clock, JobStore, utc_now
from countryreward.serving.config import ServiceConfig
from countryreward.serving.journal import fault
from countryreward.serving.watching import Watching

_SAVE_S = 1.0  # job.json is written at most so often
_SWEEP_S = 60.0


class BatchJobs:
    """The batch jobs of a service: `store` for its routes, and a task that works them off between `start` and `stop`.

    Any number of replicas may share the folder. A job whose replica was killed is taken up by another one at the next part.
    """

    def __init__(
        self,
        asked: AsyncScorer,
        config: ServiceConfig,
        *,
        watching: Watching | None = None,
        now: Clock = utc_now,
        tries: int = 8,
        first_pause_s: float = 1.0,
    ) -> None:
        """tries: how often a row is asked while the scorer fails before its job fails, the pauses doubling from first_pause_s."""
        self.asked, self.config, self.store = asked, config, JobStore(config, now, watching)
        self._tries = tries
        self._parts = PartJudging(asked, tries=tries, first_pause_s=first_pause_s, poll_s=config.poll_s)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to work jobs off."""
        assert self._task is None, "start is called once"
        self._task = asyncio.create_task(self._forever(), name="batch jobs")

    async def stop(self) -> None:
        """Leave a running job to another replica, or to the next start."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _forever(self) -> None:
        swept = -_SWEEP_S
        while True:
            worked = False
            try:
                if time.monotonic() - swept >= _SWEEP_S:
                    swept = time.monotonic()
                    await to_the_end(self.store.sweep)
                await self._tell_backlog()
                if self.asked.ready() and (claim := await to_the_end(self.store.claim)):
                    worked = await self._run(claim)
            except Exception as error:  # such as a full disk: the next round may fare better
                fault("a round of batch jobs", error)
            if not worked:
                await asyncio.sleep(self.config.poll_s)

    async def _tell_backlog(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # no job ends for the sake of a metric
            await to_the_end(self.store.tell_backlog)

    async def _run(self, claim: Claim) -> bool:
        """Work on a job until it ends or is cancelled. False: it failed for a reason of ours and is to be started again."""
        halted = threading.Event()
        work = asyncio.create_task(self._work(claim, halted))
        try:
            while not (await asyncio.wait({work}, timeout=self.config.poll_s))[0]:
                await self._tell_backlog()
                if cancelled(claim.folder) and not halted.is_set():
                    halted.set()
                    work.cancel()
            if cancelled(claim.folder):
                _ = work.cancelled() or work.exception()  # seen
                await to_the_end(self.store.end, claim.folder, claim.job, "cancelled")
                return True
            work.result()
            return True
        except asyncio.CancelledError:  # stopped: that is not the job's fault
            halted.set()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            claim.job.starts -= 1
            if claim.job.finished is None:
                self.store.save(claim.folder, claim.job)
            raise
        except Exception as error:
            fault(f"batch job {claim.job.id}, which will be started again", error)
            return False
        finally:
            claim.lease.release()

    async def _work(self, claim: Claim, halted: threading.Event) -> None:
        folder, job = claim.folder, claim.job
        if job.trained is None:
            job.trained = tuple(self.asked.markets)
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
            told = f"the model did not answer in {self._tries} tries; send the table again later"
            await to_the_end(self.store.end, folder, job, "failed", told)
            return
        counts = await to_the_end(put_together, table, parts, folder)
        _tell(job, counts["kept"], counts["verdicts"], counts["reasons"])
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
            _tell(job, judged, verdicts, reasons)
            if time.monotonic() - saved >= _SAVE_S:
                await to_the_end(self.store.save, folder, job)
                saved = time.monotonic()


class _Halted(Exception):
    """The job is to stop."""


def _tell(job: StoredJob, judged: int, verdicts: int, reasons: Counter[str]) -> None:
    job.judged, job.verdicts = judged, verdicts
    job.quarantined, job.reasons = reasons.total(), dict(reasons.most_common())
