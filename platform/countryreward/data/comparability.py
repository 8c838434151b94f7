"""Why a dataset leaves nothing to compare, said from what was counted: which cause is named was looked for and found."""

from countryreward.data.creative_identity import with_keys
from countryreward.data.dataset import Dataset
from countryreward.data.records import Records


def nothing_to_compare(dataset: Dataset, records: Records) -> str | None:
    """Why no record has a winner, as a sentence; None where one has."""
    counts, labels = records.counts["pairs"], records.frame["label"].astype(float)
    if (labels != 0.5).any():
        return None
    if not counts["input"]:
        return _no_pair(dataset, records)
    left_out = dict(counts["dropped_by_reason"])
    if ties := left_out.pop("tie", 0) + len(labels):
        left_out["tie"] = ties
    if list(left_out) == ["tie"]:
        return f"all {ties:,} pairs are ties, so there is no winner to learn from"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return (
        f"none of {counts['input']:,} pairs has a winner that may be used ({reasons}), so there is nothing to compare"
    )


def _no_pair(dataset: Dataset, records: Records) -> str:
    """Why no two creatives met in a product, a market and a time window."""
    keyed = with_keys(dataset.creatives)[["creative_id", "product_id", "key"]]
    seen = dataset.observations.merge(keyed, on="creative_id").groupby(["product_id", "market"])
    voted = dataset.votes is not None and not dataset.votes.empty
    if dataset.observations.empty and not voted:
        return "the dataset holds no observation and no vote, so there is nothing to compare"
    if not voted and (seen["creative_id"].nunique() < 2).all():
        return "no product has two creatives in one market, so there is nothing to compare"
    if not voted and (seen["key"].nunique() < 2).all():
        return "no product has two creatives with different pictures or words in one market, so there is nothing to compare"
    outside = records.counts["observations"]["dropped_by_reason"]
    note = f" ({', '.join(f'{count:,} observations {reason}' for reason, count in outside.items())})" if outside else ""
    return f"no product has two creatives in one market within one time window{note}, so there is nothing to compare"
