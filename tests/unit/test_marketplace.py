"""The marketplace: same seed same bytes, level statistics, taste, pictures."""

import csv
import hashlib
import json
from dataclasses import replace
from datetime import date
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from countryreward.data.design import Design
from countryreward.data.marketplace.drawer import Craft, ProductLook, draw, draw_variant
from countryreward.data.marketplace.export import draw_creative, write_export
from countryreward.data.marketplace.marketplace_config import LevelName, MarketplaceConfig
from countryreward.data.marketplace.simulate import Marketplace, simulate
from countryreward.data.marketplace.taste import (
    SpecIndex,
    is_imputed,
    market_taste,
    nominal_peaks,
    published_peaks,
    utility,
)
from countryreward.data.marketplace.vocabulary import (
    CLUTTERS,
    COLOURS,
    LIGHTINGS,
    PALETTES,
    SCENES,
    TEXTS,
    Spec,
    spec_to_design,
)
from countryreward.errors import UserError

MUG = ProductLook(category="mug", colour="RED")
SMALL = MarketplaceConfig(products=6, markets=["KR", "US", "DE"], image_px=64, image_format="mixed")


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def level_statistics(marketplace: Marketplace) -> dict[str, float]:
    """Pairs within product x market, periods pooled. q: probability that the observed label is A, given the truth."""
    config = marketplace.config
    shape = (config.products, config.creatives_per_product, len(config.markets))
    rows = marketplace.observations
    shown = rows["impressions"].to_numpy().reshape(*shape, -1).sum(axis=3)
    clicks = rows["clicks"].to_numpy().reshape(*shape, -1).sum(axis=3)
    truth = marketplace.truth["ctr"].to_numpy().reshape(shape)
    first, second = map(list, zip(*combinations(range(shape[1]), 2), strict=True))
    variance = truth * (1 - truth) / shown
    q = norm.cdf((truth[:, first] - truth[:, second]) / np.sqrt(variance[:, first] + variance[:, second]))
    rate = np.maximum(clicks, 0.5) / shown
    ratio = np.exp(np.abs(np.log(rate[:, first] / rate[:, second])))
    answer = q.mean(axis=2)  # the market-blind judge gives one answer per pair
    return {
        "noise_ceiling": float(np.maximum(q, 1 - q).mean()),
        "blind_ceiling": float(np.maximum(answer, 1 - answer).mean()),
        "mean_ctr": float((clicks / shown).mean()),
        "ratio": float(np.median(ratio)),
        "impressions": float(np.median(shown)),
    }


@pytest.fixture(scope="module")
def levels() -> dict[str, dict[str, float]]:
    names: tuple[LevelName, ...] = ("clean", "real-noise", "hard")
    return {name: level_statistics(simulate(MarketplaceConfig(level=name, products=300, seed=5))) for name in names}


def test_clean_level(levels: dict[str, dict[str, float]]) -> None:
    assert levels["clean"]["noise_ceiling"] >= 0.95
    assert 0.72 <= levels["clean"]["blind_ceiling"] <= 0.80


@pytest.mark.parametrize("seed", [0, 5])
def test_real_noise_level_is_that_of_the_upworthy_tests(seed: int) -> None:
    found = level_statistics(simulate(MarketplaceConfig(level="real-noise", seed=seed)))
    assert found["mean_ctr"] == pytest.approx(0.016, rel=0.05)
    assert found["ratio"] - 1 == pytest.approx(0.26, rel=0.05)
    assert found["impressions"] == pytest.approx(3100, rel=0.05)


def test_hard_level_is_harder(levels: dict[str, dict[str, float]]) -> None:
    hard, real = levels["hard"], levels["real-noise"]
    assert hard["noise_ceiling"] < real["noise_ceiling"] - 0.05
    assert hard["impressions"] < real["impressions"]
    assert (
        hard["noise_ceiling"] - hard["blind_ceiling"] < real["noise_ceiling"] - real["blind_ceiling"]
    )  # less taste to find


def test_frames() -> None:
    marketplace = simulate(replace(SMALL, periods=2, first_month="2024-01"))
    assert (len(marketplace.products), len(marketplace.creatives)) == (6, 24)
    assert len(marketplace.observations) == 24 * 3 * 2
    assert len(marketplace.truth) == 24 * 3
    truth = marketplace.truth["ctr"].to_numpy()
    assert 0 < truth.min() < truth.max() < 1
    assert truth.mean() == pytest.approx(0.03)
    rows = marketplace.observations
    assert (rows["clicks"].to_numpy() <= rows["impressions"].to_numpy()).all()
    months = set(zip(rows["period_start"], rows["period_end"], strict=True))
    assert months == {(date(2024, 1, 1), date(2024, 1, 31)), (date(2024, 2, 1), date(2024, 2, 29))}


def test_coverage_leaves_cells_unobserved_but_true() -> None:
    marketplace = simulate(replace(SMALL, products=100, coverage=0.5))
    cells = marketplace.observations[["creative_id", "market"]].drop_duplicates()
    assert len(cells) / len(marketplace.truth) == pytest.approx(0.5, abs=0.06)


def test_world_and_data_vary_independently() -> None:
    one, other_world = simulate(SMALL), simulate(replace(SMALL, world_seed=9))
    pd.testing.assert_frame_equal(one.specs, other_world.specs)
    assert not np.allclose(one.truth["ctr"], other_world.truth["ctr"])
    pd.testing.assert_frame_equal(one.truth, simulate(replace(SMALL, world_seed=0)).truth)  # -1: the same as seed
    first, second = simulate(replace(SMALL, seed=1, world_seed=9)), other_world
    assert not first.specs["scene"].equals(second.specs["scene"])


def test_titles_vary_and_are_not_all_ascii() -> None:
    titles = simulate(MarketplaceConfig(products=300)).products["title"].tolist()
    assert len(set(titles)) > 250
    assert min(len(title.split()) for title in titles) >= 3
    assert 0.05 < np.mean([not title.isascii() for title in titles]) < 0.7


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    counts = write_export(tmp_path / "a", SMALL, progress=lambda done, total: seen.append((done, total)))
    write_export(tmp_path / "b", replace(SMALL, workers=1))
    write_export(tmp_path / "c", replace(SMALL, seed=1))
    first, again, other = (hashes(tmp_path / name) for name in "abc")
    assert counts == {"products": 6, "creatives": 24, "observations": 288, "images": 24, "truth": 72}
    assert seen[-1] == (24, 24)
    assert first == again
    assert set(first) == set(other)
    assert not set(first.values()) & set(other.values()) - {first["creatives.csv"]}  # ids and file names are the same


def test_export_reads_back(tmp_path: Path) -> None:
    write_export(tmp_path, SMALL)
    with open(tmp_path / "products.csv", encoding="utf-8", newline="") as handle:
        product = next(csv.DictReader(handle))
    assert list(product) == ["product_id", "title", "category", "attributes", "tags", "seller"]
    assert "colour" in json.loads(product["attributes"])
    assert len(json.loads(product["tags"])) >= 2
    assert pd.read_csv(tmp_path / "creatives.csv").columns.tolist() == ["creative_id", "product_id", "image_uri"]
    observations = pd.read_csv(tmp_path / "observations.csv")
    assert observations.columns.tolist() == [
        "creative_id",
        "market",
        "period_start",
        "period_end",
        "impressions",
        "clicks",
        "source",
    ]
    assert observations["period_end"].tolist()[0] == "2025-01-31"
    assert pd.read_parquet(tmp_path / "truth.parquet").columns.tolist() == ["creative_id", "market", "ctr"]
    suffixes = {path.suffix: path for path in (tmp_path / "images").iterdir()}
    assert suffixes[".png"].read_bytes().startswith(b"\x89PNG")
    assert suffixes[".jpg"].read_bytes().startswith(b"\xff\xd8\xff")
    lines = [json.loads(line) for line in (tmp_path / "designs.jsonl").read_text(encoding="utf-8").splitlines()]
    line = next(line for line in lines if (tmp_path / "images" / f"{line['creative_id']}.png").exists())
    assert Design(**line["design"])
    stored = cv2.imread(str(tmp_path / "images" / f"{line['creative_id']}.png"))
    assert stored is not None
    np.testing.assert_array_equal(
        stored[:, :, ::-1], draw_creative(line["spec"], px=64)
    )  # the written spec is all it takes


def test_published_taste() -> None:
    assert published_peaks("US") == (6.09, 4.15)
    assert published_peaks("FR") == (4.41, 3.78)
    assert published_peaks("MK") == (7.62, 4.46)


def test_imputed_taste() -> None:
    assert [is_imputed(code) for code in ("KR", "SA", "EG", "JP")] == [True, True, True, False]
    assert published_peaks("KR") == pytest.approx((5.925, 4.06))  # mean of JP, CN, HK, SG
    assert published_peaks("SA") == pytest.approx(published_peaks("EG"))
    assert nominal_peaks("SA") == pytest.approx((5, 5))  # the mean of the 43


def test_stretched_peaks_keep_their_order_and_scale() -> None:
    colourful = [nominal_peaks(code)[0] for code in ("FI", "FR", "BR", "US", "CL")]
    assert colourful == sorted(colourful)
    assert 0 <= colourful[0] < 1
    assert 9 < colourful[-1] <= 10


def test_utility_peaks_where_the_market_likes_it() -> None:
    palettes, zero = np.arange(len(PALETTES)), np.zeros(len(PALETTES), np.int64)
    index = SpecIndex(category=zero, scene=zero, palette=palettes, clutter=zero, lighting=zero)
    bare = {
        code: replace(market_taste(code, world_seed=0), palette=np.zeros((8, len(PALETTES)))) for code in ("CL", "FI")
    }
    assert list(PALETTES)[int(utility(bare["CL"], index).argmax())] == "neon"  # peak 9.6
    assert list(PALETTES)[int(utility(bare["FI"], index).argmax())] == "monochrome"  # peak 0


def test_pictures_differ_by_every_axis_and_repeat() -> None:
    base = Spec()
    picture = draw(base, MUG, px=96, seed=3)
    assert picture.shape == (96, 96, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, draw(spec_to_design(base), MUG, px=96, seed=3))
    for axis, choices in {
        "scene": SCENES,
        "palette": PALETTES,
        "clutter": CLUTTERS,
        "lighting": LIGHTINGS,
        "text": TEXTS,
    }.items():
        drawn = [draw(replace(base, **{axis: choice}), MUG, px=96, seed=3).astype(float) for choice in choices]
        assert min(np.abs(one - other).mean() for one, other in combinations(drawn, 2)) > 1.5, axis


def test_craft_is_visible() -> None:
    good = draw(Spec(), MUG, px=96).astype(float)
    for worse in (Craft(size=0.36), Craft(offset_x=0.15), Craft(blur=0.01), Craft(contrast=0.6)):
        assert np.abs(good - draw(Spec(), MUG, px=96, craft=worse)).mean() > 2, worse


def test_palettes_are_as_colourful_as_they_say() -> None:
    """Hasler and Suesstrunk's colourfulness, measured in the pictures, follows the nominal scale."""
    measured = []
    for name in PALETTES:
        pixels = np.concatenate(
            [draw(Spec(scene=scene, palette=name), MUG, px=64).reshape(-1, 3) for scene in SCENES]
        ).astype(float)
        red_green = pixels[:, 0] - pixels[:, 1]
        yellow_blue = (pixels[:, 0] + pixels[:, 1]) / 2 - pixels[:, 2]
        measured.append(
            np.hypot(red_green.std(), yellow_blue.std()) + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean())
        )
    ranks = np.argsort(np.argsort(measured))  # PALETTES is in the order of its nominal scale
    assert np.corrcoef(ranks, np.arange(len(PALETTES)))[0, 1] > 0.9


def test_variants_differ_by_colour_alone() -> None:
    drawn = {colour: draw_variant("3 PIECE POLKADOT CUTLERY SET", colour, px=96).astype(float) for colour in COLOURS}
    assert min(np.abs(one - other).mean() for one, other in combinations(drawn.values(), 2)) > 0.3
    ivory_on_grey = np.abs(drawn["IVORY"][40:70, 40:56].mean(axis=(0, 1)) - drawn["IVORY"][5, 5])
    assert ivory_on_grey.max() > 12
    np.testing.assert_array_equal(drawn["RED"], draw_variant("3 piece polkadot cutlery set ", "red", px=96))
    with pytest.raises(UserError, match="colour: 'MAUVE' is unknown"):
        draw_variant("x", "mauve")


@pytest.mark.parametrize(
    ("field", "value"),
    [("level", "easy"), ("markets", ["Korea"]), ("markets", []), ("coverage", 0.0), ("first_month", "2025-13")],
)
def test_config_names_the_wrong_field(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        MarketplaceConfig(**{field: value})  # type: ignore[arg-type]
