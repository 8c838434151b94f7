"""Labels, drops, orientation and splits: method.md, evidence behind a label."""

import datetime as dt
from dataclasses import replace

import pandas as pd
import pytest

from countryreward.data.check import check, describe, discordant_share
from countryreward.data.data_config import RecordsConfig, SplitConfig
from countryreward.data.dataset import Dataset
from countryreward.data.records import build_records
from countryreward.data.splits import unit_split
from countryreward.errors import UserError
from tests.unit.conftest import observations


def counts(creative: str, market: str, clicks: int, impressions: int = 10_000, month: int = 1) -> dict:
    return {
        "creative_id": creative, "market": market, "kind": "counts", "impressions": impressions, "clicks": clicks,
        "period_start": dt.date(2026, month, 1), "period_end": dt.date(2026, month, 28),
    }  # fmt: skip


def dataset(
    creatives: list[tuple[str, str, str]], rows: list[dict], listed: list[tuple[str, str, str, str]] | None = None
) -> Dataset:
    """creatives: (creative_id, product_id, content_hash)."""
    return Dataset(
        products=pd.DataFrame({"product_id": sorted({product for _, product, _ in creatives})}),
        creatives=pd.DataFrame(creatives, columns=["creative_id", "product_id", "content_hash"]),
        observations=observations(rows),
        listed_pairs=pd.DataFrame(listed, columns=["product_id", "creative_1", "creative_2", "market"])
        if listed
        else None,
    )


TWO = [("c1", "p", "h1"), ("c2", "p", "h2")]
AS_GIVEN = RecordsConfig(orientation="as_given", min_impressions=100)


def test_label_soft_label_and_ids():
    built = build_records(
        dataset(
            TWO, [counts("c1", "KR", 300), counts("c2", "KR", 200), counts("c1", "BR", 100), counts("c2", "BR", 300)]
        ),
        AS_GIVEN,
    )
    frame = built.frame.set_index("market")
    assert frame["label"].to_dict() == {"KR": 1, "BR": 0}
    assert frame.loc["KR", "value_a"] == 0.03
    assert frame["soft_label"].astype(float).round().to_dict() == {"KR": 1, "BR": 0}
    assert frame["pair_id"].nunique() == 1  # free of market
    assert frame["record_id"].nunique() == 2
    assert discordant_share(built.frame) == 1.0
    assert built.counts["pairs"] == {"input": 2, "records": 2, "dropped": 0, "quarantined": 0, "dropped_by_reason": {}}


def test_months_are_compared_with_themselves_and_the_pooled_value_is_for_display():
    rows = [
        counts("c1", "KR", 100, 10_000),  # January is good for everybody
        counts("c1", "KR", 5, 1_000, month=2),
        counts("c2", "KR", 9, 1_000),
        counts("c2", "KR", 40, 10_000, month=2),
    ]
    row = build_records(dataset(TWO, rows), AS_GIVEN).frame.iloc[0]
    assert (row["value_a"], row["value_b"]) == (105 / 11_000, 49 / 11_000)
    # weights 10000 x 1000 / 11000 in both months
    assert row["compared_a"] == pytest.approx((0.01 + 0.005) / 2)
    assert row["compared_b"] == pytest.approx((0.009 + 0.004) / 2)
    assert (row["strata"], row["label"], row["impressions_a"]) == (2, 1, 11_000)


def test_pooled_winners_turn_round_within_devices():
    rows = [
        {**counts("c1", "BR", 90, 9_000), "device": "mobile"}, {**counts("c1", "BR", 40, 1_000), "device": "desktop"},
        {**counts("c2", "BR", 12, 1_000), "device": "mobile"}, {**counts("c2", "BR", 396, 9_000), "device": "desktop"},
    ]  # fmt: skip
    built = build_records(dataset(TWO, rows), AS_GIVEN)
    row = built.frame.iloc[0]
    assert (row["value_a"], row["value_b"]) == (0.013, 0.0408)
    assert row["compared_a"] == pytest.approx((0.01 + 0.04) / 2)
    assert row["compared_b"] == pytest.approx((0.012 + 0.044) / 2)
    turned = [
        {**counts("c1", "BR", 99, 9_000), "device": "mobile"}, {**counts("c1", "BR", 44, 1_000), "device": "desktop"},
        {**counts("c2", "BR", 10, 1_000), "device": "mobile"}, {**counts("c2", "BR", 360, 9_000), "device": "desktop"},
    ]  # fmt: skip
    data = dataset(TWO, turned)
    built = build_records(data, AS_GIVEN)
    row = built.frame.iloc[0]
    assert row["value_a"] < row["value_b"]
    assert row["label"] == 1  # better on both devices
    assert check(data, built)["turned_within_strata"]["share"] == 1.0
    assert "c1" in describe(check(data, built))


def test_ads_that_never_ran_together_are_not_compared():
    rows = [counts("c1", "KR", 100), counts("c2", "KR", 300, month=2), counts("c1", "BR", 100), counts("c2", "BR", 300)]
    built = build_records(dataset(TWO, rows), AS_GIVEN)
    assert built.counts["pairs"]["dropped_by_reason"] == {"no_common_period": 1}
    assert built.frame["market"].tolist() == ["BR"]
    daily = [{**counts("c1", "KR", 10, 1_000), "period_start": day, "period_end": day} for day in
             (dt.date(2026, 1, 30), dt.date(2026, 1, 31), dt.date(2026, 2, 1))]  # fmt: skip
    whole = [{**counts("c2", "KR", 20, 1_000), "period_start": dt.date(2026, 1, 31), "period_end": dt.date(2026, 2, 5)}]
    row = build_records(dataset(TWO, daily + whole), AS_GIVEN).frame.iloc[0]
    assert (row["impressions_a"], row["impressions_b"]) == (2_000, 1_000)  # 30 January is before b ran


def test_a_row_that_never_met_the_rival_brings_nothing_in():
    creatives = [("c1", "p", "h1"), ("c2", "p", "h2"), ("c3", "p", "h1")]  # c1 and c3 are one picture

    def dated(creative: str, clicks: int, impressions: int, start: dt.date, end: dt.date) -> dict:
        return {**counts(creative, "KR", clicks, impressions), "period_start": start, "period_end": end}

    rows = [
        dated("c1", 2_500, 50_000, dt.date(2026, 1, 1), dt.date(2026, 2, 1)),
        dated("c3", 50, 5_000, dt.date(2026, 2, 1), dt.date(2026, 2, 28)),
        dated("c2", 100, 5_000, dt.date(2026, 2, 10), dt.date(2026, 2, 28)),
    ]
    row = build_records(dataset(creatives, rows), AS_GIVEN).frame.iloc[0]
    assert (row["compared_a"], row["compared_b"], row["label"], row["impressions_a"]) == (0.01, 0.02, 0, 5_000)
    one_day = [
        dated("c1", 100, 5_000, dt.date(2026, 1, 1), dt.date(2026, 1, 31)),
        dated("c2", 300, 5_000, dt.date(2026, 1, 31), dt.date(2026, 2, 28)),
    ]
    built = build_records(dataset(TWO, one_day), AS_GIVEN)
    assert built.counts["pairs"]["dropped_by_reason"] == {"no_common_period": 1}


def test_orders_are_added_in_however_many_rows_they_come():
    weeks = [(1, 7), (8, 14), (15, 21), (22, 28)]
    rows = [
        {"creative_id": "c1", "market": "DE", "kind": "orders", "orders": 25.0,
         "period_start": dt.date(2026, 3, first), "period_end": dt.date(2026, 3, last)}
        for first, last in weeks
    ]  # fmt: skip
    rows += [{"creative_id": "c2", "market": "DE", "kind": "orders", "orders": 60.0,
              "period_start": dt.date(2026, 3, 1), "period_end": dt.date(2026, 3, 31)}]  # fmt: skip
    row = build_records(dataset(TWO, rows), AS_GIVEN).frame.iloc[0]
    assert (row["compared_a"], row["compared_b"], row["label"]) == (100, 60, 1)


def test_randomised_beside_optimised_is_compared_as_delivered():
    rows = [{**counts("c1", "KR", 100), "delivery": "randomised"}, {**counts("c2", "KR", 300), "delivery": "optimised"}]
    row = build_records(dataset(TWO, rows), AS_GIVEN).frame.iloc[0]
    assert (row["label"], row["delivery"]) == (0, "optimised")


def test_money_without_conversions_has_no_soft_label():
    rows = [{**counts("c1", "KR", 300), "value": 100.0}, {**counts("c2", "KR", 200), "value": 90.0}]
    config = RecordsConfig(orientation="as_given", label_outcome="value")
    row = build_records(dataset(TWO, rows), config).frame.iloc[0]
    assert row["label"] == 1
    assert pd.isna(row["soft_label"])


def test_ads_in_different_devices_are_not_compared_and_ad_sets_of_one_ad_are():
    rows = [{**counts("c1", "KR", 100), "device": "mobile"}, {**counts("c2", "KR", 300), "device": "desktop"}]
    built = build_records(dataset(TWO, rows), AS_GIVEN)
    assert built.counts["pairs"]["dropped_by_reason"] == {"no_common_stratum": 1}
    rows = [{**counts("c1", "KR", 100), "ad_set": "s1"}, {**counts("c2", "KR", 300), "ad_set": "s2"}]
    assert build_records(dataset(TWO, rows), AS_GIVEN).frame["label"].tolist() == [0]
    rows = [{**counts("c1", "KR", 100), "device": "mobile"}, counts("c2", "KR", 300)]  # b does not tell its devices
    assert build_records(dataset(TWO, rows), AS_GIVEN).frame["label"].tolist() == [0]


def test_randomised_evidence_speaks_alone_where_there_is_some():
    rows = [
        {**counts("c1", "KR", 30, 1_000), "delivery": "randomised", "device": "mobile"},
        {**counts("c2", "KR", 20, 1_000), "delivery": "randomised", "device": "mobile"},
        {**counts("c1", "KR", 100, 50_000), "device": "desktop"},
        {**counts("c2", "KR", 900, 50_000), "device": "desktop"},
    ]
    row = build_records(dataset(TWO, rows), AS_GIVEN).frame.iloc[0]
    assert (row["label"], row["delivery"], row["impressions_a"]) == (1, "randomised", 1_000)


def test_equal_means_that_differ_in_the_last_bit_are_a_tie():
    def scores(creative: str, *means: float) -> list[dict]:
        return [
            {"creative_id": creative, "market": "DE", "kind": "score", "score": mean, "score_n": 1,
             "period_start": dt.date(2026, month, 1), "period_end": dt.date(2026, month, 7)}
            for month, mean in enumerate(means, start=1)
        ]  # fmt: skip

    row = build_records(dataset(TWO, scores("c1", 4.1, 4.3) + scores("c2", 4.2, 4.2)), AS_GIVEN).frame.iloc[0]
    assert (row["label"], row["target"]) == (0.5, 0.5)


def test_votes_label_pairs():
    creatives = [*TWO, ("c3", "p", "h3")]
    votes = pd.DataFrame(
        [
            ("c2", "c1", "KR", 30, 10, 4, "panel"),
            ("c1", "c2", "KR", 5, 5, 0, "staff"),
            ("c1", "c3", "KR", 3, 3, 1, None),
        ],
        columns=["creative_1", "creative_2", "market", "votes_1", "votes_2", "votes_tie", "voter_class"],
    )
    data = replace(dataset(creatives, [counts("c1", "BR", 100), counts("c2", "BR", 300)]), votes=votes)
    frame = build_records(data, AS_GIVEN).frame
    frame.index = pd.Index(frame["market"] + "-" + frame["creative_b"])
    row = frame.to_dict("index")["KR-c2"]
    assert (row["kind"], row["value_a"], row["value_b"], row["label"]) == ("votes", 17, 37, 0)
    assert row["soft_label"] < 0.05
    assert frame["label"]["KR-c3"] == 0.5
    assert frame["soft_label"]["KR-c3"] == pytest.approx(0.5)
    assert frame["kind"]["BR-c2"] == "counts"


def test_conversions_and_value_label_where_they_are_told():
    rows = [
        {**counts("c1", "KR", 300), "conversions": 10, "value": 100.0},
        {**counts("c2", "KR", 200), "conversions": 40, "value": 90.0},
    ]
    data = dataset(TWO, rows)
    label = {
        outcome: build_records(data, RecordsConfig(orientation="as_given", label_outcome=outcome)).frame.iloc[0]
        for outcome in ("clicks", "conversions", "value")
    }
    assert {name: row["label"] for name, row in label.items()} == {"clicks": 1, "conversions": 0, "value": 1}
    assert {name: row["outcome"] for name, row in label.items()} == {name: name for name in label}
    assert label["value"]["value_a"] == 0.01
    assert 0.5 < label["value"]["soft_label"] < 0.75 < 1 - label["conversions"]["soft_label"]


def test_one_picture_with_two_headlines_is_a_pair_and_the_same_words_twice_are_one_creative():
    data = dataset([("c1", "p", "h1"), ("c2", "p", "h1"), ("c3", "p", "h1")], [
        counts("c1", "KR", 100), counts("c2", "KR", 400), counts("c3", "KR", 500)
    ])  # fmt: skip
    creatives = data.creatives.assign(copy_hash=pd.Series(["w1", None, "w1"], dtype="str"))
    row = build_records(replace(data, creatives=creatives), AS_GIVEN).frame.iloc[0]
    assert (row["creative_a"], row["copy_a"], row["value_a"]) == ("c1", "w1", 600 / 20_000)
    assert (row["creative_b"], row["label"]) == ("c2", 0)
    assert pd.isna(row["copy_b"])


def test_few_impressions_and_missing_common_evidence_are_dropped_with_a_reason_and_ties_are_kept():
    creatives = [(f"{p}{c}", p, f"h-{p}{c}") for p in ("tie", "few", "mix", "ok") for c in "12"]
    rows = [
        counts("tie1", "KR", 10, 1_000), counts("tie2", "KR", 20, 2_000),
        counts("few1", "KR", 10, 99), counts("few2", "KR", 30),
        {"creative_id": "mix1", "market": "KR", "kind": "orders", "orders": 4.0},
        {"creative_id": "mix2", "market": "KR", "kind": "score", "score": 4.0},
        counts("ok1", "KR", 10), counts("ok2", "KR", 30), counts("ok1", "FR", 10),
    ]  # fmt: skip
    built = build_records(dataset(creatives, rows), AS_GIVEN)
    assert built.counts["pairs"]["dropped_by_reason"] == {"below_min_impressions": 1, "no_common_evidence": 1}
    assert built.counts["pairs"]["input"] == 4
    assert built.frame.set_index("product_id")["label"].to_dict() == {"ok": 0, "tie": 0.5}


def test_orders_assume_equal_exposure_and_have_no_soft_label():
    rows = [
        {"creative_id": name, "market": "DE", "kind": "orders", "orders": float(n)}
        for name, n in (("c1", 5), ("c2", 3))
    ]
    row = build_records(dataset(TWO, rows), AS_GIVEN).frame.iloc[0]
    assert row["label"] == 1
    assert row["equal_exposure_assumed"]
    assert pd.isna(row["soft_label"])
    assert pd.isna(row["impressions_a"])


def test_the_most_informative_common_kind_decides():
    rows = [
        counts("c1", "KR", 300), counts("c2", "KR", 100),
        *({"creative_id": name, "market": "KR", "kind": "orders", "orders": float(n)} for name, n in (("c1", 1), ("c2", 9))),
    ]  # fmt: skip
    row = build_records(dataset(TWO, rows), AS_GIVEN).frame.iloc[0]
    assert (row["kind"], row["label"]) == ("counts", 1)


def test_scores_are_averaged_by_their_number_of_ratings():
    rows = [
        {"creative_id": "c1", "market": "US", "kind": "score", "score": 2.0, "score_n": 30},
        {"creative_id": "c1", "market": "US", "kind": "score", "score": 5.0, "score_n": 10},
        {"creative_id": "c2", "market": "US", "kind": "score", "score": 3.0},
    ]
    row = build_records(dataset(TWO, rows), AS_GIVEN).frame.iloc[0]
    assert row["value_a"] == (2 * 30 + 5 * 10) / 40
    assert row["label"] == 0


def test_creatives_with_equal_bytes_are_one_image():
    creatives = [("c1", "p", "h1"), ("c2", "p", "h2"), ("c3", "p", "h1")]
    rows = [counts("c1", "KR", 100), counts("c2", "KR", 200), counts("c3", "KR", 500)]
    frame = build_records(dataset(creatives, rows), AS_GIVEN).frame
    assert frame["creative_a"].tolist() == ["c1"]
    assert frame["value_a"].tolist() == [600 / 20_000]


@pytest.mark.slow
def test_hashed_orientation_is_one_for_both_orders_and_all_markets_and_balanced():
    creatives = [(f"p{i}-{c}", f"p{i}", f"h{i}{c}") for i in range(200) for c in "12"]
    rows = [counts(f"p{i}-{c}", market, 100 + int(c)) for i in range(200) for c in "12" for market in ("KR", "BR")]
    listed = [(f"p{i}", f"p{i}-1", f"p{i}-2", market) for i in range(200) for market in ("KR", "BR")]
    turned = [(product, two, one, market) for product, one, two, market in listed]
    config = RecordsConfig(min_impressions=0)
    frames = [build_records(dataset(creatives, rows, pairs), config).frame for pairs in (None, listed, turned)]
    pd.testing.assert_frame_equal(frames[0], frames[1])
    pd.testing.assert_frame_equal(frames[0], frames[2])
    assert (frames[0].groupby("pair_id")["creative_a"].nunique() == 1).all()
    assert 0.4 < frames[0]["label"].mean() < 0.6  # creative 2 always wins, and is A about half of the time
    reseeded = build_records(dataset(creatives, rows), RecordsConfig(min_impressions=0, orientation_seed=1)).frame
    assert (reseeded["creative_a"].to_numpy() != frames[0]["creative_a"].to_numpy()).any()


def test_paper_reading_keeps_the_given_order_and_hard_labels():
    creatives, rows = TWO, [counts("c1", "KR", 100), counts("c2", "KR", 200)]
    turned = [("p", "c2", "c1", "KR")]
    row = build_records(dataset(creatives, rows, turned), RecordsConfig(reading="paper")).frame.iloc[0]
    assert (row["creative_a"], row["label"], row["target"]) == ("c2", 1, 1.0)
    assert 0.5 < row["soft_label"] < 1  # the ceiling needs it whatever training learns from
    repaired = build_records(dataset(creatives, rows, turned), RecordsConfig(orientation="as_given")).frame.iloc[0]
    assert repaired["target"] == repaired["soft_label"] == row["soft_label"]


def test_as_given_has_one_orientation_for_all_markets():
    rows = [counts(name, market, clicks) for market in ("KR", "BR") for name, clicks in (("c1", 200), ("c2", 100))]
    listed = [("p", "c2", "c1", "BR"), ("p", "c1", "c2", "KR")]  # the second market lists the pair the other way round
    frame = build_records(dataset(TWO, rows, listed), RecordsConfig(reading="paper")).frame
    assert frame["creative_a"].tolist() == ["c2", "c2"]
    assert frame["label"].tolist() == [0, 0]
    assert discordant_share(frame) == 0.0


def test_listed_pairs_only_and_repeats_are_counted():
    creatives = [(f"c{i}", "p", f"h{i}") for i in (1, 2, 3)]
    rows = [counts(f"c{i}", "KR", 100 * i) for i in (1, 2, 3)]
    listed = [("p", "c1", "c2", "KR"), ("p", "c2", "c1", "KR"), ("p", "c1", "c3", "FR")]
    built = build_records(dataset(creatives, rows, listed), AS_GIVEN)
    assert built.counts["pairs"]["dropped_by_reason"] == {"repeated_pair": 1, "no_common_evidence": 1}
    assert built.counts["pairs"]["input"] == 3 == built.counts["pairs"]["records"] + 2


def test_a_product_is_in_one_split_and_adding_products_moves_none():
    config = SplitConfig(validation=0.2, test=0.3)
    splits = [unit_split(f"p{i}", config) for i in range(5000)]
    shares = {name: splits.count(name) / 5000 for name in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.5, "validation": 0.2, "test": 0.3}, abs=0.03)
    assert unit_split("p7", config) == splits[7]


def test_split_by_image_drops_the_pairs_that_cross():
    creatives = [(f"p{i}-{c}", f"p{i}", f"h{(i + c) % 40}") for i in range(40) for c in (0, 1, 2)]
    rows = [counts(name, "KR", 100 + 7 * n) for n, (name, _, _) in enumerate(creatives)]
    config = RecordsConfig(split=SplitConfig(by="image", validation=0.2, test=0.3))
    built = build_records(dataset(creatives, rows), config)
    units = built.units.set_index("unit")["split"]
    assert built.counts["pairs"]["dropped_by_reason"]["crosses_split"] > 0
    assert (built.frame["hash_a"].map(units) == built.frame["split"]).all()
    assert (built.frame["hash_b"].map(units) == built.frame["split"]).all()


def test_split_by_time():
    rows = [counts(c, "KR", n + month, month=month) for c, n in (("c1", 100), ("c2", 200)) for month in (1, 2, 3, 4)]
    rows += [{**counts("c1", "KR", 1), "period_start": dt.date(2026, 2, 15), "period_end": dt.date(2026, 3, 15)}]
    rows += [{**counts("c1", "KR", 1), "period_start": None, "period_end": None}]
    split = SplitConfig(by="time", train_until="2026-02-28", validation_until="2026-03-31")
    built = build_records(dataset(TWO, rows), RecordsConfig(orientation="as_given", split=split))
    frame = built.frame.set_index("split")
    assert frame["impressions_a"].to_dict() == {"train": 20_000, "validation": 10_000, "test": 10_000}
    assert frame["as_of"].to_dict() == {
        "train": dt.date(2026, 3, 1), "validation": dt.date(2026, 3, 1), "test": dt.date(2026, 4, 1)
    }  # fmt: skip
    assert built.counts["observations"]["dropped_by_reason"] == {"straddles_window": 1, "undated": 1}
    assert frame["record_id"].nunique() == 3
    assert frame["pair_id"].nunique() == 1


def test_bad_options_are_named():
    with pytest.raises(UserError, match=r"split\.train_until"):
        SplitConfig(by="time")
    with pytest.raises(UserError, match="sum to less than 1"):
        SplitConfig(validation=0.5, test=0.5)
    with pytest.raises(UserError, match=r"'01\.02\.2026' is not a date"):
        SplitConfig(by="time", train_until="01.02.2026", validation_until="2026-03-01")


def test_data_check_says_what_can_be_shown():
    creatives = [(f"p{i}-{c}", f"p{i}", f"h{i % 50}{c}") for i in range(100) for c in "12"]
    rows = [
        counts(f"p{i}-{c}", market, 50 + (i * int(c)) % 90) for i in range(100) for c in "12" for market in ("KR", "BR")
    ]
    data = dataset(creatives, rows)
    facts = check(data, build_records(data, RecordsConfig()))
    assert 0.5 < facts["noise_ceiling"] <= 1
    effect = facts["minimum_detectable_effect"]
    assert 0 < effect["independent"] < effect["clustered"] < 0.5
    assert any("split.by to image" in text for text in facts["warnings"])
    text = describe(facts)
    assert "noise ceiling" in text
    assert "discordant share" in text
