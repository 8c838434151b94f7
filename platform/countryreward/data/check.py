"""What a dataset can and cannot show, before anyone trains: `countryreward data check DIR`."""

from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.comparability import nothing_to_compare
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
    facts["outcome"] = next(iter(frame["outcome"].dropna().unique()), None)
    facts["deliveries"] = {str(name): int(count) for name, count in frame["delivery"].value_counts().items()}
    facts["ties"] = int((frame["label"] == 0.5).sum())
    facts["discordant_share"] = discordant_share(frame)
    facts["turned_within_strata"] = turned_within_strata(frame)
    facts["votes"] = records.counts.get("votes")
    facts["spread"] = records.counts.get("spread") or None
    facts["not_identified"] = not_identified(frame, facts["spread"])
    soft = frame["soft_label"].dropna().to_numpy(float)
    facts["noise_ceiling"] = float(np.maximum(soft, 1 - soft).mean()) if len(soft) else None
    facts["share_of_letter_a"] = float(frame["label"].mean()) if len(frame) else None
    facts["minimum_detectable_effect"] = minimum_detectable_effect(
        frame[frame["split"] == "test"], "hash_a" if _split_by_image(dataset, records) else "product_id"
    )
    facts["nothing_to_compare"] = nothing_to_compare(dataset, records)
    facts["warnings"] = _warnings(dataset, records)
    return facts


def discordant_share(frame: pd.DataFrame) -> float | None:
    """Share of country pairs of one item (and split), both with a winner, whose winners differ; None when there are none."""
    won = frame[frame["label"] != 0.5]
    items = won.groupby(["pair_id", "split"])["label"].agg(["sum", "count"])
    differing = (items["sum"] * (items["count"] - items["sum"])).sum()
    pairs = (items["count"] * (items["count"] - 1) / 2).sum()
    return float(differing / pairs) if pairs else None


def turned_within_strata(frame: pd.DataFrame, examples: int = 3) -> dict[str, Any] | None:
    """Simpson's paradox: records of several cells whose pooled rates name another winner than the comparison within cells.

    Returns how many records have several cells (`compared`), how many winners turn (`turned`), their `share`, and the clearest
    `examples` in words; None where no record has several cells.
    """
    several = frame[(frame["kind"] == "counts") & (frame["strata"] > 1)]
    if several.empty:
        return None
    pooled = np.sign((several["value_a"] - several["value_b"]).to_numpy(float))
    turned = several[(pooled != 0) & (several["label"] != 0.5) & ((pooled > 0) != (several["label"] == 1))]
    sure = (turned["soft_label"].astype(float) - 0.5).abs().sort_values(ascending=False, kind="stable").index[:examples]
    words = []
    for row in turned.loc[sure].itertuples():
        winner, loser = (row.creative_a, row.creative_b) if row.label == 1 else (row.creative_b, row.creative_a)
        first, second = ("a", "b") if row.label == 1 else ("b", "a")
        money = row.outcome == "value"
        rates = {
            name: [float(getattr(row, f"{name}_{side}")) for side in (first, second)] for name in ("value", "compared")
        }
        pooled_rates, compared = (
            [f"{rate:.4g}" if money else f"{100 * rate:.4g} %" for rate in rates[name]]
            for name in ("value", "compared")
        )
        words.append(
            f"{row.market}: {winner} beats {loser} {compared[0]} to {compared[1]} within {row.strata} strata and periods,"
            f" pooled it is {pooled_rates[0]} to {pooled_rates[1]}"
        )
    return {"compared": len(several), "turned": len(turned), "share": len(turned) / len(several), "examples": words}


def not_identified(frame: pd.DataFrame, spread: dict[str, Any] | None) -> dict[str, Any] | None:
    """Winners by counts that delivery alone could have made: the platform may have chosen who saw which ad.

    Returns how many records are `as_delivered` (optimised or unknown), the `share` of all with counts whose winner is not
    identified, and whether what delivery adds was `fitted` (from randomised evidence): then a winner is identified where it
    wins with 95 % probability in spite of it; else none as delivered is. None without counts.
    """
    counted = frame[frame["kind"] == "counts"]
    if counted.empty:
        return None
    delivered = counted["delivery"].isin(["optimised", "unknown"])
    fitted = bool(spread) and spread is not None and spread["all"]["delivery"] is not None
    soft = counted["soft_label"].astype(float)
    unsure = np.maximum(soft, 1 - soft) < 0.95
    share = float((delivered & unsure if fitted else delivered).mean())
    return {"as_delivered": int(delivered.sum()), "share": share, "fitted": fitted}


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
    if frame["market"].nunique() == 1:
        warnings.append("the records are of one market: nothing can show whether a judge listens to the country")
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
        f"evidence          {', '.join(f'{name} {count:,}' for name, count in facts['kinds'].items()) or 'none'}"
        + (f"; success is {facts['outcome']}" if facts["outcome"] else ""),
        f"delivery          {', '.join(f'{name} {count:,}' for name, count in facts['deliveries'].items()) or 'none'}",
        f"labels A          {share(facts['share_of_letter_a'])}, {facts['ties']:,} ties",
        f"discordant share  {share(facts['discordant_share'])} of country pairs have different winners",
        f"noise ceiling     {share(facts['noise_ceiling'])}" + _ceiling_note(facts),
    ]
    votes = facts["votes"]
    if votes and votes.get("pairs_labelled_otherwise"):
        lines.append(
            f"votes             of {votes['pairs_labelled_otherwise']:,} pairs are not used: counts label them"
        )
    turned = facts["turned_within_strata"]
    if turned:
        lines.append(
            f"turned winners    {turned['turned']:,} of {turned['compared']:,} ({share(turned['share'])}) win pooled and lose"
            " within strata and periods, or the other way round; the comparison within counts"
        )
        lines += [f"  for example     {words}" for words in turned["examples"]]
    unidentified = facts["not_identified"]
    if unidentified and unidentified["as_delivered"]:
        how = (
            ", in spite of what delivery adds here"
            if unidentified["fitted"]
            else ": nothing randomised tells what delivery adds"
        )
        lines.append(
            f"won as delivered  {unidentified['as_delivered']:,} records: the platform may have chosen who saw which ad;"
            f" {share(unidentified['share'])} of winners are not identified as the better ad{how}"
        )
    effect = facts["minimum_detectable_effect"]
    lines.append(
        "detectable effect no test records"
        if effect is None
        else f"detectable effect {_detectable(effect['independent'])} if records were independent,"
        f" {_detectable(effect['clustered'])} if products (or images) stand or fall whole"
    )
    if nothing := facts.get("nothing_to_compare"):
        lines.append(f"nothing to learn  {nothing}")
    return "\n".join(lines + [f"warning: {text}" for text in facts["warnings"]])


def _ceiling_note(facts: dict[str, Any]) -> str:
    if facts["noise_ceiling"] is not None:
        return " (estimated by empirical Bayes)"
    return ": no impressions and clicks in the records" if facts["kinds"] else ": there are no records"
