"""The whole product on a simulated marketplace: what `make demo` runs.

python jobs/demo.py --out=runs/noisy --marketplace.level=real-noise
"""

from dataclasses import dataclass, field

import make_marketplace
import reward_chain
from countryreward.command import run
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, SplitConfig, TableSource
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig
from countryreward.models.reward_config import RewardOptions
from countryreward.on_ray.ray_config import ElasticWorkersConfig, RayConfig
from countryreward.retrieval.retrieval_config import EncodersConfig, RetrievalConfig
from countryreward.training.training_config import LoopConfig


@dataclass(kw_only=True)
class Config:
    """Simulate a marketplace, then run the chain on its export as on anybody's."""

    out: str = "runs/demo"
    """Run folder; every stage publishes a folder in it."""
    marketplace: MarketplaceConfig = field(default_factory=MarketplaceConfig)
    """What to simulate."""
    records: RecordsConfig = field(default_factory=lambda: RecordsConfig(split=SplitConfig(validation=0.06, test=0.12)))
    """How to label and split: more products to learn from than a chain on own data keeps by default."""
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    """Which encoders."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Search and vote."""
    reward: RewardOptions = field(default_factory=RewardOptions)
    """What the model computes."""
    rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group (merger, llm, adapter, classifier, tower); what is not named is the preset's."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(epochs=0.9, validations=3, validation_items=150, log_every=100)
    )
    """The training: below four minutes on two cores."""
    allow_collapsed: str = ""
    """Publish the model although the probe finds that it has collapsed; write why."""
    workers: ElasticWorkersConfig = field(default_factory=ElasticWorkersConfig)
    """The training's processes."""
    draws: int = 2000
    """Bootstrap draws of the report."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> None:
    export = f"{config.out}/export"
    made = make_marketplace.main(make_marketplace.Config(out=export, marketplace=config.marketplace))
    products, creatives, observations = (
        TableSource(path=f"{export}/{name}.csv") for name in ("products", "creatives", "observations")
    )
    reward_chain.main(
        reward_chain.Config(
            out=config.out,
            source=ImportConfig(
                products=products,
                creatives=creatives,
                observations=observations,
                images=ImagesConfig(root=f"{export}/images"),
            ),
            records=config.records,
            encoders=config.encoders,
            retrieval=config.retrieval,
            reward=config.reward,
            rates=config.rates,
            loop=config.loop,
            allow_collapsed=config.allow_collapsed,
            workers=config.workers,
            truth=f"{export}/truth.parquet",
            draws=config.draws,
            stages={"marketplace": made.manifest.seconds},
            ray=config.ray,
        )
    )
    _show_verdicts(config)
    print(f"next: open {config.out}/report.html")
    print(f"next: .venv/bin/countryreward ask {config.out} A.jpg B.jpg --title 'Your product'   # your own two images")
    print(f"next: .venv/bin/countryreward data check {config.out}")
    print(f"next: .venv/bin/countryreward kb show {config.out} --market KR")
    print(
        "next: make serve   # the service and the studio, a page to try it in your browser; prints a link that lets you in"
    )


def _show_verdicts(config: Config) -> None:
    """An unseen product on which the countries disagree most, by its clicks and not by the answers; every market's verdict."""
    import pandas as pd

    from countryreward import CountryReward, Product, markets

    export, records = f"{config.out}/export/images", pd.read_parquet(f"{config.out}/records/records.parquet")
    test = records[records["split"] == "test"].sort_values(["pair_id", "market"])
    unlike = (test.groupby("pair_id")["label"].mean() - 0.5).abs()
    rows = test[test["pair_id"] == unlike.idxmin()]
    row = (
        pd.read_parquet(f"{config.out}/dataset/products.parquet")
        .set_index("product_id")
        .loc[rows["product_id"].iloc[0]]
    )
    names = pd.read_parquet(f"{config.out}/dataset/creatives.parquet").set_index("creative_id")["image_uri"]
    product = Product(
        title=row["title"], category=row["category"], attributes=dict(row["attributes"]), tags=list(row["tags"])
    )
    a, b = (f"{export}/{names[rows[side].iloc[0]]}" for side in ("creative_a", "creative_b"))
    judge = CountryReward.from_pretrained(f"{config.out}/model")
    print(f"ask: {product.title!r}, a product it never saw: A = {a}, B = {b}")
    for verdict, label in zip(judge.score(product, a, b, markets=rows["market"].tolist()), rows["label"], strict=True):
        p = verdict.calibrated_probability or 0.0
        won = "A" if label else "B"
        print(
            f"ask:   {markets.name(verdict.market):<16} {verdict.choice or '-'}  {max(p, 1 - p):>4.0%} sure, "
            f"{verdict.past_ads} past ads; {won} really won (simulated clicks)"
        )


if __name__ == "__main__":
    run(Config, main)
