"""The report's contract: keys, nulls, words that follow the numbers, and a page that needs nothing from elsewhere."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from countryreward.evaluation.build_report import on_comparable
from countryreward.evaluation.flip_cards import FlipCard, MarketVerdict, Neighbour, flip_figure
from countryreward.evaluation.judge_metrics import REPORTED, evaluate
from countryreward.evaluation.judge_rows import JUDGE_ROWS, JudgeRow, RecordInputs
from countryreward.evaluation.report_page import write_report_page
from countryreward.evaluation.report_text import findings, headline
from countryreward.evaluation.simple_judges import constant_letter, market_blind_oracle, shuffled

pytestmark = pytest.mark.slow  # left to `make test`: `make check` has 90 s

MARKETS = ["JP", "US", "BR", "KR"]


def frame(items: int = 120, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Records, logits that know something of the country, and the true probabilities."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(0, 1.5, (items, 4))
    q = 1 / (1 + np.exp(-taste))
    rows = pd.DataFrame(
        {
            "record_id": [f"{i}-{m}" for i in range(items) for m in MARKETS],
            "pair_id": np.repeat([f"pair{i}" for i in range(items)], 4),
            "product_id": np.repeat([f"product{i // 2}" for i in range(items)], 4),
            "market": MARKETS * items,
            "hash_a": np.repeat([f"a{i % 30}" for i in range(items)], 4),
            "hash_b": np.repeat([f"b{i % 31}" for i in range(items)], 4),
            "label": (rng.random((items, 4)) < q).astype(np.int8).ravel(),
            "impressions_a": 1000,
            "impressions_b": 1000,
            "compared_a": (0.01 + 0.02 * q).ravel(),
            "compared_b": 0.02,
            "as_of": None,
        }
    )
    return rows, (taste + rng.normal(0, 1, (items, 4))).ravel(), q.ravel()


def report(**options) -> dict:
    rows, logit, q = frame()
    logit = np.where(np.arange(logit.size) % 10 == 0, 0.0, logit)
    variants = {
        "prior_only": logit,
        "prior_shuffled": shuffled(logit, rows),
        "constant_letter": constant_letter(rows, rows),
        "market_blind_oracle": market_blind_oracle(rows),
    }
    options = {"unit": "product", "q": q, "ceiling_source": "simulator truth", "draws": 200} | options
    return evaluate(rows, variants, **options)


@pytest.fixture(scope="module")
def simulated() -> dict:
    counts = {
        "observations": {"input": 1000, "kept": 990, "quarantined": 10},
        "pairs": {"input": 500, "records": 480, "dropped": 15, "quarantined": 5},
    }
    extra = {"counts": counts, "seconds": {"priors": 1.5}, "machine": {"cores": 2}, "versions": {"ray": "2.60"}}
    return report() | extra | {"command": "python jobs/demo.py --out 'a & b'"}


def test_contract_keys(simulated):
    assert set(simulated["variants"]) == {"prior_only", "prior_shuffled", "constant_letter", "market_blind_oracle"}
    five = ("accuracy", "balanced_accuracy", "sensitivity", "discordant_sensitivity", "discordant_ordering")
    for found in (
        *simulated["variants"].values(),
        simulated["ceilings"]["noise"],
        simulated["ceilings"]["market_blind"],
    ):
        for metric in five:
            assert set(found[metric]) == {"value", "low", "high"}
            assert found[metric]["low"] <= found[metric]["value"] <= found[metric]["high"]
    assert set(REPORTED) <= set(simulated["variants"]["prior_only"])
    json.dumps(simulated, allow_nan=False)  # strict JSON: no NaN anywhere


def test_what_the_numbers_must_say(simulated):
    variants = simulated["variants"]
    oracle = variants["market_blind_oracle"]
    assert oracle["discordant_sensitivity"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert oracle["discordant_ordering"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert (
        variants["prior_only"]["discordant_ordering"]["low"] > variants["prior_shuffled"]["discordant_ordering"]["high"]
    )
    assert variants["prior_only"]["coverage"] == pytest.approx(0.9)
    assert variants["prior_only"]["no_evidence"] == pytest.approx(0.1)
    assert variants["constant_letter"]["brier"]["value"] is None  # a bare letter states no probability
    assert simulated["ceilings"]["noise"]["accuracy"]["value"] > variants["prior_only"]["accuracy"]["value"]
    per_market = variants["prior_only"]["per_market"]
    assert list(per_market) == sorted(MARKETS)
    assert {m["n"] for m in per_market.values()} == {120}
    mean = np.mean([m["accuracy"]["value"] for m in per_market.values()])
    assert mean == pytest.approx(variants["prior_only"]["accuracy"]["value"])
    n = simulated["n"]
    assert (n["rows"], n["items"], n["units"], n["markets"], n["country_pairs"]) == (480, 120, 60, 4, 720)
    difference = simulated["differences"]["prior_only - prior_shuffled"]
    assert difference["metrics"]["discordant_ordering"]["low"] > 0
    assert all(row["p_holm"] >= row["p"] for row in difference["per_market"].values())
    assert 0 <= difference["p"] <= 1


def test_without_counts_the_ceilings_are_null():
    found = report(q=None, ceiling_source=None)
    assert found["ceilings"]["source"] is None
    assert found["ceilings"]["noise"]["accuracy"] == {"value": None, "low": None, "high": None}
    assert "unknown" in " ".join(findings(found))


def test_ratings_and_orders_are_not_called_clicks():
    found = report(q=None, ceiling_source=None)
    rated = findings(found | {"data": {"kinds": {"score": 480}}})
    assert rated[0] == "The winners here come from ratings, not from ads and not from clicks."
    assert "orders, not from clicks" in findings(found | {"data": {"kinds": {"orders": 480}}})[0]
    assert findings(found | {"data": {"kinds": {"counts": 480}}}) == findings(found)
    delivered = {
        "data": {"not_identified": {"as_delivered": 300, "share": 0.4, "fitted": True}, "outcome": "conversions"}
    }
    said = findings(found | delivered)
    assert said[0] == "The winners here have more sales or sign-ups per view, whatever their clicks."
    assert "those winners won as delivered, and 40\u00a0% of all winners are not identified as the better ad" in said[1]


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.05, 0.02, 0.08, "5.0 points more often than past ads alone (95 % interval of the difference +2.0 to +8.0)."),
        (
            -0.05,
            -0.08,
            -0.02,
            "5.0 points less often than past ads alone (95 % interval of the difference -8.0 to -2.0).",
        ),
        (
            -0.016,
            -0.06,
            0.031,
            "no more and no less often than past ads alone, as far as these cases tell: -1.6 points",
        ),
    ],
)
def test_a_difference_is_said_with_its_sign(value: float, low: float, high: float, said: str):
    found = report(q=None, ceiling_source=None)
    gap = {"metrics": {"accuracy": {"value": value, "low": low, "high": high}}}
    found["variants"]["country_reward"] = found["variants"]["prior_only"]
    found["differences"] = {"country_reward - prior_only": gap}
    assert f"It names the winner {said}" in " ".join(findings(found, "country_reward"))


def test_images_as_units():
    found = report(unit="image")
    assert found["n"]["units"] == 61
    assert found["n"]["unit"] == "image"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "row"}, "unit='row'"),
        ({"ceiling_source": None}, "ceiling_source"),
        ({"compare": [("a", "b")]}, "no variant 'a'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        report(**options)


def test_wrong_logits_are_named():
    rows, logit, _ = frame(10)
    with pytest.raises(ValueError, match=r"logits\['x'\]: shape"):
        evaluate(rows, {"x": logit[:-1]}, unit="product")
    with pytest.raises(ValueError, match="not finite"):
        evaluate(rows, {"x": np.where(logit > 0, np.nan, logit)}, unit="product")


def words(value, low, high) -> str:
    return headline({"variants": {"prior_only": {"discordant_ordering": {"value": value, "low": low, "high": high}}}})


def test_headline_follows_the_interval():
    assert words(0.63, 0.61, 0.65).replace("\u00a0", " ") == (
        "Past ads alone put two countries in the right order 63 % of the time "
        "(95 % interval 61 to 65 %; a judge that ignores the country: 50 %)."
    )
    assert "do not tell countries apart" in words(0.51, 0.48, 0.54)
    assert "worse than a coin" in words(0.4, 0.35, 0.45)
    assert "50.4 to 52.6" in words(0.515, 0.504, 0.526)  # rounding must not put the interval's end on 50 %
    assert "nothing can be said" in words(None, None, None)


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def card() -> FlipCard:
    verdicts = (
        MarketVerdict(market="Japan", answer="A", probability=0.8, observed="A", evidence=31),
        MarketVerdict(market="Brazil", answer="B", probability=0.3, observed="A", evidence=1),
        MarketVerdict(market="Chile", answer=None, probability=0.5, observed=None, evidence=0),
    )
    near = Neighbour(
        image=picture("teal"), title="Kettle", market="Japan", lift="+18 % vs. its average", speaks_for="A"
    )
    return FlipCard(
        title="Mug <script>alert(1)</script> & Co. 茶",
        category="Kitchen",
        image_a=picture("navy"),
        image_b=picture("orange"),
        markets=verdicts,
        neighbours=(near,),
    )


CURVES = {"text": {"rank": [1, 2, 3], "mean_similarity": [0.9, 0.5, 0.4], "k": 2, "K": 3, "threshold": 0.8}}


def test_page_is_self_contained(simulated, tmp_path):
    path = tmp_path / "report.html"
    write_report_page(simulated, [card()], CURVES, path)
    page = path.read_text(encoding="utf-8")
    assert headline(simulated) in page
    assert not re.search(r"https?://|//cdn|<script|<link|@import|url\(", page)
    assert set(re.findall(r'src="([^"]{0,10})', page)) == {"data:image"}
    assert page.count("<img") == 3 + 5  # the card's three pictures and five plots
    assert "&lt;script&gt;" in page
    assert "茶" in page
    assert page.count(">simulated<") >= 7
    assert "31 past ads" in page
    assert "no answer" in page
    assert "a &amp; b" in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]  # no half-written file left


def test_page_of_real_data_without_extras(tmp_path):
    found = report(q=None, ceiling_source=None)
    write_report_page(found, [], {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "simulated" not in page
    assert page.count("<img") == 3


@pytest.mark.filterwarnings("ignore:Glyph")  # the bundled font has no Chinese; the page uses the reader's
def test_flip_figure_is_a_picture(tmp_path):
    flip_figure(card(), tmp_path / "flip.png", note="simulated data")
    with Image.open(tmp_path / "flip.png") as image:
        assert image.format == "PNG"
        assert image.width == 1500


def test_one_entry_in_the_table_is_a_row_of_the_report(monkeypatch, tmp_path):
    opposite = JudgeRow(
        name="Always the other way round",
        letter_only=True,
        in_every_plot=True,
        called="the opposite",
        from_records=lambda given: -np.sign(given.prior) + (given.prior == 0),
    )
    monkeypatch.setitem(JUDGE_ROWS, "opposite", opposite)
    rows, logit, _ = frame()
    given = RecordInputs(train=rows, test=rows, prior=logit, embeddings=None, seed=0)  # pyright: ignore[reportArgumentType]
    logits = {key: row.from_records(given) for key, row in JUDGE_ROWS.items() if row.from_records}
    assert list(logits) == ["prior_shuffled", "other_markets", "constant_letter", "market_blind_oracle", "opposite"]
    found = evaluate(rows, {"prior_only": logit} | logits, unit="product", draws=100)
    right = found["variants"]["prior_only"]["accuracy"]["value"]
    assert found["variants"]["opposite"]["accuracy"]["value"] == pytest.approx(1 - right)
    assert found["variants"]["opposite"]["log_loss"]["value"] is None
    assert any("points more often than the opposite (95 %" in sentence for sentence in findings(found))
    write_report_page(found, [], {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Always the other way round" in page
    assert "Past ads alone against always the other way round" in page


def test_a_judge_without_an_entry_is_called_by_its_key():
    rows, logit, _ = frame()
    found = evaluate(rows, {"my_own_judge": logit}, unit="product", draws=50)
    assert headline(found, "my_own_judge").startswith("my own judge puts two countries in the right order")


def test_randomised_records_are_also_measured_alone():
    rows, logit, _ = frame()
    rows["delivery"] = np.where(np.arange(len(rows)) % 4 == 0, "randomised", "optimised")
    alone = on_comparable(rows, {"prior_only": logit}, unit="product", draws=100, seed=0)
    assert alone is not None
    assert alone["n"]["rows"] == len(rows) // 4
    right = (logit >= 0) == (rows["label"] == 1)
    assert alone["variants"]["prior_only"]["accuracy"]["value"] == pytest.approx(
        right[rows["delivery"] == "randomised"].mean()
    )
    said = findings(report() | {"comparable": alone})
    assert any("cases in which chance decided who saw which ad it names" in sentence for sentence in said)
    assert (
        on_comparable(rows.assign(delivery="unknown"), {"prior_only": logit}, unit="product", draws=9, seed=0) is None
    )
