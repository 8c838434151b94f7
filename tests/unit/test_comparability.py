"""Why there is nothing to compare: only what was counted is said."""

import datetime as dt
from typing import Any

import pandas as pd
import pytest

from countryreward.data.check import check, describe
from countryreward.data.data_config import RecordsConfig, SplitConfig
from countryreward.data.dataset import Dataset
from countryreward.data.records import build_records
from tests.unit.conftest import observations

UNTRUE = ("no impressions and clicks", "the records are of one market", "two training products")


def seen(
    creative: str, market: str, clicks: int, impressions: int = 5_000, day: dt.date | None = None
) -> dict[str, Any]:
    return {
        "creative_id": creative, "market": market, "kind": "counts", "impressions": impressions, "clicks": clicks,
        "period_start": day, "period_end": day,
    }  # fmt: skip


def facts_of(
    creatives: list[tuple[str, str, str]], rows: list[dict[str, Any]], config: RecordsConfig | None = None
) -> dict[str, Any]:
    """creatives: (creative_id, product_id, content_hash)."""
    table = pd.DataFrame(creatives, columns=["creative_id", "product_id", "content_hash"]).assign(copy_hash=None)
    products = pd.DataFrame({"product_id": sorted({product for _, product, _ in creatives})})
    data = Dataset(products=products, creatives=table, observations=observations(rows))
    return check(data, build_records(data, config or RecordsConfig()))


ONE_EACH = [("a", "p", "h1"), ("b", "q", "h2")]
PAIR = [("a", "p", "h1"), ("b", "p", "h2")]
BY_TIME = RecordsConfig(split=SplitConfig(by="time", train_until="2026-01-31", validation_until="2026-02-28"))


@pytest.mark.parametrize(
    ("creatives", "rows", "config", "expected"),
    [
        (
            ONE_EACH,
            [seen("a", "KR", 50), seen("a", "BR", 40), seen("b", "KR", 60), seen("b", "BR", 30)],
            None,
            "no product has two creatives in one market, so there is nothing to compare",
        ),
        (
            PAIR,
            [seen("a", "KR", 50), seen("b", "BR", 40)],  # never in one market
            None,
            "no product has two creatives in one market, so there is nothing to compare",
        ),
        (
            [("a", "p", "h1"), ("b", "p", "h1")],
            [seen("a", "KR", 50), seen("b", "KR", 40)],
            None,
            "no product has two creatives with different pictures or words in one market, so there is nothing to compare",
        ),
        (
            PAIR,
            [seen("a", "KR", 50), seen("b", "KR", 40, day=dt.date(2026, 1, 5))],
            BY_TIME,
            "no product has two creatives in one market within one time window (1 observations undated), so there is nothing"
            " to compare",
        ),
        (
            PAIR,
            [seen("a", "KR", 50), seen("b", "KR", 50), seen("a", "BR", 10, 1_000), seen("b", "BR", 20, 2_000)],
            None,
            "all 2 pairs are ties, so there is no winner to learn from",
        ),
        (
            PAIR,
            [seen("a", "KR", 50), seen("b", "KR", 40, 900), seen("a", "BR", 10, 1_000), seen("b", "BR", 20, 2_000)],
            RecordsConfig(min_impressions=1_000),
            "none of 2 pairs has a winner that may be used (1 below_min_impressions, 1 tie), so there is nothing to compare",
        ),
    ],
)
def test_the_cause_that_is_named_was_found(
    creatives: list[tuple[str, str, str]], rows: list[dict[str, Any]], config: RecordsConfig | None, expected: str
) -> None:
    facts = facts_of(creatives, rows, config)
    assert facts["nothing_to_compare"] == expected
    text = describe(facts)
    assert expected in text
    if not facts["kinds"]:
        assert not [words for words in UNTRUE if words in text]
        assert "noise ceiling     unknown: there are no records" in text


def test_a_dataset_with_a_winner_says_nothing_of_it_and_one_market_is_said() -> None:
    facts = facts_of(PAIR, [seen("a", "KR", 50), seen("b", "KR", 40)])
    assert facts["nothing_to_compare"] is None
    assert facts["warnings"] == [
        "the records are of one market: nothing can show whether a judge listens to the country"
    ]
