"""How true labels are where a platform chose who saw an ad (simulated, level delivered), and whether the stated ceiling is.

    python benchmarks/delivered_labels.py                # 3 worlds, audiences observed and hidden; a few minutes
    python benchmarks/delivered_labels.py --quick=true   # that it runs at all; its figures mean nothing

An export is imported and made into records as a user's is, and each label is compared with the truth: which ad has the larger
click rate over the standard mix of audiences, placements, devices, ad sets and months. Labels: compared within common strata and
days. Pooled: all clicks over all impressions, beside it. Ceiling: mean of max(soft label, 1 - soft label), what the records say
of the share of right labels. Ties count one half. Intervals: 95 %, bootstrap over the products of all worlds.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from countryreward.command import run
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, TableSource
from countryreward.data.marketplace.marketplace_config import DeliveredConfig, MarketplaceConfig

if TYPE_CHECKING:
    import pandas as pd

NOT_IDENTIFIED = ("optimised", "unknown")
"""Deliveries under which a winner won as delivered, and may be no better."""


@dataclass(kw_only=True)
class Config:
    """Measure labels of level delivered against the truth."""

    worlds: int = 3
    """Worlds (seeds), each with audiences observed and hidden."""
    products: int = 200
    """Products of a world."""
    markets: int = 3
    """Markets of a world."""
    mix_sd: float = 0.75
    """Standard deviation of the ads' mixes of audiences, in log-odds."""
    draws: int = 2000
    """Bootstrap draws."""
    quick: bool = False
    """As small as possible."""


def main(config: Config) -> None:
    import pandas as pd

    from countryreward.machine import describe_machine

    if config.quick:
        config.worlds, config.products, config.draws = 1, 12, 200
    print(
        f"{config.worlds} worlds x {config.products} products x {config.markets} markets, mixes of sd {config.mix_sd}"
    )
    for audiences in ("observed", "hidden"):
        judged = pd.concat([judged_records(config, seed, audiences) for seed in range(config.worlds)])
        print(f"\naudiences {audiences}: {len(judged):,} records")
        for name, rows in groups(judged):
            print(f"  {name:<11} {len(rows):>6,}  " + "  ".join(figures(rows, config.draws)))
    print(f"\nmachine: {describe_machine()}")


def judged_records(config: Config, seed: int, audiences: str) -> "pd.DataFrame":
    """The records of one world with: right, pooled (1, .5 or 0: whether the winner is truly better), ceiling, not_identified."""
    import numpy as np
    import pandas as pd

    from countryreward.data.dataset import Dataset
    from countryreward.data.importers.import_dataset import import_dataset
    from countryreward.data.marketplace.export import write_export
    from countryreward.data.records import build_records

    marketplace = MarketplaceConfig(
        level="delivered",
        seed=seed,
        products=config.products,
        markets=["KR", "BR", "US", "JP", "FR", "ES", "MX", "AU", "CL", "SA"][: config.markets],
        image_px=32,
        delivered=DeliveredConfig(audiences=audiences, mix_sd=config.mix_sd),  # pyright: ignore[reportArgumentType]
    )
    with tempfile.TemporaryDirectory() as folder:
        export, dataset = Path(folder, "export"), Path(folder, "dataset")
        dataset.mkdir()
        write_export(export, marketplace)
        source = ImportConfig(
            products=TableSource(path=f"{export}/products.csv"),
            creatives=TableSource(path=f"{export}/creatives.csv"),
            observations=TableSource(path=f"{export}/observations.csv"),
            images=ImagesConfig(root=f"{export}/images"),
        )
        import_dataset(source, dataset)
        records = build_records(Dataset.read(dataset), RecordsConfig()).frame
        truth = pd.read_parquet(export / "truth.parquet").set_index(["creative_id", "market"])["ctr"]
    true = [
        truth.reindex(pd.MultiIndex.from_frame(records[[f"creative_{side}", "market"]])).to_numpy() for side in "ab"
    ]
    is_a = (true[0] > true[1]).astype(float)
    pooled = (np.sign(records["value_a"] - records["value_b"]) + 1) / 2
    soft = records["soft_label"].to_numpy(float)
    return records.assign(
        product=f"{seed}/" + records["product_id"].astype(str),
        right=1 - (records["label"] - is_a).abs(),
        pooled=1 - (pooled - is_a).abs(),
        ceiling=np.maximum(soft, 1 - soft),
        not_identified=records["delivery"].isin(NOT_IDENTIFIED).astype(float),
    )


def groups(judged: "pd.DataFrame") -> Iterator[tuple[str, "pd.DataFrame"]]:
    """All records, and those of each delivery."""
    yield "all", judged
    for delivery, rows in judged.groupby("delivery"):
        yield str(delivery), rows


def figures(rows: "pd.DataFrame", draws: int) -> Iterator[str]:
    """Each figure in words, with its interval."""
    import numpy as np

    from countryreward.evaluation.statistics import unit_weights

    names = ["right", "pooled", "ceiling", "not_identified"]
    columns = rows[names].assign(off=rows["ceiling"] - rows["right"], one=1.0).to_numpy()
    drawn = np.concatenate(
        [chunk @ columns for chunk in unit_weights(rows["product"].to_numpy(str), draws=draws).chunks()]
    )
    means = columns.mean(axis=0)
    low, high = np.percentile(drawn[:, :-1] / drawn[:, -1:], [2.5, 97.5], axis=0)
    words = ["labels right", "pooled right", "ceiling stated", "not identified", "ceiling - right"]
    for at, word in enumerate(words):
        yield f"{word} {means[at]:.3f} [{low[at]:.3f}, {high[at]:.3f}]"


if __name__ == "__main__":
    run(Config, main)
