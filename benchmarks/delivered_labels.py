"""How true labels are where a platform chose who saw an ad (simulated, level delivered), and whether the stated ceiling is.

    python benchmarks/delivered_labels.py                # 3 worlds, audiences observed and hidden; a few minutes
    python benchmarks/delivered_labels.py --quick=true   # that it runs at all; its figures mean nothing

An export is imported and made into records as a user's is, and each label is compared with the truth: which ad has the larger
click rate over the standard mix of audiences, placements, devices, ad sets and months. Labels: compared within common strata and
days. Pooled: all clicks over all impressions, beside it. Ceiling: mean of max(soft label, 1 - soft label), what the records say
of the share of right labels. Ties count one half. Intervals: 95 %, bootstrap over the products of all worlds.
Not identified: what `countryreward data check` says of winners that delivery alone could have made.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from countryreward.command import run
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, TableSource
from countryreward.data.marketplace.marketplace_config import DeliveredConfig, MarketplaceConfig

if TYPE_CHECKING:
    import pandas as pd

    from countryreward.data.records import Records

Audiences = Literal["observed", "hidden"]


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
    randomised: float = 0.2
    """Share of products whose ads ran as a randomised test."""
    draws: int = 2000
    """Bootstrap draws."""
    quick: bool = False
    """As small as possible."""


def main(config: Config) -> None:
    import pandas as pd

    from countryreward.data.check import not_identified, turned_within_strata
    from countryreward.machine import describe_machine

    if config.quick:
        config.worlds, config.products, config.draws = 1, 12, 200
    size = f"{config.worlds} worlds x {config.products} products x {config.markets} markets"
    print(f"{size}, mixes of sd {config.mix_sd}, {config.randomised:.0%} of products randomised")
    audiences: Audiences
    for audiences in ("observed", "hidden"):
        judged, said = [], []
        for seed in range(config.worlds):
            records, truth = records_and_truth(config, seed, audiences)
            judged.append(judge(records.frame, truth, seed))
            identified = not_identified(records.frame, records.counts["spread"]) or {"share": 0.0}
            turned = turned_within_strata(records.frame) or {"share": 0.0}
            said.append((identified["share"], turned["share"], records.counts["spread"]["all"]))
        rows = pd.concat(judged)
        print(f"\naudiences {audiences}")
        print(f"  {'delivery':<11}{'records':>8}" + "".join(f"  {name:<20}" for name in FIGURES.values()))
        for name, part in groups(rows):
            print(f"  {name:<11}{len(part):>8,}" + "".join(f"  {figure:<20}" for figure in figures(part, config.draws)))
        for seed, (unidentified, turned, spread) in enumerate(said):
            fitted = ", ".join(f"{name} {'unknown' if sd is None else f'{sd:.3f}'}" for name, sd in spread.items())
            print(f"  world {seed}: {unidentified:.1%} of winners not identified, {turned:.1%} turned; spread {fitted}")
    print(f"\nmachine: {describe_machine()}")


def records_and_truth(config: Config, seed: int, audiences: Audiences) -> "tuple[Records, pd.Series[float]]":
    """The records of one world, and the true click rate by creative and market."""
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
        delivered=DeliveredConfig(audiences=audiences, mix_sd=config.mix_sd, randomised=config.randomised),
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
        records = build_records(Dataset.read(dataset), RecordsConfig())
        return records, pd.read_parquet(export / "truth.parquet").set_index(["creative_id", "market"])["ctr"]


FIGURES = {
    "right": "labels right",
    "pooled": "pooled right",
    "ceiling": "ceiling stated",
    "off": "ceiling - right",
}


def judge(records: "pd.DataFrame", truth: "pd.Series[float]", seed: int) -> "pd.DataFrame":
    """By record: product, delivery, right and pooled (1, .5 or 0: whether the winner is truly better), ceiling, off."""
    import numpy as np
    import pandas as pd

    a, b = (
        truth.reindex(pd.MultiIndex.from_frame(records[[f"creative_{side}", "market"]])).to_numpy() for side in "ab"
    )
    is_a = (a > b).astype(float)
    pooled = (np.sign(records["value_a"].to_numpy() - records["value_b"].to_numpy()) + 1) / 2
    soft = records["soft_label"].to_numpy(float)
    right, ceiling = 1 - np.abs(records["label"].to_numpy() - is_a), np.maximum(soft, 1 - soft)
    return pd.DataFrame(
        {
            "product": f"{seed}/" + records["product_id"].astype(str),
            "delivery": records["delivery"],
            "right": right,
            "pooled": 1 - np.abs(pooled - is_a),
            "ceiling": ceiling,
            "off": ceiling - right,
        }
    )


def groups(judged: "pd.DataFrame") -> "Iterator[tuple[str, pd.DataFrame]]":
    """All records, and those of each delivery."""
    yield "all", judged
    for delivery, rows in judged.groupby("delivery"):
        yield str(delivery), rows


def figures(rows: "pd.DataFrame", draws: int) -> Iterator[str]:
    """Each of FIGURES with its interval."""
    import numpy as np

    from countryreward.evaluation.statistics import unit_weights

    columns = np.column_stack([rows[list(FIGURES)].to_numpy(float), np.ones(len(rows))])
    weights = unit_weights(rows["product"].to_numpy(str), draws=draws)
    drawn = np.concatenate([chunk @ columns for chunk in weights.chunks()])
    low, high = np.percentile(drawn[:, :-1] / drawn[:, -1:], [2.5, 97.5], axis=0)
    for mean, least, most in zip(columns.mean(axis=0), low, high, strict=False):
        yield f"{mean:.3f} [{least:.3f}, {most:.3f}]"


if __name__ == "__main__":
    run(Config, main)
