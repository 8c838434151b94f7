"""Jobs in the background of a replica, one at a time, whatever their kind."""

import asyncio
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from countryreward.serving.durable_jobs.job_folders import Claim, J, JobFolders, cancelled
from countryreward.serving.http.request_log import fault
from countryreward.serving.service_config import SharedServiceConfig

P = ParamSpec("P")
T = TypeVar("T")
_SWEEP_S = 60.0


async def to_the_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """In a thread, as `asyncio.to_thread`; but cancelled, it waits for the thread, which still works in the job's folder."""
    thread = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        thread.exception()  # seen: nobody is there to be told
        raise


class JobWorker(ABC, Generic[J]):
    """Works off the jobs of a store between `start` and `stop`. A subclass says how a job is done.

    Any number of replicas may share the folder. A job whose replica was killed is taken up by another one.
    """

    def __init__(self, folders: JobFolders[J], config: SharedServiceConfig) -> None:
        self.config, self._folders = config, folders
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    def can_work(self) -> bool:
        """Whether a job can be taken up now."""

    @abstractmethod
    async def work(self, claim: Claim[J], halted: threading.Event) -> None:
        """Do a job and end it. Cancelled when the job is cancelled or the worker stops; threads look at `halted`.

        An exception is a fault of ours: the job will be started again.
        """

    async def look(self) -> None:
        """Do what else there is to do in every round, before a job is taken up."""
        return

    async def start(self) -> None:
        """Begin to work jobs off."""
        assert self._task is None, "start is called once"
        self._task = asyncio.create_task(self._forever(), name=f"{self._folders.noun}s")

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
                    await to_the_end(self._folders.sweep)
                await self.look()
                await self._tell_backlog()
                if self.can_work() and (claim := await to_the_end(self._folders.claim)):
                    worked = await self._run(claim)
            except Exception as error:  # such as a full disk: the next round may fare better
                fault(f"a round of {self._folders.noun}s", error)
            if not worked:
                await asyncio.sleep(self.config.poll_s)

    async def _tell_backlog(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # no job ends for the sake of a metric
            await to_the_end(self._folders.tell_backlog)

    async def _run(self, claim: Claim[J]) -> bool:
        """Work on a job until it ends or is cancelled. False: it failed for a reason of ours and is to be started again."""
        halted = threading.Event()
        work = asyncio.create_task(self.work(claim, halted))
        try:
            while not (await asyncio.wait({work}, timeout=self.config.poll_s))[0]:
                await self._tell_backlog()
                if cancelled(claim.folder) and not halted.is_set():
                    halted.set()
                    work.cancel()
            if cancelled(claim.folder):
                _ = work.cancelled() or work.exception()  # seen
                await to_the_end(self._folders.end, claim.folder, claim.job, "cancelled")
                return True
            work.result()
            return True
        except asyncio.CancelledError:  # stopped: that is not the job's fault
            halted.set()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            claim.job.starts -= 1
            if claim.job.finished is None:
                self._folders.save(claim.folder, claim.job)
            raise
        except Exception as error:
            fault(f"{self._folders.noun} {claim.job.id}, which will be started again", error)
            return False
        finally:
            claim.lease.release()
