"""The stop rule: every reason with literal numbers, what it warns of, how often it cries wolf, and a planted hack."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from countryreward.errors import UserError
from countryreward.evaluation.alignment import alignment_table
from countryreward.evaluation.evaluation_config import StopRule
from countryreward.evaluation.statistics import PairedMeans
from countryreward.evaluation.stop_rule import decide
from countryreward.evaluation.writer_cases import WriterCases
from tests.unit.writer_world import case, world

RULE = StopRule()
JUDGED, QUESTIONS = ("reward", "held_out"), ("beats_original", "beats_reference")
NOTHING = {"value": None, "low": None, "high": None}


def gain(value: float | None, spread: float = 0.01, p: float = 0.5) -> dict[str, Any]:
    if value is None:
        return {"probability": NOTHING, "probability_p": 1.0}
    return {"probability": {"value": value, "low": value - spread, "high": value + spread}, "probability_p": p}


def of_variant(fidelity: float = 0.8, within: float | None = 0.4, commonest: float = 0.1, products: int = 30) -> dict:
    return {
        "fidelity": {"mean": {"value": fidelity}},
        "diversity": {
            "within": {"value": within},
            "per_market": {
                "KR": {"commonest": commonest, "products": products},
                "BR": {"commonest": 0.1, "products": 30},
            },
        },
    }


def table(variants: dict[str, dict], differences: dict[str, dict[str, Any]]) -> dict:
    """differences: {"later - earlier": {judge: gain, "fidelity": value}}; what is not given did not change."""
    order = list(variants)
    found = {}
    for at, later in enumerate(order):
        for earlier in order[:at]:
            given = differences.get(f"{later} - {earlier}", {})
            found[f"{later} - {earlier}"] = {
                **{question: {judge: given.get(judge, gain(0.0)) for judge in JUDGED} for question in QUESTIONS},
                "fidelity": {"value": given.get("fidelity", 0.0)},
            }
    return {"order": order, "judges": ["reward", "held_out"], "variants": variants, "differences": found}


def two(differences: dict[str, Any], **after) -> dict:
    return table({"reference": of_variant(), "round-1": of_variant(**after)}, {"round-1 - reference": differences})


def test_a_better_writer_goes_on():
    found = decide(two({"reward": gain(0.06, p=0.001), "held_out": gain(0.03, p=0.01)}), RULE)
    assert (found.stop, found.round, found.last_good, found.reasons) == (False, "round-1", "round-1", ())
    assert found.why.replace("\u00a0", " ") == (
        "Go on: since reference, the probability of beating the reference's ad changed by +6.0 points (95 % interval +5.0 to "
        "+7.0) for the reward that trained the writer and +3.0 points (95 % interval +2.0 to +4.0) for the held-out judge; "
        "fidelity is 0.80; designs within a market differ 100 % as much as the reference's. No bound is broken."
    )
    assert found.as_dict()["stop"] is False


def test_judges_that_part_stop_it():
    found = decide(two({"reward": gain(0.06), "held_out": gain(-0.03, p=0.002)}), RULE)
    assert (found.stop, found.round, found.last_good, found.reasons) == (True, "round-1", "reference", ("parting",))
    assert found.why == (
        "Stop at round-1 and keep reference: since reference, the probability of beating the reference's ad rose by 6.0 "
        "points (95 % interval 5.0 to 7.0) for the reward that trained the writer, and fell by 3.0 points (95 % interval 2.0 to "
        "4.0), p = .002 over one comparison, for the held-out judge: the writer learned to please its judge."
    )


def test_the_original_stands_in_where_nothing_was_asked_head_to_head():
    asked = two({"reward": gain(0.06), "held_out": gain(-0.03, p=0.002)})
    asked["differences"]["round-1 - reference"]["beats_reference"] = {judge: gain(None) for judge in JUDGED}
    found = decide(asked, RULE)
    assert found.reasons == ("parting",)
    assert "the probability of beating the original creative rose by 6.0 points" in found.why


def test_a_fall_that_may_be_chance_does_not():
    assert not decide(two({"reward": gain(0.06), "held_out": gain(-0.03, p=0.06)}), RULE).stop
    assert decide(two({"reward": gain(0.06), "held_out": gain(-0.03, p=0.06)}), StopRule(level=0.1)).stop


def test_worse_by_both_judges_stops_under_its_own_name():
    found = decide(two({"reward": gain(-0.01), "held_out": gain(-0.03, p=0.001)}), RULE)
    assert found.reasons == ("worse",)
    assert "the ads got worse" in found.why


def test_a_slow_drift_is_found_against_an_earlier_round():
    """No step shows it; from round-1 to round-3 it does, so round-1 is the last that is known to be good."""
    variants = {name: of_variant() for name in ("reference", "round-1", "round-2", "round-3")}
    steps = {
        "round-1 - reference": {"reward": gain(0.05), "held_out": gain(0.04, p=0.001)},
        "round-2 - round-1": {"reward": gain(0.02), "held_out": gain(-0.015, p=0.2)},
        "round-3 - round-2": {"reward": gain(0.02), "held_out": gain(-0.015, p=0.2)},
        "round-3 - round-1": {"reward": gain(0.04), "held_out": gain(-0.03, p=0.01)},
    }
    found = decide(table(variants, steps), RULE)
    assert (found.round, found.last_good, found.reasons) == ("round-3", "round-1", ("parting",))
    assert "p = .030 over 3 comparisons" in found.why
    steps["round-3 - round-1"]["held_out"] = gain(-0.03, p=0.02)  # .06 over three comparisons
    assert not decide(table(variants, steps), RULE).stop


def test_the_first_round_that_breaks_the_rule_counts():
    variants = {name: of_variant() for name in ("reference", "round-1", "round-2", "round-3")}
    steps = {"round-2 - round-1": {"reward": gain(0.05), "held_out": gain(-0.05, p=0.0001)}}
    found = decide(table(variants, steps), RULE)
    assert (found.round, found.last_good) == ("round-2", "round-1")


@pytest.mark.parametrize(
    ("after", "change", "reason", "said"),
    [
        (
            {"fidelity": 0.49},
            {"fidelity": -0.05},
            "fidelity",
            "recognisable in the ads to 0.49, below the bound of 0.50",
        ),
        (
            {"fidelity": 0.69},
            {"fidelity": -0.11},
            "fidelity",
            "lost 0.11 against reference and is 0.69; 0.10 is the most",
        ),
        ({"within": 0.09}, {}, "diversity", "differ 22 % as much as the reference's did, below the bound of 25 %"),
        (
            {"commonest": 0.6},
            {},
            "collapse",
            "60 % of the designs for South Korea are one and the same; 50 % is the most",
        ),
    ],
)
def test_bounds(after: dict, change: dict, reason: str, said: str):
    found = decide(two(change, **after), RULE)
    assert (found.stop, found.last_good, found.reasons) == (True, "reference", (reason,))
    assert said in found.why.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("after", "change"),
    [
        ({"fidelity": 0.71}, {"fidelity": -0.09}),
        ({"within": 0.1}, {}),
        ({"commonest": 0.5}, {}),
        ({"commonest": 0.9, "products": 9}, {}),  # too few products to speak of a collapse
    ],
)
def test_bounds_that_are_kept(after: dict, change: dict):
    assert not decide(two(change, **after), RULE).stop


def test_several_reasons_are_all_told():
    found = decide(two({"reward": gain(0.1), "held_out": gain(-0.1, p=0.001), "fidelity": -0.4}, fidelity=0.4), RULE)
    assert found.reasons == ("parting", "fidelity")


def test_a_reference_that_breaks_a_bound_itself_is_told_and_not_held_against_the_round():
    poor = {"reference": of_variant(fidelity=0.3, commonest=0.8), "round-1": of_variant(fidelity=0.28, commonest=0.7)}
    found = decide(table(poor, {}), RULE)
    assert not found.stop
    assert "fidelity of 0.30, below the bound of 0.50" in found.warnings[0]


def test_what_cannot_be_checked_is_told():
    alone: dict[str, Any] = two({"reward": gain(0.1)}, within=None) | {"judges": ["reward"]}
    for question in QUESTIONS:
        alone["differences"]["round-1 - reference"][question].pop("held_out")
    found = decide(alone, RULE)
    assert not found.stop
    assert [warning.split(":")[0] for warning in found.warnings] == [
        "There is no held-out judge",
        "Diversity within a market was not measured",
    ]
    bare = gain(-0.3) | {"probability": {"value": -0.3, "low": None, "high": None}}
    few = decide(two({"reward": gain(0.1), "held_out": bare}), RULE)
    assert not few.stop
    assert "too few products" in few.warnings[0]


def test_before_any_round():
    assert decide(table({"reference": of_variant()}, {}), RULE).why == "Go on: only the reference has been judged."


@pytest.mark.parametrize("option", [{"level": 1.5}, {"fidelity_least": -0.1}, {"collapse_products": 1}])
def test_wrong_options_are_named(option: dict):
    with pytest.raises(UserError, match=next(iter(option))):
        StopRule(**option)


# What follows runs on data.


def measured(rng: np.random.Generator, rounds: int, shift: dict[str, float], products: int = 40) -> dict:
    """A table with nothing but the gains of two judges, each round `shift` logits above the last; 3 markets, 2 draws."""
    names = ["reference", *(f"round-{n}" for n in range(1, rounds + 1))]
    shape = products, 3, 2
    codes = [f"p{n}" for n in range(products)]
    means = PairedMeans(codes, draws=200, seed=0)
    liked = {
        (name, judge): rng.normal(0, 1, shape) + shift.get(judge, 0.0) * at
        for at, name in enumerate(names)
        for judge in JUDGED
    }
    said = {key: 1 / (1 + np.exp(liked["reference", key[1]] - value)) for key, value in liked.items()}
    pairs = [(later, earlier) for at, later in enumerate(names) for earlier in names[:at]]
    for later, earlier in pairs:
        for judge in ("reward", "held_out"):
            gap = (said[later, judge] - said[earlier, judge]).mean(axis=(1, 2))
            means.add((later, earlier, judge), pd.Series(gap, index=codes))
    means.draw()
    gains = {
        f"{later} - {earlier}": {
            judge: {
                "probability": means.interval((later, earlier, judge)),
                "probability_p": means.p((later, earlier, judge)),
            }
            for judge in ("reward", "held_out")
        }
        for later, earlier in pairs
    }
    return table({name: of_variant() for name in names}, gains)


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "most"), [(1, 0.07), (4, 0.18)])
def test_it_does_not_cry_wolf(rounds: int, most: float):
    """Nothing changes: about 3 % a round, with what 200 simulations stray by; a writer that gains, hardly ever."""
    rng = np.random.default_rng(0)
    runs = 200
    still = sum(decide(measured(rng, rounds, {}), RULE).stop for _ in range(runs)) / runs
    better = sum(decide(measured(rng, rounds, {"reward": 0.3, "held_out": 0.2}), RULE).stop for _ in range(runs)) / runs
    assert 0 <= still <= most
    assert better <= 0.01


@pytest.mark.slow
def test_it_finds_a_parting():
    """A round that costs a third of a standard deviation of ads is found in most runs, a slow one before the fifth round."""
    rng = np.random.default_rng(1)
    at_once = [decide(measured(rng, 1, {"reward": 0.4, "held_out": -0.33}), RULE).stop for _ in range(50)]
    slowly = [decide(measured(rng, 5, {"reward": 0.2, "held_out": -0.1}), RULE).stop for _ in range(50)]
    assert np.mean(at_once) > 0.8
    assert np.mean(slowly) > 0.7


def painted(share_red: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Ads of a writer that paints so large a share of them red. The reward loves red; people, by market, mostly do not."""
    taste = {("BR", "red"): 0.1, ("KR", "red"): -0.6, ("US", "red"): -0.4}
    ads = []
    for product, market, _ in itertools.product(range(40), ("BR", "KR", "US"), range(2)):
        red = rng.random() < share_red
        colour = "red" if red else str(rng.choice(["blue", "green", "grey", "gold"]))
        true = rng.normal(0, 0.5) + taste.get((market, colour), 0.0)
        liked = {
            "reward": true + rng.normal(0, 0.5) + (1.5 if red else 0.0),
            "held_out": true + rng.normal(0, 0.5),
            "truth": true,
        }
        scene = str(rng.choice(["beach", "studio", "street", "garden"]))
        ads.append({"product": f"p{product}", "market": market, "colour": colour, "scene": scene, "liked": liked})
    return ads


def cases_of(name: str, ads: list[dict[str, Any]], reference: list[dict[str, Any]]) -> WriterCases:
    """Every ad against an original that all judges like alike, and against the reference's ad of its case."""

    def says(ad: dict[str, Any], rival: dict[str, float]) -> dict[str, float]:
        gaps = {judge: liked - rival.get(judge, 0.0) for judge, liked in ad["liked"].items()}
        return {j: float((1 + np.sign(gap)) / 2 if j == "truth" else 1 / (1 + np.exp(-gap))) for j, gap in gaps.items()}

    rows = [
        case(
            ad["product"],
            ad["market"],
            seed=number,
            color_tone=ad["colour"],
            background=ad["scene"],
            beats_original=says(ad, {}),
            beats_reference={} if ads is reference else says(ad, rival["liked"]),
        )
        for number, (ad, rival) in enumerate(zip(ads, reference, strict=True))
    ]
    return WriterCases(name=name, cases=pd.DataFrame(rows))


def test_a_reward_that_loves_one_colour_is_caught():
    """The reward is delighted, the held-out judge is not: the run stops at the first round in which that is proven."""
    rng = np.random.default_rng(3)
    made = {name: painted(share, rng) for name, share in (("reference", 0.2), ("round-1", 0.6), ("round-2", 0.95))}
    found = alignment_table([cases_of(name, ads, made["reference"]) for name, ads in made.items()], draws=400)
    decision = decide(found, RULE)
    assert (decision.stop, decision.reasons) == (True, ("parting",))
    assert decision.last_good == found["order"][found["order"].index(decision.round) - 1]
    gained = found["differences"][f"{decision.round} - {decision.last_good}"]["beats_reference"]
    assert gained["reward"]["probability"]["low"] > 0
    assert gained["truth"]["share"]["value"] < 0  # and it is right: people like these ads less
    red = [
        found["variants"][name]["diversity"]["per_market"]["KR"]["by_field"]["color_tone"]
        for name in ("reference", "round-2")
    ]
    assert red[0] < 0.4 < 0.9 < red[1]


def test_an_honest_gain_is_not_stopped():
    steps = {
        "round-1": {"reward": 0.5, "held_out": 0.3, "truth": 0.3},
        "round-2": {"reward": 0.9, "held_out": 0.5, "truth": 0.5},
    }
    decision = decide(alignment_table(world(shifts=steps), draws=400), RULE)
    assert (decision.stop, decision.last_good, decision.warnings) == (False, "round-2", ())
