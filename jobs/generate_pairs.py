"""Make preference pairs: a writer proposes designs, a renderer shows them, the reward chooses.

    python jobs/generate_pairs.py --writer=runs/demo/designer --services.reward=runs/demo/model --out=runs/demo/pairs

One pair for each product of a split and each market (docs/generation.md). Killed, it goes on when the same command is run again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from countryreward.command import run
from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.generation.generation_config import PairRule
from countryreward.on_ray.ray_config import PairLoopConfig, RayConfig, ServicesConfig, WritersConfig

if TYPE_CHECKING:
    from countryreward.generation.ad_contracts import DesignWriter


@dataclass(kw_only=True)
class Config:
    """Make preference pairs for a split's products."""

    dataset: str = "runs/demo/dataset"
    """Products and their pictures; a product's own picture is its creative with the smallest id."""
    records: str = "runs/demo/records"
    """Which product is in which split."""
    split: str = "train"
    """train, validation or test."""
    markets: list[str] = field(default_factory=list)
    """Codes or names of countries; empty: all that the records know."""
    products: int = 0
    """Products at most, in a random order that the seed fixes; 0: all."""
    first: int = 0
    """Products of that order to leave out first: rounds of an alignment take others each."""
    seed: int = 0
    """Of the products' order, the designs and the ads."""
    writer: str = "runs/demo/designer"
    """Folder of the design writer."""
    rule: PairRule = field(default_factory=PairRule)
    """Which designs become a pair."""
    everywhere: bool = False
    """Judge the two ads of each product and market in all the other markets, too: `rule.elsewhere` for all of them."""
    writers: WritersConfig = field(default_factory=WritersConfig)
    """The actors that write."""
    services: ServicesConfig = field(default_factory=ServicesConfig)
    """Who renders and who judges."""
    loop: PairLoopConfig = field(default_factory=PairLoopConfig)
    """How much at a time."""
    out: str = "runs/demo/pairs"
    """Folder to publish: pairs.parquet, quarantine.jsonl, images/."""
    work: str = ""
    """Folder of finished outcomes while the job runs; empty: `.work` beside out."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config, make_writer: "Callable[[], DesignWriter] | None" = None, **made: Any) -> Artifact:
    """make_writer: called in every writer's actor, instead of opening `config.writer`. made: as for
    `ServicePool` (`on_ray/deployments/service_pool.py`)."""
    from countryreward.generation.ad_tasks import tasks_of
    from countryreward.on_ray.session import session
    from countryreward.on_ray.writers import open_writer
    from countryreward.scoring.verdict_shards import WorkFolder

    inputs = {name: open_artifact(getattr(config, name), kind=name) for name in ("dataset", "records")}
    limits = {"split": config.split, "markets": config.markets, "products": config.products}
    limits |= {"first": config.first, "seed": config.seed}
    tasks = tasks_of(inputs["dataset"], inputs["records"], **limits)
    if config.everywhere:
        config.rule = replace(config.rule, elsewhere=sorted({one.market for one in tasks.listed}))
    place = Path(config.out).absolute()
    work = WorkFolder(Path(config.work) if config.work else place.parent / ".work" / place.name)
    make = make_writer or partial(
        open_writer, str(Path(config.writer).resolve()), "cuda" if config.writers.gpus else "cpu"
    )

    async def made_pairs() -> Artifact:
        from countryreward.on_ray.deployments.service_pool import ServicePool
        from countryreward.on_ray.publish_pairs import publish_pairs
        from countryreward.on_ray.writers import WriterActors

        who = config.writers
        async with ServicePool(config.services, work.folder / "services", **made) as services:
            with WriterActors(make, actors=who.actors, cpus=who.cpus, gpus=who.gpus) as writer:
                asked = (writer, services.renderer(), services.scorer())
                to = {"out": config.out, "work": work, "loop": config.loop, "inputs": inputs, "options": limits}
                return await publish_pairs(tasks, *asked, config.rule, **to)

    with work.held(), session(config.ray):
        artifact = asyncio.run(made_pairs())
    _tell(artifact.manifest.counts, config.out)
    return artifact


def _tell(counts: dict[str, Any], out: str) -> None:
    tasks, loop = counts["tasks"], counts["loop"]
    told = " + ".join(f"{tasks[name]:,} {name}" for name in ("kept", "dropped", "quarantined"))
    print(f"pairs: {tasks['input']:,} products x markets = {told}")
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
