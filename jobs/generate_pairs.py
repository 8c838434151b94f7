"""Make preference pairs: a writer proposes designs, a renderer shows them, the reward chooses.

    python jobs/generate_pairs.py --writer=runs/demo/designer --services.reward=runs/demo/model --out=runs/demo/pairs

One pair for each product of a split and each market (docs/generation.md). Killed, it goes on when the same command is run again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from countryreward.command import run
from countryreward.data.artifacts import Artifact
from countryreward.generation.generation_config import PairRule, TasksConfig
from countryreward.job_options import contained
from countryreward.on_ray.ray_config import AdMakingConfig, RayConfig

if TYPE_CHECKING:
    from countryreward.generation.ad_contracts import DesignWriter


@dataclass(kw_only=True)
class Config:
    """Make preference pairs for a split's products."""

    tasks: TasksConfig = contained(TasksConfig, hidden=("draws",))
    """Which products in which markets."""
    writer: str = "runs/demo/designer"
    """Folder of the design writer."""
    rule: PairRule = field(default_factory=PairRule)
    """Which designs become a pair."""
    everywhere: bool = False
    """Judge the two ads of each product and market in all the other markets, too: `rule.elsewhere` for all of them."""
    making: AdMakingConfig = contained(AdMakingConfig)
    """Who makes them."""
    out: str = "runs/demo/pairs"
    """Folder to publish: pairs.parquet, quarantine.jsonl, images/."""
    work: str = ""
    """Folder of finished outcomes while the job runs; empty: `.work` beside out."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config, make_writer: "Callable[[], DesignWriter] | None" = None, **makers: Any) -> Artifact:
    """make_writer: called in every writer's actor, instead of opening `config.writer`. makers: as for
    `ServicePool` (`on_ray/deployments/service_pool.py`)."""
    from countryreward.generation.ad_tasks import open_tasks
    from countryreward.on_ray.publish_pairs import publish_pairs
    from countryreward.on_ray.session import session
    from countryreward.on_ray.writers import ad_makers, writer_opener
    from countryreward.scoring.verdict_shards import WorkFolder

    inputs, tasks = open_tasks(config.tasks)
    options = {name: getattr(config.tasks, name) for name in ("split", "markets", "products", "first", "seed")}
    markets = sorted({task.market for task in tasks.listed}) if config.everywhere else config.rule.elsewhere
    place = Path(config.out).absolute()
    work = WorkFolder(Path(config.work) if config.work else place.parent / ".work" / place.name)
    make_writer = make_writer or writer_opener(config.writer, config.making.writers)

    async def make_pairs() -> Artifact:
        async with ad_makers(config.making, make_writer, work.folder / "services", **makers) as (writer, services):
            return await publish_pairs(
                tasks,
                writer,
                services.renderer(),
                services.scorer(),
                replace(config.rule, elsewhere=markets),
                out=config.out,
                work=work,
                loop=config.making.loop,
                inputs=inputs,
                options=options,
            )

    with work.held(), session(config.ray):
        artifact = asyncio.run(make_pairs())
    _print_counts(artifact.manifest.counts, config.out)
    return artifact


def _print_counts(counts: dict[str, Any], out: str) -> None:
    tasks, loop = counts["tasks"], counts["loop"]
    total = " + ".join(f"{tasks[name]:,} {name}" for name in ("kept", "dropped", "quarantined"))
    print(f"pairs: {tasks['input']:,} products x markets = {total}")
    for reason, count in (tasks["dropped_by_reason"] | tasks["quarantined_by_reason"]).items():
        print(f"       {count:,} {reason}")
    if more := counts.get("elsewhere"):
        print(
            f"pairs: the same ads in other markets: {more['input']:,} = {more['kept']:,} kept + {more['dropped']:,} dropped"
        )
    busy = ", ".join(f"{name} {stage['busy']:.0%}" for name, stage in loop["stages"].items())
    print(f"pairs: {counts['found']:,} were there, {counts['made']:,} made in {loop['wall_s']:.0f} s; busy: {busy}")
    print(f"pairs: -> {out}/pairs.parquet; what was refused and why: {out}/quarantine.jsonl")


if __name__ == "__main__":
    run(Config, main, reading=True)
