"""The whole product on a simulated marketplace: what `make demo` runs.

python jobs/demo.py --out=runs/noisy --marketplace.level=real-noise
"""

from dataclasses import dataclass, field, replace

import make_marketplace
import reward_chain
from countryreward.command import run
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, SplitConfig, TableSource
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig
from countryreward.job_options import contained
from countryreward.training.training_config import LoopConfig


@dataclass(kw_only=True)
class Config:
    """Simulate a marketplace, then run the chain on its export as on anybody's."""

    marketplace: MarketplaceConfig = field(default_factory=MarketplaceConfig)
    """What to simulate."""
    chain: reward_chain.Config = contained(
        lambda: reward_chain.Config(
            # more products to learn from than a chain on own data keeps by default
            records=RecordsConfig(split=SplitConfig(validation=0.06, test=0.12)),
            # below four minutes on two cores
            training=reward_chain.chain_training(
                loop=LoopConfig(epochs=0.9, validations=3, validation_items=150, log_every=100)
            ),
        ),
        hidden=("source", "truth", "stages"),
    )
    """Everything after the export."""


def main(config: Config) -> None:
    out = config.chain.out
    export = f"{out}/export"
    marketplace = make_marketplace.main(make_marketplace.Config(out=export, marketplace=config.marketplace))
    products, creatives, observations = (
        TableSource(path=f"{export}/{name}.csv") for name in ("products", "creatives", "observations")
    )
    reward_chain.main(
        replace(
            config.chain,
            source=ImportConfig(
                products=products,
                creatives=creatives,
                observations=observations,
                images=ImagesConfig(root=f"{export}/images"),
                delivery="randomised",  # the simulator shows every ad to chance comers
            ),
            truth=f"{export}/truth.parquet",
            stages={"marketplace": marketplace.manifest.seconds},
        )
    )
    _show_verdicts(out)
    print(f"next: open {out}/report.html")
    print(f"next: .venv/bin/countryreward ask {out} A.jpg B.jpg --title 'Your product'   # your own two images")
    print(f"next: .venv/bin/countryreward data check {out}")
    print(f"next: .venv/bin/countryreward kb show {out} --market KR")
    print(
        "next: make serve   # the service and the studio, a page to try it in your browser; prints a link that lets you in"
    )


def _show_verdicts(out: str) -> None:
    """An unseen product on which the countries disagree most, by its clicks and not by the answers; every market's verdict."""
    import pandas as pd

    from countryreward import CountryReward, Product, markets

    export, records = f"{out}/export/images", pd.read_parquet(f"{out}/records/records.parquet")
    test = records[records["split"] == "test"].sort_values(["pair_id", "market"])
    unlike = (test.groupby("pair_id")["label"].mean() - 0.5).abs()
    rows = test[test["pair_id"] == unlike.idxmin()]
    row = pd.read_parquet(f"{out}/dataset/products.parquet").set_index("product_id").loc[rows["product_id"].iloc[0]]
    names = pd.read_parquet(f"{out}/dataset/creatives.parquet").set_index("creative_id")["image_uri"]
    product = Product(
        title=row["title"], category=row["category"], attributes=dict(row["attributes"]), tags=list(row["tags"])
    )
    a, b = (f"{export}/{names[rows[side].iloc[0]]}" for side in ("creative_a", "creative_b"))
    judge = CountryReward.from_pretrained(f"{out}/model")
    print(f"ask: {product.title!r}, a product it never saw: A = {a}, B = {b}")
    for verdict, label in zip(judge.score(product, a, b, markets=rows["market"].tolist()), rows["label"], strict=True):
        p = verdict.calibrated_probability or 0.0
        won = "neither" if label == 0.5 else "A" if label else "B"
        print(
            f"ask:   {markets.name(verdict.market):<16} {verdict.choice or '-'}  {max(p, 1 - p):>4.0%} sure, "
            f"{verdict.past_ads} past ads; {won} really won (simulated clicks)"
        )


if __name__ == "__main__":
    run(Config, main, reading=True)
