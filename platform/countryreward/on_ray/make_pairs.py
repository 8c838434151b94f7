"""Preference pairs and cases made on a cluster: the stages of `generation/` through a `Pipeline`, whose outcomes outlive it.

Writers, a renderer and scorers are given: actors, Serve handles, HTTP or this process. The outcomes are those of
`generation.preference_pairs.make_pairs` and `generation.cases.make_cases`.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from countryreward.client import NotAllowed
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import AdTask, Refusal, RenderedFile
from countryreward.generation.ad_maker import (
    AsyncRenderer,
    AsyncWriter,
    DesignedTask,
    RenderedTask,
    rendered_task,
)
from countryreward.generation.ad_tasks import AdTasks
from countryreward.generation.cases import Reference, case_outcome, case_request, no_reference
from countryreward.generation.generation_config import PairRule
from countryreward.generation.outcomes import Outcome, OutcomeStore, counts_of, quarantined, refused
from countryreward.generation.preference_pairs import pair_outcome, pair_request
from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.on_ray.pipeline import Pipeline, Stage
from countryreward.on_ray.ray_config import PairLoopConfig
from countryreward.on_ray.retry import call_with_retries
from countryreward.progress import bar
from countryreward.scoring.contracts import AsyncScorer, Verdict

METRICS_S = 5.0
"""Seconds between two looks at how busy the stages are."""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Versions of everything that makes an outcome, as they are at the start of a run."""

    writer: str
    """Of the design writer."""
    renderer: str
    """Name and version."""
    px: int | None
    """Side of an ad."""
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Judge -> model, knowledge_base."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(self.__dict__)


async def versions_of(
    writer: AsyncWriter,
    renderer: AsyncRenderer,
    judges: Mapping[str, AsyncScorer],
    *,
    retry_s: float = 600.0,
) -> Versions:
    """It waits until all of them are there. Raises `UserError` when that takes longer than `retry_s` seconds."""
    version, about_renderer = await asyncio.gather(
        call_with_retries(writer.version, "writer", retry_s), call_with_retries(renderer.about, "renderer", retry_s)
    )
    about_judges = {name: await call_with_retries(judge.about, name, retry_s) for name, judge in judges.items()}
    return Versions(
        writer=version,
        renderer=f"{about_renderer['name']} {about_renderer['version']}",
        px=about_renderer.get("px"),
        judges={
            name: {part: about.get(part) for part in ("model", "knowledge_base")}
            for name, about in about_judges.items()
        },
    )


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Who does what, and the versions that are written into the rows."""

    writer: AsyncWriter
    renderer: AsyncRenderer
    versions: Versions
    config: PairLoopConfig = field(default_factory=PairLoopConfig)

    def pairs(self, scorer: AsyncScorer, rule: PairRule) -> list[Stage]:
        """The stages of `make_pairs`."""

        async def ask(task: RenderedTask) -> list[Verdict]:
            return await scorer.score(pair_request(task, rule))

        def outcome(task: RenderedTask, verdicts: list[Verdict]) -> Outcome:
            return pair_outcome(task, verdicts, rule, self.versions.writer)

        return [*self._make_ads(rule.designs), self._judge_stage(ask, outcome)]

    def cases(
        self, judges: Mapping[str, AsyncScorer], reference: Reference = no_reference, *, both_orders: bool = True
    ) -> list[Stage]:
        """The stages of `make_cases`. both_orders: ask every judge also with the ad as B."""

        async def ask(task: RenderedTask) -> dict[str, Sequence[Verdict]]:
            rival = await asyncio.to_thread(reference, task.task)
            request = case_request(task, rival, both_orders=both_orders)
            answers = await asyncio.gather(*(judge.score(request) for judge in judges.values()))
            return dict(zip(judges, answers, strict=True))

        def outcome(task: RenderedTask, verdicts: Mapping[str, Sequence[Verdict]]) -> Outcome:
            return case_outcome(task, verdicts, self.versions.writer, both_orders=both_orders)

        return [*self._make_ads(1), self._judge_stage(ask, outcome)]

    def _make_ads(self, designs: int) -> list[Stage]:
        """Writing and rendering."""

        async def write(tasks: Sequence[AdTask]) -> list[DesignedTask | Outcome]:
            return await self.writer.design_tasks(tasks, designs)

        async def render(designed: Sequence[DesignedTask]) -> list[RenderedTask | Outcome]:
            groups = [await asyncio.to_thread(task.render_jobs) for task in designed]
            answers = iter(await self.renderer.render([job for jobs in groups for job in jobs]))
            shares: list[list[RenderedFile | Refusal]] = [list(itertools.islice(answers, len(jobs))) for jobs in groups]
            return [
                rendered_task(task, share, self.versions.renderer) for task, share in zip(designed, shares, strict=True)
            ]

        return [self._stage("write", write), self._stage("render", render)]

    def _judge_stage(
        self, ask: Callable[[RenderedTask], Awaitable[Any]], outcome: Callable[[RenderedTask, Any], Outcome]
    ) -> Stage:
        """The last stage. ask: what the scorers answer about a task. outcome: what becomes of it then.

        Quarantined: a task that a scorer refuses. A key that is not allowed ends the run.
        """

        async def judge(task: RenderedTask) -> Outcome:
            try:
                answer = await ask(task)
            except NotAllowed:
                raise
            except UserError as error:
                return refused(task.task, error, "product")
            return outcome(task, answer)

        async def judge_all(tasks: Sequence[RenderedTask]) -> list[Outcome]:
            return list(await asyncio.gather(*(judge(task) for task in tasks)))

        return self._stage("score", judge_all)

    def _stage(self, name: str, call: Callable[[Any], Awaitable[Sequence[Any]]]) -> Stage:
        def give_up(item: Any, error: str) -> Outcome:
            task = item if isinstance(item, AdTask) else item.task
            return quarantined(task, "failed_again", name, error)

        batch, in_flight = self.config.of(name)
        return Stage(
            name=name, call=call, give_up=give_up, batch=batch, in_flight=in_flight, timeout_s=self.config.timeout_s
        )


async def run_tasks(
    tasks: AdTasks,
    made_by: Any,
    stages: Sequence[Stage],
    store: OutcomeStore,
    *,
    retry_s: float = 600.0,
    progress: str = "",
    metrics: JobMetrics | None = None,
) -> dict[str, Any]:
    """Every task that has no outcome in the store yet, until all have one. Returns counts; input = kept + dropped + quarantined.

    made_by: versions and rule, which are part of the keys. progress: title of a bar; empty: none. metrics: of the job that it is.
    Raises `UserError` when nobody answers for `retry_s` seconds, and what a call raised for whoever started the loop.
    """
    keys = tasks.keys(made_by)
    stored = sum(key in store.outcomes for key in keys)
    metrics = metrics or JobMetrics("tasks")
    progress_bar: AbstractContextManager[Callable[[int, int], None]] = (
        bar(progress) if progress else nullcontext(lambda done, total: None)
    )
    with progress_bar as show:
        done = stored

        def take(outcomes: list[Outcome]) -> None:
            nonlocal done
            store.put(outcomes)
            done += len(outcomes)
            show(done, len(keys))
            for outcome in outcomes:
                metrics.add("outcomes_total", outcome=_kind(outcome))
            metrics.set("left", len(keys) - done)

        pipeline = Pipeline(stages, take, retry_s=retry_s, proven=stored > 0)
        async with _stage_metrics(pipeline, metrics):
            usage = await pipeline.run(tasks.take(made_by, without=frozenset(store.outcomes)))
    assert all(key in store.outcomes for key in keys), "a task has no outcome"
    counts = counts_of([store.outcomes[key] for key in keys], len(keys))
    return counts | {"found": stored, "made": len(keys) - stored, "loop": usage}


def _kind(outcome: Outcome) -> str:
    return "kept" if outcome.row is not None else "dropped" if outcome.dropped is not None else "quarantined"


@contextlib.asynccontextmanager
async def _stage_metrics(pipeline: Pipeline, metrics: JobMetrics) -> AsyncIterator[None]:
    """Every few seconds, and once more at the end, how busy each stage is."""
    began = time.monotonic()

    def tell() -> None:
        for stage, busy in zip(pipeline.stages, pipeline.busy, strict=False):  # no `busy` before it begins
            metrics.set("in_flight", busy.now, stage=stage.name)
            metrics.set("busy", busy.share(time.monotonic() - began), stage=stage.name)
            metrics.reach("calls_again_total", busy.failed, stage=stage.name)

    async def repeat() -> None:
        while True:
            await asyncio.sleep(METRICS_S)
            tell()

    repeating = asyncio.create_task(repeat())
    try:
        yield
    finally:
        repeating.cancel()
        tell()
