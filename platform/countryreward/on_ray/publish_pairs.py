"""From tasks to a published artifact of pairs or cases, over a work folder that a killed run leaves for the next one."""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import Artifact, as_plain, current, open_artifact, publish
from countryreward.generation.ad_maker import AsyncRenderer, AsyncWriter
from countryreward.generation.ad_tasks import AdTasks
from countryreward.generation.cases import ADS, Reference, no_reference
from countryreward.generation.generation_config import PairRule
from countryreward.generation.outcomes import Outcome, OutcomeStore
from countryreward.generation.preference_table import CASE_TABLE, PAIRS, write_outcomes, write_pictures
from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.on_ray.make_pairs import Stages, run_tasks, versions_of
from countryreward.on_ray.pipeline import Stage
from countryreward.on_ray.ray_config import PairLoopConfig
from countryreward.scoring.contracts import AsyncScorer
from countryreward.scoring.verdict_shards import WorkFolder

Amend = Callable[[list[dict[str, Any]], Path], None]
"""Rows of CASES, which it may change, and the folder they will be in."""


async def publish_pairs(
    tasks: AdTasks,
    writer: AsyncWriter,
    renderer: AsyncRenderer,
    scorer: AsyncScorer,
    rule: PairRule,
    *,
    out: str,
    work: WorkFolder,
    loop: PairLoopConfig,
    inputs: Mapping[str, Artifact],
    options: Mapping[str, Any],
) -> Artifact:
    """pairs.parquet, quarantine.jsonl and the products' own pictures; what is there already and up to date is left.

    work: held by the caller. options: which tasks these are, for the manifest. Raises `UserError` when a writer, a renderer or a
    scorer does not answer for `loop.retry_s` seconds.
    """
    versions = await versions_of(writer, renderer, {"reward": scorer}, retry_s=loop.retry_s)
    made_by = {**versions.as_dict(), "rule": as_plain(rule)}
    stages = Stages(writer=writer, renderer=renderer, versions=versions, config=loop).pairs(scorer, rule)
    return await _publish(PAIRS, tasks, made_by, stages, out, work, loop, inputs, options)


async def publish_cases(
    tasks: AdTasks,
    writer: AsyncWriter,
    renderer: AsyncRenderer,
    judges: Mapping[str, AsyncScorer],
    *,
    out: str,
    work: WorkFolder,
    loop: PairLoopConfig,
    inputs: Mapping[str, Artifact],
    options: Mapping[str, Any],
    reference: Reference = no_reference,
    both_orders: bool = True,
    amend: Amend | None = None,
) -> Artifact:
    """cases.parquet, ads/*.png, quarantine.jsonl and the products' own pictures; what is there already and up to date is left.

    work: held by the caller. options: which tasks these are, for the manifest. reference: gives the ads to compare with; the
    artifact they are from belongs into `inputs`. both_orders: ask every judge also
    with the ad as B. amend: is given the rows and the folder before they are published, to add what no judge is asked for.
    """
    versions = await versions_of(writer, renderer, judges, retry_s=loop.retry_s)
    input_versions = {name: artifact.manifest.version for name, artifact in inputs.items()}
    made_by = {**versions.as_dict(), "both_orders": both_orders, "inputs": input_versions}
    stages = Stages(writer=writer, renderer=renderer, versions=versions, config=loop).cases(
        judges, reference, both_orders=both_orders
    )
    return await _publish(CASE_TABLE, tasks, made_by, stages, out, work, loop, inputs, options, amend)


async def _publish(
    kind: str,
    tasks: AdTasks,
    made_by: dict[str, Any],
    stages: list[Stage],
    out: str,
    work: WorkFolder,
    loop: PairLoopConfig,
    inputs: Mapping[str, Artifact],
    options: Mapping[str, Any],
    amend: Amend | None = None,
) -> Artifact:
    config = {**options, "made_by": made_by}
    if artifact := current(out, kind=kind, inputs=inputs, config=config):
        print(f"{kind}: {out} is up to date")
        return artifact
    store = OutcomeStore(work.of("parts", made_by))
    with publish(out, kind=kind, inputs=inputs, config=config) as draft:
        draft.counts |= await run_tasks(
            tasks,
            made_by,
            stages,
            store,
            retry_s=loop.retry_s,
            progress=f"{kind} made",
            metrics=JobMetrics(kind),
        )
        outcomes = [store.outcomes[key] for key in tasks.keys(made_by)]
        if amend:
            await asyncio.to_thread(amend, [outcome.row for outcome in outcomes if outcome.row is not None], draft.path)
        write_outcomes(draft.path, kind, outcomes)
        kept = [row for outcome in outcomes for row in ([outcome.row] if outcome.row else []) + outcome.elsewhere]
        write_pictures(draft.path, (_picture(row) for row in kept), tasks.images)
        if kind == CASE_TABLE:
            _copy_ads(outcomes, store.folder, draft.path)
    work.clear(keep_encodes=False)
    return open_artifact(out, kind=kind)


def _picture(row: dict[str, Any]) -> str:
    return row["image_hash"] if "image_hash" in row else row["images"][0]


def _copy_ads(outcomes: list[Outcome], store: Path, folder: Path) -> None:
    """The files of the rows, which the work folder gives up in a moment."""
    (folder / ADS).mkdir()
    for name in sorted({outcome.row["ad"] for outcome in outcomes if outcome.row is not None}):
        shutil.copyfile(store / ADS / f"{name}.png", folder / ADS / f"{name}.png")
