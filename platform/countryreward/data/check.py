"""What a dataset can and cannot show, before anyone trains: `countryreward data check DIR`."""

from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.dataset import Dataset
from countryreward.data.records import Records

_Z = 1.959964 + 0.841621
"""Normal quantiles of a two-sided 5 % test with 80 % power."""


def check(dataset: Dataset, records: Records) -> dict[str, Any]:
    """Facts about derived records: counts, discordant share, noise ceiling, minimum detectable effect, warnings."""
    frame = records.frame
    facts: dict[str, Any] = {"pairs": records.counts["pairs"], "splits": records.counts["splits"]}
    facts["markets"] = {str(name): int(count) for name, count in frame["market"].value_counts().sort_index().items()}
    facts["kinds"] = {str(name): int(count) for name, count in frame["kind"].value_counts().items()}
    facts["products"] = int(frame["product_id"].nunique())
    facts["discordant_share"] = discordant_share(frame)
    soft = frame["soft_label"].dropna().to_numpy(float)
    facts["noise_ceiling"] = float(np.maximum(soft, 1 - soft).mean()) if len(soft) else None
    facts["share_of_letter_a"] = float(frame["label"].mean()) if len(frame) else None
    facts["minimum_detectable_effect"] = minimum_detectable_effect(
        frame[frame["split"] == "test"], "hash_a" if _split_by_image(dataset, records) else "product_id"
    )
    facts["warnings"] = _warnings(dataset, records)
    return facts


def discordant_share(frame: pd.DataFrame) -> float | None:
    """Share of country pairs of one item (and split) whose labels differ; None when no item is seen in two markets."""
    items = frame.groupby(["pair_id", "split"])["label"].agg(["sum", "count"])
    differing = (items["sum"] * (items["count"] - items["sum"])).sum()
    pairs = (items["count"] * (items["count"] - 1) / 2).sum()
    return float(differing / pairs) if pairs else None


def minimum_detectable_effect(test: pd.DataFrame, unit: str = "product_id") -> dict[str, float] | None:
    """Smallest accuracy above .5 that a test at 5 % finds with 80 % power on these test records.

    `independent`: if every record were a separate experiment; `clustered`: if all records of a `unit` (product_id, or hash_a
    where images are the split unit) stood or fell together. The truth lies between; the report's bootstrap finds where. A
    value of .5 or more means that nothing can be detected.
    """
    if test.empty:
        return None
    sizes = test.groupby(unit).size().to_numpy(float)
    return {
        "independent": float(_Z * np.sqrt(0.25 / sizes.sum())),
        "clustered": float(_Z * np.sqrt(0.25 * (sizes**2).sum()) / sizes.sum()),
    }


def _split_by_image(dataset: Dataset, records: Records) -> bool:
    return not set(records.units["unit"]).isdisjoint(dataset.creatives["content_hash"])


def _warnings(dataset: Dataset, records: Records) -> list[str]:
    warnings = []
    per_image = dataset.creatives.groupby("content_hash")["product_id"].nunique()
    recurring = int((per_image > 1).sum())
    frame = records.frame
    by_product = not set(records.units["unit"]).isdisjoint(dataset.products["product_id"])
    if recurring and by_product:
        warnings.append(
            f"{recurring} of {len(per_image)} images occur in several products: set split.by to image, or test pairs leak"
        )
    if len(frame) and frame["equal_exposure_assumed"].any():
        warnings.append("labels from orders assume that both creatives were shown equally often")
    if len(frame) and frame["soft_label"].isna().any():
        warnings.append("some pairs have no impressions: no soft label and no noise ceiling for them")
    if frame["market"].nunique() < 2:
        warnings.append("fewer than two markets: nothing can show whether a judge listens to the country")
    return warnings


def _detectable(effect: float) -> str:
    return f"accuracy {50 + 100 * effect:.1f} %" if effect < 0.5 else "nothing"


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines for a person."""

    def share(value: float | None) -> str:
        return "unknown" if value is None else f"{100 * value:.1f} %"

    pairs = facts["pairs"]
    names = ("train", "validation", "test")  # a manifest sorts its keys
    splits = ", ".join(f"{name} {facts['splits'][name]:,}" for name in names if name in facts["splits"])
    lines = [
        f"pairs x markets   {pairs['input']:,} = {pairs['records']:,} records + {pairs['dropped']:,} dropped"
        f" + {pairs['quarantined']:,} quarantined",
    ]
    lines += [f"  dropped         {count:,} {reason}" for reason, count in pairs["dropped_by_reason"].items()]
    lines += [
        f"splits            {splits or 'none'}",
        f"markets           {', '.join(f'{name} {count:,}' for name, count in facts['markets'].items()) or 'none'}",
        f"evidence          {', '.join(f'{name} {count:,}' for name, count in facts['kinds'].items()) or 'none'}",
        f"labels A          {share(facts['share_of_letter_a'])}",
        f"discordant share  {share(facts['discordant_share'])} of country pairs have different winners",
        f"noise ceiling     {share(facts['noise_ceiling'])}"
        + (" (estimated by empirical Bayes)" if facts["noise_ceiling"] is not None else ": no impressions and clicks"),
    ]
    effect = facts["minimum_detectable_effect"]
    lines.append(
        "detectable effect no test records"
        if effect is None
        else f"detectable effect {_detectable(effect['independent'])} if records were independent,"
        f" {_detectable(effect['clustered'])} if products (or images) stand or fall whole"
    )
    return "\n".join(lines + [f"warning: {text}" for text in facts["warnings"]])
