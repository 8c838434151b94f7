"""Generation jobs in the background of a replica: written and rendered in a thread, design by design, then ranked."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from countryreward.data.decoding import ImageError
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignWriter, Refusal, RenderedFile, Renderer, RenderJob
from countryreward.generation.ad_maker import render_files
from countryreward.serving.durable_jobs.generation.generation_passes import (
    DesignPlanner,
    GenerationInputs,
    forget_images,
    refuse,
    render_pass,
    template_plan,
)
from countryreward.serving.durable_jobs.generation.generation_results import (
    finished,
    images_of,
    write_plan,
    write_rankings,
)
from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore, StoredGeneration, Versions
from countryreward.serving.durable_jobs.generation.image_ranking import rank_images
from countryreward.serving.durable_jobs.job_folders import MAX_STARTS, Claim, Clock, utc_now
from countryreward.serving.durable_jobs.job_worker import JobWorker, to_the_end
from countryreward.serving.durable_jobs.retrying_scorer import NoAnswer, RetryingScorer
from countryreward.serving.http.request_log import fault
from countryreward.serving.inference.served_scorer import ServedScorer
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import GeneratorServiceConfig

P = ParamSpec("P")
T = TypeVar("T")
_WAIT_S = 60.0  # for a reward model that is not there: other jobs wait meanwhile


class GenerationJobs(JobWorker[StoredGeneration]):
    """The generation jobs of a service: `store` for its routes, and a task that works them off between `start` and `stop`.

    Any number of replicas may share the folder. A job whose replica was killed is taken up by another one at the next image.
    """

    config: GeneratorServiceConfig

    def __init__(
        self,
        renderer: Renderer,
        config: GeneratorServiceConfig,
        *,
        writer: DesignWriter | None = None,
        scorer: ServedScorer | None = None,
        watching: MetricsObserver | None = None,
        now: Clock = utc_now,
        tries: int = 8,
        first_pause_s: float = 1.0,
        wait_s: float = _WAIT_S,
    ) -> None:
        """writer: None: designs that are not sent come from the templates. scorer: what ranks; None: nothing is ranked.

        tries, first_pause_s, wait_s: how `RetryingScorer` asks the scorer again.
        """
        self.renderer, self.writer, self.scorer = renderer, writer, scorer
        self.store = GenerationStore(config, now, watching)
        self._turn = threading.Lock()  # renderer and writer take one thread at a time, and share a device
        self._others = asyncio.Lock()  # whoever waits for it takes no thread
        super().__init__(self.store, config)
        self.made_by = f"{renderer.name} {renderer.version}"
        options = {"tries": tries, "first_pause_s": first_pause_s, "poll_s": config.poll_s, "wait_s": wait_s}
        self._retrying = None if scorer is None else RetryingScorer(scorer, **options)

    def ready(self) -> bool:
        return True

    def busy(self, tenant: str = "") -> float | None:
        """None: jobs wait in line, so nobody is sent away."""
        return None

    def can_work(self) -> bool:
        return True

    async def look(self) -> None:
        """Tell those who bring jobs in what makes and ranks images now."""
        writer = None if self.writer is None else self.writer.version
        versions = Versions(renderer=self.made_by, judge=await self._judge(), writer=writer)
        await to_the_end(self.store.tell_versions, versions)

    async def _judge(self) -> str | None:
        if self.scorer is None or not self.scorer.ready():
            return None
        about = await self.scorer.about()
        return f"{about.get('model')} {about.get('knowledge_base')}"

    async def work(self, claim: Claim[StoredGeneration], halted: threading.Event) -> None:
        folder, job = claim.folder, claim.job
        try:
            inputs = await to_the_end(GenerationInputs.read, folder, self.config)
        except ImageError as refused:
            await to_the_end(self.store.end, folder, job, "failed", f"image: {refused.reason}; send another one")
            return
        if job.renderer != self.made_by:
            await to_the_end(forget_images, folder)
            job.renderer = self.made_by
            await to_the_end(self.store.save, folder, job)
        if inputs.asked.write:
            await self._plan(folder, job, inputs)
        await self._render(folder, job, inputs)
        if job.markets:
            await self._rank(folder, job, inputs)
        await to_the_end(self.store.end, folder, job, "done")

    async def render_files(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        """The ad of every job as a PNG file, for others than the jobs of this service; between two passes of those."""
        async with self._others:
            return await to_the_end(self._in_turn, render_files, self.renderer, jobs)

    async def _plan(self, folder: Path, job: StoredGeneration, inputs: GenerationInputs) -> None:
        """Decide on the designs, once, on disk before anything is rendered. A writer that took its replica with it is let be."""
        if inputs.plan is None:
            failed = job.starts >= MAX_STARTS
            if self.writer is None or failed:
                inputs.plan = template_plan(inputs, failed=failed and self.writer is not None)
            else:
                planner = DesignPlanner(self.writer, job, inputs, self.store.watching)
                while not planner.done():
                    await to_the_end(self._in_turn, planner.write_pass)
                inputs.plan = planner.plan()
            await to_the_end(write_plan, folder, inputs.plan)
            job.starts = 0
        job.writer, job.designs_note = inputs.plan.writer, inputs.plan.note
        await to_the_end(self.store.save, folder, job)

    def _in_turn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """For a thread: when nobody else is at the renderer or the writer."""
        with self._turn:
            return function(*args, **kwargs)

    async def _render(self, folder: Path, job: StoredGeneration, inputs: GenerationInputs) -> None:
        """Every design that is not done with yet. A design that took its replica with it again and again is refused."""
        there = await to_the_end(finished, folder)
        left = [n for n in range(job.total) if n not in there]
        while left:
            size = self.config.designs_per_pass if job.starts <= 1 else 1  # after a death, one by one
            group, left = left[:size], left[size:]
            if job.starts >= MAX_STARTS:
                reason = "the renderer failed on it again and again; change the design"
                await to_the_end(refuse, folder, inputs, group[0], reason, self.store.watching)
            else:
                pass_of = (self.renderer, folder, job, inputs, group, self.store.watching)
                await to_the_end(self._in_turn, render_pass, *pass_of)
            if job.starts:
                job.starts = 0
                await to_the_end(self.store.save, folder, job)

    async def _rank(self, folder: Path, job: StoredGeneration, inputs: GenerationInputs) -> None:
        """Write the rankings, or note why there are none."""
        images = await to_the_end(images_of, folder)
        if not images:
            return
        if self._retrying is None:
            job.note = "there is no reward model here, so nothing was ranked"
            return
        pictures = await to_the_end(lambda: [(folder / "images" / f"{one.n:04d}.png").read_bytes() for one in images])
        pictures.append(inputs.original)
        judge = await self._judge()
        try:
            rankings = await rank_images(
                self._retrying, job, inputs.product, images, pictures, self.config.max_verdicts
            )
        except NoAnswer as error:
            fault(f"generation job {job.id}, which is not ranked", error)
            job.note = "the reward model did not answer, so nothing was ranked; send the request again later"
            return
        except UserError as error:
            job.note = f"nothing was ranked: {error}"[:1_000]
            return
        job.judge = judge
        await to_the_end(write_rankings, folder, rankings)
