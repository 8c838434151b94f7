"""What is a design writer worth? One ad per (product, market), judged against the product's original creative.

    python jobs/judge_designs.py --writer=runs/demo/designer --out=runs/demo/cases
    python jobs/judge_designs.py --writer=runs/demo/aligned --reference=runs/demo/cases --reference_writer=runs/demo/designer

With `reference` every ad is also judged against the reference writer's ad of the same case. Judges: the reward, a held-out judge,
on the simulator the truth. Killed, it goes on when the same command is run again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from countryreward.command import run
from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.generation.generation_config import TasksConfig
from countryreward.job_options import contained
from countryreward.on_ray.ray_config import AdMakingConfig, RayConfig


@dataclass(kw_only=True)
class Config:
    """Make cases."""

    tasks: TasksConfig = contained(lambda: TasksConfig(split="test", draws=2), hidden=("first",))
    """Which products in which markets."""
    writer: str = "runs/demo/designer"
    """Folder of the design writer."""
    reference: str = ""
    """Published cases of the reference writer, with the same products, markets, draws and seed; empty: none."""
    reference_writer: str = ""
    """Folder of the reference writer: how far the writer is from it is measured; empty: it is not."""
    held_out: str = ""
    """A judge that took no part: as `services.reward`; empty: none."""
    truth: str = ""
    """The simulated export that the dataset was imported from: its customers judge, too; empty: real data."""
    both_orders: bool = True
    """Ask every judge in both orders; an antisymmetric model (reading `repaired`) says the same in both."""
    making: AdMakingConfig = contained(AdMakingConfig)
    """Who makes and judges the ads."""
    out: str = "runs/demo/cases"
    """Folder to publish: cases.parquet, ads/*.png, log_probs.parquet."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config, **makers: Any) -> Artifact:
    """makers: as for `ServicePool` (`on_ray/deployments/service_pool.py`)."""
    from countryreward.generation.ad_tasks import open_tasks
    from countryreward.generation.cases import ReferenceAds, no_reference
    from countryreward.on_ray.publish_pairs import publish_cases
    from countryreward.on_ray.session import session
    from countryreward.on_ray.writers import ad_makers, writer_opener
    from countryreward.scoring.verdict_shards import WorkFolder

    inputs, tasks = open_tasks(config.tasks)
    options = {name: getattr(config.tasks, name) for name in ("split", "markets", "products", "seed", "draws")}
    if config.reference:
        inputs["reference"] = open_artifact(config.reference, kind="cases")
    if config.truth:
        inputs["truth"] = open_artifact(config.truth, kind="export", verify=False)
    place = Path(config.out).absolute()
    work = WorkFolder(place.parent / ".work" / place.name)
    make_writer = writer_opener(config.writer, config.making.writers)

    async def make_cases() -> Artifact:
        async with ad_makers(config.making, make_writer, work.folder / "services", **makers) as (writer, services):
            judges = {"reward": services.scorer()}
            if config.held_out:
                judges["held_out"] = services.scorer(config.held_out, "held_out")
            return await publish_cases(
                tasks,
                writer,
                services.renderer(),
                judges,
                out=config.out,
                work=work,
                loop=config.making.loop,
                inputs=inputs,
                options=options,
                reference=ReferenceAds(inputs["reference"]) if config.reference else no_reference,
                both_orders=config.both_orders,
                amend=_amend(config, inputs),
            )

    with work.held(), session(config.ray):
        artifact = asyncio.run(make_cases())
    counts = artifact.manifest.counts["tasks"]
    total = " + ".join(f"{counts[name]:,} {name}" for name in ("kept", "dropped", "quarantined"))
    print(f"cases: {counts['input']:,} products x markets x draws = {total} -> {config.out}")
    return artifact


def _amend(config: Config, inputs: dict[str, Artifact]) -> Callable[[list[dict[str, Any]], Path], None]:
    """Adds the truth and the log-probabilities."""

    def amend(rows: list[dict[str, Any]], folder: Path) -> None:
        from countryreward.data.dataset import Dataset, own_pictures
        from countryreward.data.marketplace.true_preference import TruePreference
        from countryreward.generation.cases import add_truth
        from countryreward.generation.preference_table import read_cases
        from countryreward.on_ray.writers import measure_log_probs

        if config.truth:
            originals = own_pictures(Dataset.read(inputs["dataset"].path).creatives)["creative_id"]
            before = read_cases(inputs["reference"]) if config.reference else []
            add_truth(rows, TruePreference(config.truth), {str(p): c for p, c in originals.items()}, before)
        if config.reference_writer:
            writers = {"writer": config.writer, "reference": config.reference_writer}
            measure_log_probs(folder, rows, inputs["dataset"].path, writers, gpus=config.making.writers.gpus)

    return amend


if __name__ == "__main__":
    run(Config, main, reading=True)
