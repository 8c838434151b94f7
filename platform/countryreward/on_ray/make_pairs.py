"""Preference pairs and cases made on a cluster: the stages of `generation/` through a `Pipeline`, whose outcomes outlive it.

Writers, a renderer and scorers are given (`awaited.py`): actors, Serve handles, HTTP or this process. The outcomes are those of
`generation.pairs.make_pairs` and `generation.cases.make_cases`.
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
from countryreward.generation.ad_contracts import Refusal, RenderedFile
from countryreward.generation.ad_tasks import AdTasks
from countryreward.generation.cases import Reference, case, case_request, no_reference
from countryreward.generation.generation_config import PairRule
from countryreward.generation.outcome_store import OutcomeStore
from countryreward.generation.outcomes import Outcome, counts_of, quarantined, refused
from countryreward.generation.preference_pairs import (
    DesignedTask,
    RenderedTask,
    chosen,
    named,
    pair_request,
    render_jobs,
    shown,
)
from countryreward.generation.tasks import AdTask
from countryreward.on_ray.async_protocols import AsyncRenderer, AsyncWriter
from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.on_ray.pipeline import Pipeline, Stage
from countryreward.on_ray.ray_config import PairLoopConfig
from countryreward.on_ray.retry import patiently
from countryreward.progress import bar
from countryreward.scoring.contracts import AsyncScorer, Verdict

TELL_S = 5.0
"""How often the metrics of the stages are told."""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Of everything that makes an outcome, as told at the start of a run."""

    writer: str
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
    patience_s: float = 600.0,
) -> Versions:
    """It waits until all of them are there. Raises `UserError` when that takes longer than `patience_s`."""
    version, about = await asyncio.gather(
        patiently(writer.version, "writer", patience_s), patiently(renderer.about, "renderer", patience_s)
    )
    told = [await patiently(judge.about, name, patience_s) for name, judge in judges.items()]
    kept = [{name: one.get(name) for name in ("model", "knowledge_base")} for one in told]
    return Versions(
        writer=version,
        renderer=named(about["name"], about["version"]),
        px=about.get("px"),
        judges=dict(zip(judges, kept, strict=True)),
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

        async def choose_one(task: RenderedTask) -> Outcome:
            try:
                verdicts = await scorer.score(pair_request(task, rule))
            except NotAllowed:
                raise
            except UserError as error:
                return refused(task.task, error, "product")
            return chosen(task, verdicts, rule, self.versions.writer)

        async def choose(tasks: Sequence[RenderedTask]) -> list[Outcome]:
            return list(await asyncio.gather(*(choose_one(task) for task in tasks)))

        return [*self._made(rule.designs), self._stage("score", choose)]

    def cases(
        self, judges: Mapping[str, AsyncScorer], reference: Reference = no_reference, *, both_orders: bool = True
    ) -> list[Stage]:
        """The stages of `make_cases`. both_orders: see `case_request`."""

        async def judge_one(task: RenderedTask) -> Outcome:
            try:
                against = await asyncio.to_thread(reference, task.task)
                request = case_request(task, against, both_orders=both_orders)
                answers = await asyncio.gather(*(judge.score(request) for judge in judges.values()))
            except NotAllowed:
                raise
            except UserError as error:
                return refused(task.task, error, "product")
            judged: dict[str, Sequence[Verdict]] = dict(zip(judges, answers, strict=True))
            return case(task, judged, self.versions.writer, both_orders=both_orders)

        async def judge(tasks: Sequence[RenderedTask]) -> list[Outcome]:
            return list(await asyncio.gather(*(judge_one(task) for task in tasks)))

        return [*self._made(1), self._stage("score", judge)]

    def _made(self, designs: int) -> list[Stage]:
        """Writing and rendering."""

        async def write(tasks: Sequence[AdTask]) -> list[DesignedTask | Outcome]:
            return await self.writer.propose(tasks, designs)

        async def render(proposed: Sequence[DesignedTask]) -> list[RenderedTask | Outcome]:
            groups = [await asyncio.to_thread(render_jobs, one) for one in proposed]
            answers = iter(await self.renderer.render([job for jobs in groups for job in jobs]))
            shares: list[list[RenderedFile | Refusal]] = [list(itertools.islice(answers, len(jobs))) for jobs in groups]
            return [shown(one, share, self.versions.renderer) for one, share in zip(proposed, shares, strict=True)]

        return [self._stage("write", write), self._stage("render", render)]

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
    patience_s: float = 600.0,
    progress: str = "",
    metrics: JobMetrics | None = None,
) -> dict[str, Any]:
    """Every task that has no outcome in the store yet, until all have one. Returns counts; input = kept + dropped + quarantined.

    made_by: versions and rule, which are part of the keys. progress: title of a bar; empty: none. metrics: of the job that it is.
    See `Pipeline.run` for what it raises.
    """
    keys = tasks.keys(made_by)
    before = sum(key in store.found for key in keys)
    metrics = metrics or JobMetrics("tasks")
    shown_bar: AbstractContextManager[Callable[[int, int], None]] = (
        bar(progress) if progress else nullcontext(lambda done, total: None)
    )
    with shown_bar as tell:
        done = before

        def take(outcomes: list[Outcome]) -> None:
            nonlocal done
            store.put(outcomes)
            done += len(outcomes)
            tell(done, len(keys))
            for outcome in outcomes:
                metrics.add("outcomes_total", outcome=_became(outcome))
            metrics.set("left", len(keys) - done)

        pipeline = Pipeline(stages, take, patience_s=patience_s, proven=before > 0)
        async with _stages_told(pipeline, metrics):
            used = await pipeline.run(tasks.take(made_by, without=frozenset(store.found)))
    assert all(key in store.found for key in keys), "a task has no outcome"
    counts = counts_of([store.found[key] for key in keys], len(keys))
    return counts | {"found": before, "made": len(keys) - before, "loop": used}


def _became(outcome: Outcome) -> str:
    return "kept" if outcome.row is not None else "dropped" if outcome.dropped is not None else "quarantined"


@contextlib.asynccontextmanager
async def _stages_told(pipeline: Pipeline, metrics: JobMetrics) -> AsyncIterator[None]:
    """Every few seconds, and once more at the end, how busy each stage is."""
    began = time.monotonic()

    def tell() -> None:
        for stage, busy in zip(pipeline.stages, pipeline.busy, strict=False):  # no `busy` before it begins
            metrics.set("in_flight", busy.now, stage=stage.name)
            metrics.set("busy", busy.share(time.monotonic() - began), stage=stage.name)
            metrics.reach("calls_again_total", busy.failed, stage=stage.name)

    async def often() -> None:
        while True:
            await asyncio.sleep(TELL_S)
            tell()

    telling = asyncio.create_task(often())
    try:
        yield
    finally:
        telling.cancel()
        tell()
