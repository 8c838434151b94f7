"""Ads made for markets, on the demo's simulated marketplace: what `make demo-ads` runs, after `make demo`.

    python jobs/demo_ads.py
    python jobs/demo_ads.py --seed=1 --out=runs/ads1

A design writer is taught by the designs that won clicks; a judge that takes no part is trained on other products of the same
world; the writer is aligned with the demo's reward; Table 2 and a gallery say what came of it.
Every stage is skipped when it is up to date.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import align_designs
import generate_ads
import import_designs
import make_marketplace
import reward_chain
import train_designer
from countryreward.command import run
from countryreward.data.artifacts import open_artifact
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, SplitConfig, TableSource
from countryreward.data.marketplace.marketplace_config import DeliveredConfig, MarketplaceConfig
from countryreward.generation.generation_config import PairRule, TasksConfig
from countryreward.on_ray.ray_config import (
    AdMakingConfig,
    ElasticWorkersConfig,
    PairLoopConfig,
    RayConfig,
    ServicesConfig,
    WorkersConfig,
    WritersConfig,
)
from countryreward.training.training_config import LoopConfig, WriterLoop, WriterTraining


@dataclass(kw_only=True)
class Config:
    """Small enough for two cores and twenty minutes."""

    run: str = "runs/demo"
    """Run folder of jobs/demo.py; the held-out judge is put there, too."""
    out: str = ""
    """Folder of the writers and of what they make; empty: that of the run."""
    seed: int = 0
    """Of training, designs and ads; the held-out judge has another one."""
    rounds: int = 2
    """Rounds of alignment at most."""
    products: int = 36
    """Products whose pairs a round makes."""
    judged: int = 40
    """Test products that the writers are judged on."""
    judge_products: int = 500
    """Products of the held-out judge's marketplace."""
    cold_start: WriterLoop = field(default_factory=lambda: WriterLoop(epochs=0.4))
    """The writer's training by example."""
    training: WriterLoop = field(default_factory=lambda: WriterLoop(epochs=1))
    """A round of DPO."""
    judge: LoopConfig = field(default_factory=lambda: LoopConfig(epochs=0.8, validations=2, validation_items=60))
    """The held-out judge's training."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """The processes of a training."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> None:
    from countryreward.on_ray.session import session

    at = {name: f"{config.run}/{name}" for name in ("dataset", "records", "model", "designs")}
    at |= {name: f"{config.out or config.run}/{name}" for name in ("designer", "aligned")}
    config.cold_start.seed = config.training.seed = config.seed
    data: dict[str, Any] = {name: at[name] for name in ("dataset", "records")}
    export = f"{config.run}/export"
    open_artifact(at["model"], kind="model", verify=False)
    with session(config.ray):
        import_designs.main(
            import_designs.Config(**data, designs=TableSource(path=f"{export}/designs.jsonl"), out=at["designs"])
        )
        train_designer.main(
            train_designer.Config(
                training=WriterTraining(designs=at["designs"], dataset=at["dataset"], loop=config.cold_start),
                out=at["designer"],
                workers=config.workers,
            )
        )
        held_out = _held_out_judge(config)
        align_designs.main(
            align_designs.Config(
                tasks=TasksConfig(**data, products=config.products, draws=2, seed=config.seed),
                writer=at["designer"],
                held_out=held_out,
                truth=export,
                count=config.rounds,
                judged=config.judged,
                training=config.training,
                rule=PairRule(both_orders=False),  # the demo's models are antisymmetric: they say the same in both
                both_orders=False,
                everywhere=True,
                making=AdMakingConfig(
                    # no whole processor: on a small machine the training has them all
                    writers=WritersConfig(actors=2, cpus=0),
                    services=ServicesConfig(reward=at["model"], reward_replicas=1, reward_cpus=0, generator_cpus=0),
                    loop=PairLoopConfig(write_batch=32, write_in_flight=4, render_batch=16, score_batch=16),
                ),
                workers=config.workers,
                out=at["aligned"],
            )
        )
    _show(config)


def _held_out_judge(config: Config) -> str:
    """Other products, another seed, the same world; its own knowledge base. Its model folder."""
    demo = open_artifact(f"{config.run}/export", kind="export", verify=False).manifest.config
    world = demo["seed"] if demo["world_seed"] == -1 else demo["world_seed"]
    out = f"{config.run}/held_out"
    export, seed = f"{out}/export", demo["seed"] + 1_001
    kept = {name: demo[name] for name in ("level", "markets", "image_px")}
    if "delivered" in demo:  # options of the level of that name
        kept["delivered"] = DeliveredConfig(**demo["delivered"])
    make_marketplace.main(
        make_marketplace.Config(
            out=export,
            marketplace=MarketplaceConfig(**kept, products=config.judge_products, seed=seed, world_seed=world),
        )
    )
    tables: dict[str, Any] = {
        name: TableSource(path=f"{export}/{name}.csv") for name in ("products", "creatives", "observations")
    }
    config.judge.seed = seed
    reward_chain.main(
        reward_chain.Config(
            out=out,
            source=ImportConfig(**tables, delivery="randomised", images=ImagesConfig(root=f"{export}/images")),
            records=RecordsConfig(split=SplitConfig(validation=0.08, test=0.02)),
            truth=f"{export}/truth.parquet",
            training=reward_chain.chain_training(loop=config.judge),
            workers=ElasticWorkersConfig(**asdict(config.workers)),
        ),
        report=False,
    )
    return f"{out}/model"


def _show(config: Config) -> None:
    """Ads of one product in every market, and our Table 2."""
    import json

    out = config.out or config.run
    table = json.loads(Path(out, "table2.json").read_text(encoding="utf-8"))
    cases = open_artifact(f"{out}/rounds/reference/cases", kind="cases", verify=False)
    from countryreward.generation.preference_table import read_cases

    product = min(row["product_id"] for row in read_cases(cases))
    generate_ads.main(
        generate_ads.Config(
            markets=table["markets"],
            product=product,
            n=3,
            dataset=f"{config.run}/dataset",
            writer=f"{out}/aligned",
            model=f"{config.run}/model",
            out=f"{out}/ads",
        )
    )
    print("table 2, ours: ads that are preferred to the product's original creative (simulated marketplace)")
    for row in table["rows"]:
        share = row["all"]
        low, high = (f"{100 * (share[bound] or 0):.0f}" for bound in ("low", "high"))
        print(f"  {row['variant']:<10} by {row['judge']:<9} {100 * share['value']:.1f} % [{low}, {high}]")
    print(f"next: open {out}/alignment.html   # before and after, by three judges, with the ads")
    print(f"next: open {out}/gallery.html     # one product in every market")
    print("next: make serve   # the studio's button for new pictures asks the aligned writer")


if __name__ == "__main__":
    run(Config, main)
