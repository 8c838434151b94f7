"""Table 2 by our definition: shares worked out by hand, pairing, draws, what is missing stays missing."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from countryreward.data.artifacts import publish
from countryreward.data.tables import CASES
from countryreward.equations.writer_metrics import log_ratio, preferred
from countryreward.errors import UserError
from countryreward.evaluation.alignment import alignment_table
from countryreward.evaluation.writer_cases import WriterCases, collapse, open_cases
from tests.unit.writer_world import case, world

NOTHING = {"value": None, "low": None, "high": None}


def variant(name: str, rows: list[dict], **other) -> WriterCases:
    frame = pd.DataFrame([row | {"key": f"{name}-{n}"} for n, row in enumerate(rows)])
    return WriterCases(name=name, cases=frame, **other)


def says(question: str = "beats_original", **judged: float) -> dict:
    return {question: judged}


def test_preferred_by_hand():
    assert preferred(np.array([0.51, 0.5, 0.49, 1.0, 0.0, np.nan])).tolist()[:5] == [1.0, 0.5, 0.0, 1.0, 0.0]
    assert np.isnan(preferred(np.array([np.nan]))).all()
    assert log_ratio(np.array([-10.0, -12.0]), np.array([-11.5, -12.0])).tolist() == [1.5, 0.0]


def test_shares_by_hand():
    before = variant(
        "reference",
        [
            case("p1", "BR", **says(reward=0.6, truth=1.0)),
            case("p1", "KR", **says(reward=0.4, truth=0.0)),
            case("p2", "BR", **says(reward=0.5, truth=0.5)),
        ],
    )
    after = variant(
        "round-1",
        [
            case("p1", "BR", beats_original={"reward": 0.9, "truth": 1.0}, beats_reference={"reward": 0.7}),
            case("p1", "KR", beats_original={"reward": 0.7, "truth": 0.0}, beats_reference={"reward": 0.5}),
            case("p2", "KR", beats_original={"reward": 0.2, "truth": 0.0}, beats_reference={"reward": 0.1}),
        ],
    )
    table = alignment_table([before, after], draws=50)
    assert (table["judges"], table["markets"], table["order"]) == (
        ["reward", "truth"],
        ["BR", "KR"],
        ["reference", "round-1"],
    )
    first, second = table["variants"]["reference"], table["variants"]["round-1"]
    assert first["beats_original"]["reward"]["share"] == {"value": 0.5, "low": None, "high": None}  # 1, 0, .5
    assert first["beats_original"]["reward"]["probability"]["value"] == pytest.approx(0.5)
    assert first["beats_original"]["reward"]["per_market"]["BR"] == {
        "n": 2,
        "share": {"value": 0.75, "low": None, "high": None},
        "probability": {"value": pytest.approx(0.55), "low": None, "high": None},
    }
    assert first["beats_reference"] == {}
    assert second["beats_original"]["reward"]["share"]["value"] == pytest.approx(2 / 3)
    assert second["beats_reference"]["reward"]["share"]["value"] == pytest.approx(0.5)  # 1, .5, 0
    assert second["beats_reference"]["truth"]["share"] == NOTHING  # it was not asked
    gained = table["differences"]["round-1 - reference"]
    assert gained["beats_original"]["reward"]["n"] == 2  # only p1 has both: 1 - 1 and 1 - 0
    assert gained["beats_original"]["reward"]["share"]["value"] == pytest.approx(0.5)
    assert gained["beats_original"]["reward"]["probability"]["value"] == pytest.approx(0.3)
    assert gained["beats_reference"]["reward"]["share"]["value"] == pytest.approx(0.25)  # 1 - .5 and .5 - .5
    assert gained["beats_original"]["reward"]["share_p"] == 1.0  # two products test nothing
    json.dumps(table, allow_nan=False)


def test_draws_are_averaged_before_cases():
    """Three draws of one case count as one case: (1 + 1 + 0) / 3 and 0."""
    rows = [case("p1", "BR", seed=seed, **says(reward=p)) for seed, p in enumerate((0.9, 0.8, 0.1))]
    table = alignment_table([variant("reference", [*rows, case("p2", "BR", **says(reward=0.2))])], draws=10)
    found = table["variants"]["reference"]
    assert (found["cases"], found["designs"], found["products"]) == (2, 4, 2)
    assert found["beats_original"]["reward"]["n"] == 2
    assert found["beats_original"]["reward"]["share"]["value"] == pytest.approx(1 / 3)


def test_fidelity_kl_and_counts_by_hand():
    rows = [
        case("p1", "BR", fidelity=0.4, repaired=True),
        case("p1", "KR", fidelity=0.5),
        case("p2", "BR", fidelity=0.9),
    ]
    logs = pd.DataFrame(
        {
            "key": ["round-1-2", "round-1-0", "round-1-1"],  # in another order than the cases
            "log_prob": [-20.0, -30.0, -25.0],
            "log_prob_reference": [-23.0, -30.0, -24.0],
            "tokens": [40, 60, 50],
        }
    )
    one = variant("round-1", rows, log_probs=logs, pairs={"KR": 3, "BR": 5}, refused=2)
    table = alignment_table([variant("reference", rows), one], draws=10)
    found = table["variants"]["round-1"]
    assert found["fidelity"]["mean"]["value"] == pytest.approx(0.6)
    assert found["fidelity"]["below_half"]["value"] == pytest.approx(1 / 3)
    assert found["fidelity"]["per_market"]["BR"]["value"] == pytest.approx(0.65)
    assert found["kl"]["value"] == pytest.approx((3 + 0 - 1) / 3)
    assert found["kl_per_token"] == pytest.approx(2 / 3 / 50)
    assert (found["repaired"], found["refused"], found["pairs"]) == (1, 2, {"BR": 5, "KR": 3})
    assert table["variants"]["reference"]["kl"] == NOTHING
    assert table["variants"]["reference"]["refused"] is None
    assert table["differences"]["round-1 - reference"]["fidelity"]["value"] == 0.0


def test_diversity_by_hand():
    def design(market: str, seed: int, scene: str) -> dict:
        return case("p1", market, seed=seed, background=scene)

    blind = [design("BR", 1, "beach"), design("BR", 2, "studio"), design("KR", 3, "beach"), design("KR", 4, "studio")]
    heard = [design("BR", 1, "beach"), design("BR", 2, "beach"), design("KR", 3, "studio"), design("KR", 4, "studio")]
    table = alignment_table([variant("reference", blind), variant("round-1", heard)], draws=10)
    first, second = (table["variants"][name]["diversity"] for name in ("reference", "round-1"))
    assert [first[each]["value"] for each in ("within", "across", "market_effect")] == [0.25, 0.125, -0.125]
    assert [second[each]["value"] for each in ("within", "across", "market_effect")] == [0.0, 0.25, 0.25]
    assert table["differences"]["round-1 - reference"]["market_effect"]["value"] == pytest.approx(0.375)
    assert second["per_market"]["BR"] == {
        "designs": 2,
        "products": 1,
        "different": 1,
        "commonest": 1.0,
        "by_field": {"foreground": 1.0, "background": 1.0, "color_tone": 1.0, "lighting": 1.0},
    }
    assert first["per_market"]["BR"]["commonest"] == 0.5
    assert collapse(variant("x", blind), "US") == {
        "designs": 0,
        "products": 0,
        "different": 0,
        "commonest": None,
        "by_field": {},
    }


def test_one_draw_has_no_diversity_within_a_market():
    table = alignment_table([variant("reference", [case("p1", "BR", seed=1), case("p1", "KR", seed=2)])], draws=10)
    found = table["variants"]["reference"]["diversity"]
    assert found["within"] == NOTHING == found["market_effect"]
    assert found["across"]["value"] == 0.0


def test_intervals_hold_what_is_true_and_pairing_makes_them_narrow():
    table = alignment_table(
        world(products=80, shifts={"round-1": {"reward": 0.6, "held_out": 0.3, "truth": 0.3}}), draws=400
    )
    gained = table["differences"]["round-1 - reference"]["beats_original"]
    for judge in ("reward", "held_out", "truth"):
        share, probability = gained[judge]["share"], gained[judge]["probability"]
        assert share["low"] < share["value"] < share["high"]
        assert probability["low"] > 0
        own = table["variants"]["round-1"]["beats_original"][judge]["share"]
        assert share["high"] - share["low"] < own["high"] - own["low"]  # how good the originals are cancels
    assert gained["reward"]["share_p"] < 0.001
    assert list(gained["reward"]["per_market"]) == ["BR", "KR", "US"]
    assert all(row["p_holm"] >= row["p"] for row in gained["reward"]["per_market"].values())
    effect = table["variants"]["round-1"]["diversity"]["market_effect"]
    assert effect["low"] < 0 < effect["high"]  # this writer draws its words whatever the market
    json.dumps(table, allow_nan=False)


def test_markets_are_tested_against_the_reference_and_the_round_before_only():
    table = alignment_table(world(products=12, shifts={f"round-{n}": {} for n in (1, 2, 3)}), draws=50)
    shown = {
        name: bool(found["beats_original"]["reward"]["per_market"]) for name, found in table["differences"].items()
    }
    assert shown == {
        "round-1 - reference": True,
        "round-2 - reference": True,
        "round-3 - reference": True,
        "round-2 - round-1": True,
        "round-3 - round-1": False,
        "round-3 - round-2": True,
    }


def test_the_order_of_rows_changes_nothing():
    given = world(products=12, shifts={"round-1": {"reward": 0.5}})
    turned = [
        WriterCases(name=v.name, cases=v.cases[::-1], log_probs=v.log_probs, pairs=v.pairs, refused=v.refused)
        for v in given
    ]
    first, second = (alignment_table(each, draws=50) for each in (given, turned))
    flat = [pd.json_normalize(each).drop(columns=["judges"]).to_numpy()[0].tolist() for each in (first, second)]
    for one, other in zip(*flat, strict=True):
        assert one == (pytest.approx(other, rel=1e-5, abs=1e-7) if isinstance(other, float) else other)


def test_a_cases_artifact_is_read(tmp_path):
    rows = [case("p1", "BR", **says(reward=0.75)), case("p1", "KR", seed=1, beats_reference={"truth": 1.0})]
    with publish(tmp_path / "cases", kind="cases") as draft:
        table = pa.Table.from_pylist([_as_lists(row) for row in rows], schema=CASES)
        pq.write_table(table, draft.path / "cases.parquet")
        draft.counts["designs"] = {"written": 5, "not_read": 3}
    found = open_cases(tmp_path / "cases", name="round-1", pairs={"BR": 4})
    assert found.probabilities("beats_original", "reward").tolist()[0] == 0.75
    assert np.isnan(found.probabilities("beats_original", "reward")[1])
    assert (found.judges(), found.refused, found.log_probs) == (("reward", "truth"), 3, None)
    assert alignment_table([found], draws=10)["variants"]["round-1"]["beats_original"]["reward"]["n"] == 1


def _as_lists(row: dict) -> dict:
    return {name: list(value.items()) if isinstance(value, dict) else value for name, value in row.items()}


def test_a_table_that_lacks_columns_is_named(tmp_path):
    with publish(tmp_path / "cases", kind="cases") as draft:
        pq.write_table(pa.table({"key": ["a"]}), draft.path / "cases.parquet")
    with pytest.raises(UserError, match="lacks product_id"):
        open_cases(tmp_path / "cases", name="reference")


def test_wrong_variants_are_named():
    rows = [case("p1", "BR")]
    with pytest.raises(ValueError, match="none"):
        alignment_table([])
    with pytest.raises(ValueError, match="has no case"):
        alignment_table([WriterCases(name="reference", cases=pd.DataFrame(rows)[:0])])
    with pytest.raises(ValueError, match="a name of its own"):
        alignment_table([variant("reference", rows), variant("reference", rows)])
