"""Level delivered: what the platform does is in the export, what a fair test would find is in the truth."""

import csv
import hashlib
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from countryreward.data.artifacts import publish
from countryreward.data.design import Design
from countryreward.data.marketplace.copywriting import OPENINGS, opening_liking
from countryreward.data.marketplace.export import write_export
from countryreward.data.marketplace.marketplace_config import LEVELS, DeliveredConfig, MarketplaceConfig
from countryreward.data.marketplace.simulate import Marketplace, simulate
from countryreward.data.marketplace.true_preference import TruePreference
from countryreward.errors import UserError

SMALL = MarketplaceConfig(level="delivered", seed=3, products=8, markets=["KR", "US"], image_px=32, periods=2)
LARGE = replace(SMALL, products=120)
COLUMNS = [
    "creative_id", "market", "period_start", "period_end", "impressions", "clicks", "conversions", "value",
    "placement", "device", "ad_set", "audience", "delivery", "source",
]  # fmt: skip


@pytest.fixture(scope="module")
def large() -> Marketplace:
    return simulate(LARGE)


def totals(marketplace: Marketplace) -> pd.DataFrame:
    """Per ad and market: impressions, clicks, true ctr, product, delivery, share of the product's impressions."""
    rows = marketplace.observations.astype({"creative_id": str, "market": str, "delivery": str})
    sums = rows.groupby(["creative_id", "market", "delivery"], as_index=False)[["impressions", "clicks"]].sum()
    sums = sums.merge(marketplace.truth, on=["creative_id", "market"])
    sums["product"] = sums["creative_id"].str[:6]
    grouped = sums.groupby(["product", "market"])["impressions"]
    return sums.assign(share=sums["impressions"] / grouped.transform("sum"), ads=grouped.transform("size"))


def test_an_export_tells_strata_words_and_delivery(tmp_path: Path) -> None:
    counts = write_export(tmp_path, SMALL)
    rows = pd.read_csv(tmp_path / "observations.csv")
    assert rows.columns.tolist() == COLUMNS
    assert set(rows["placement"]) == {"feed", "stories"}
    assert set(rows["device"]) == {"mobile", "desktop"}
    assert set(rows["audience"]) == {"audience-1", "audience-2"}
    assert set(rows["delivery"]) == {"optimised", "randomised"}
    assert set(rows["period_end"]) == {"2025-01-31", "2025-02-28"}
    first = rows[(rows["creative_id"] == "p00000-c1") & (rows["market"] == "KR")]
    assert set(first["ad_set"]) == {"p00000-KR-1", "p00000-KR-2"}
    assert not rows.duplicated([name for name in COLUMNS if name not in COLUMNS[4:8]]).any()
    assert (rows["impressions"] > 0).all()
    assert (rows["clicks"] <= rows["impressions"]).all()
    assert (rows["conversions"] <= rows["clicks"]).all()
    assert ((rows["value"] > 0) == (rows["conversions"] > 0)).all()
    with open(tmp_path / "creatives.csv", encoding="utf-8", newline="") as handle:
        creatives = list(csv.DictReader(handle))
    assert list(creatives[0]) == ["creative_id", "product_id", "image_uri", "headline", "body", "call_to_action"]
    title = pd.read_csv(tmp_path / "products.csv")["title"][0]
    assert creatives[0]["headline"] in [f"{opening}: {title}" for opening in OPENINGS]
    assert counts["creatives"] == len(creatives) > 32  # some run as two ads
    assert counts["images"] == len(list((tmp_path / "images").iterdir())) < 32  # some pictures have two headlines
    assert pd.read_parquet(tmp_path / "truth.parquet").columns.tolist() == ["creative_id", "market", "ctr"]
    designs = [json.loads(line) for line in (tmp_path / "designs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [design["creative_id"] for design in designs] == [row["creative_id"] for row in creatives]
    assert all(Design(**design["design"]) for design in designs)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, config in (("a", SMALL), ("b", replace(SMALL, workers=1)), ("c", replace(SMALL, seed=4))):
        write_export(tmp_path / name, config)
    first, again, other = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    )
    assert first == again
    assert first["observations.csv"] != other["observations.csv"]


def test_hidden_audiences_are_added_up_and_nothing_else_changes() -> None:
    observed = simulate(SMALL)
    hidden = simulate(replace(SMALL, delivered=DeliveredConfig(audiences="hidden")))
    pd.testing.assert_frame_equal(observed.truth, hidden.truth)
    assert hidden.observations.columns.tolist() == [name for name in COLUMNS if name != "audience"]
    keys = [name for name in COLUMNS if name not in (*COLUMNS[4:8], "audience", "source")]
    first, second = (
        made.observations.groupby(keys, observed=True)[["impressions", "clicks", "conversions"]].sum()
        for made in (observed, hidden)
    )
    pd.testing.assert_frame_equal(first, second)


def test_one_creative_as_two_ads_and_one_picture_under_two_headlines(large: Marketplace) -> None:
    ads = large.creatives
    same = ads[ads.duplicated(["product_id", "image_uri", "headline"], keep=False)]
    assert (same.groupby(["product_id", "image_uri", "headline"]).size() == 2).all()
    assert same["product_id"].nunique() / LARGE.products == pytest.approx(0.3, abs=0.1)
    truth = large.truth[large.truth["market"] == "KR"].set_index("creative_id")["ctr"]
    for _, pair in same.groupby("product_id"):
        first, second = pair["creative_id"]
        assert second.endswith("-c5")
        assert truth[first] == pytest.approx(truth[second], rel=1e-12)
    creatives = ads.drop_duplicates(["product_id", "image_uri", "headline"])
    pictures = creatives[creatives.duplicated(["product_id", "image_uri"], keep=False)]
    assert pictures["product_id"].nunique() / LARGE.products == pytest.approx(0.25, abs=0.1)
    ratio = [np.ptp(np.log(truth[pair["creative_id"]])) for _, pair in pictures.groupby("product_id")]
    assert 0.02 < np.mean(ratio) < 0.2  # words matter, and less than pictures


def test_without_copy_every_creative_has_its_own_picture_and_no_words() -> None:
    ads = simulate(replace(LARGE, delivered=DeliveredConfig(copy=False))).creatives
    assert ads.columns.tolist() == ["creative_id", "product_id", "image_uri"]
    assert ads["image_uri"].nunique() == LARGE.products * 4


def test_markets_like_headlines_differently() -> None:
    likings = [opening_liking(OPENINGS, market, world_seed=0) for market in ("KR", "US")]
    assert np.argmax(likings[0]) != np.argmax(likings[1])
    assert opening_liking(["", OPENINGS[0]], "KR", world_seed=0).tolist() == [0.0, likings[0][0]]


def test_the_optimiser_starves_losers(large: Marketplace) -> None:
    found = totals(large)
    chosen = found[found["delivery"] == "optimised"]
    even = chosen["share"] * chosen["ads"]  # 1: an even split
    assert (even < 0.3).mean() > 0.2
    assert (even > 2).mean() > 0.1
    assert chosen["impressions"].min() > 500  # every ad has had its first week
    better = chosen["ctr"] / chosen.groupby(["product", "market"])["ctr"].transform("mean")
    assert np.corrcoef(np.log(even), np.log(better))[0, 1] > 0.3


def test_a_randomised_test_is_even_and_converges_to_the_truth(large: Marketplace) -> None:
    found = totals(large)
    fair = found[found["delivery"] == "randomised"]
    assert fair["product"].nunique() / LARGE.products == pytest.approx(0.2, abs=0.1)
    assert (fair["share"] * fair["ads"]).to_numpy() == pytest.approx(1, abs=0.05)
    error = np.log(fair["clicks"] / fair["impressions"] / fair["ctr"])
    assert error.mean() == pytest.approx(0, abs=0.02)
    assert (error * np.sqrt(fair["clicks"])).std() < 1.5
    rows = large.observations[large.observations["delivery"] == "randomised"]
    of_second = rows.groupby("audience", observed=True)["impressions"].sum()
    assert of_second["audience-2"] / of_second.sum() == pytest.approx(0.5, abs=0.005)


def test_audiences_are_a_factor_e_apart(large: Marketplace) -> None:
    rows = large.observations[large.observations["delivery"] == "randomised"]
    sums = rows.groupby("audience", observed=True)[["impressions", "clicks"]].sum()
    rate = sums["clicks"] / sums["impressions"]
    assert rate["audience-2"] / rate["audience-1"] == pytest.approx(np.e, rel=0.07)


@pytest.mark.parametrize(("mix_sd", "pooled_right"), [(0.5, 0.86), (1.0, 0.78)])
def test_the_level_is_the_one_asked_for(large: Marketplace, mix_sd: float, pooled_right: float) -> None:
    """Two audiences a factor e apart, 30,000 impressions an ad: how often pooled rates and those within audiences are right."""
    rng = np.random.default_rng(0)
    is_design = large.specs["picture"] == large.specs["creative_id"]
    designs = large.truth[large.truth["creative_id"].isin(large.specs["creative_id"][is_design])]
    whole = designs.groupby([designs["creative_id"].str[:6], "market"])["ctr"].apply(list)
    truth = np.array([rates for rates in whole if len(rates) == 4])[:, :, None]  # [products x markets, ads, 1]
    rates = truth * np.exp([-0.5, 0.5]) / np.cosh(0.5)
    second = 1 / (1 + np.exp(-rng.normal(0, mix_sd, truth.shape)))
    shown = np.rint(LEVELS["delivered"].impressions * np.concatenate([1 - second, second], axis=2)).astype(int)
    clicks = rng.binomial(shown, rates)
    within, pooled = [], []
    for a, b in combinations(range(4), 2):
        weight = shown[:, a] * shown[:, b] / (shown[:, a] + shown[:, b])  # Mantel-Haenszel
        differences = clicks[:, a] / shown[:, a] - clicks[:, b] / shown[:, b]
        is_a = truth[:, a, 0] > truth[:, b, 0]
        within.append(((weight * differences).sum(axis=1) > 0) == is_a)
        overall = [clicks[:, ad].sum(axis=1) / shown[:, ad].sum(axis=1) for ad in (a, b)]
        pooled.append((overall[0] > overall[1]) == is_a)
    assert np.mean(within) == pytest.approx(0.94, abs=0.02)
    assert np.mean(pooled) == pytest.approx(pooled_right, abs=0.03)


def test_true_preference_is_that_of_the_standard_mix(tmp_path: Path) -> None:
    with publish(tmp_path / "export", kind="export", config=SMALL.shaping()) as draft:
        write_export(draft.path, SMALL)
    known, made = TruePreference(tmp_path / "export"), simulate(SMALL)
    rates = made.truth.set_index(["creative_id", "market"])["ctr"]
    for first, second in combinations([f"p00002-c{number}" for number in (1, 2, 3, 4)], 2):
        for market in SMALL.markets:
            expected = logit(rates[first, market]) - logit(rates[second, market])
            found = known.of_creative(first, market) - known.of_creative(second, market)
            assert found == pytest.approx(expected, abs=0.02)  # it adds log-odds as logarithms of small rates
    design = Design(foreground="Alone.", background="A beach.", color_tone="Neon.", lighting="Daylight.")
    assert np.isfinite(known.of_design(design, "p00002-c1", "KR"))


def test_only_level_delivered_is_recognised_by_its_options() -> None:
    assert SMALL.shaping()["delivered"] == {
        "audiences": "observed", "randomised": 0.2, "ad_sets": 2, "mix_sd": 0.75, "copy": True,
    }  # fmt: skip
    assert "delivered" not in MarketplaceConfig().shaping()


def test_wrong_options_are_named() -> None:
    with pytest.raises(UserError, match=r"delivered\.randomised: 2 is not a share"):
        DeliveredConfig(randomised=2)
    with pytest.raises(UserError, match="delivered: level 'clean' has none of these options"):
        MarketplaceConfig(delivered=DeliveredConfig(audiences="hidden"))
    with pytest.raises(UserError, match=r"delivered\.audiences: 'both' is unknown"):
        DeliveredConfig(audiences="both")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"delivered\.ad_sets: 0 is too small"):
        DeliveredConfig(ad_sets=0)
    with pytest.raises(UserError, match=r"delivered\.mix_sd: -1 is negative"):
        DeliveredConfig(mix_sd=-1)
