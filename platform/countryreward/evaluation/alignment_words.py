"""The comparison of a writer's variants in plain words, as negative as its numbers are."""

from collections.abc import Mapping
from typing import Any

from countryreward.evaluation.report_text import percent, span
from countryreward.evaluation.stop_rule import Decision

JUDGES = {
    "reward": "The reward that trained it",
    "held_out": "A held-out judge",
    "truth": "The simulated truth",
}
WHAT_THEY_ARE = {
    "reward": "The reward model whose choices the writer was trained on. The paper's Table 2 is of this kind. A writer that "
    "learned to please it looks better here than it is.",
    "held_out": "A reward model that took no part: another seed, other products, a knowledge base of its own.",
    "truth": "The click probabilities from which the simulator drew its clicks. Nobody has them for real ads; no decision "
    "uses them.",
}
PAPER_MARKETS = ("BR", "CL", "ES", "FR", "KR", "JP", "US", "MX", "AU", "SA")
PAPER_TABLE_2 = {
    "DGM (w/o RL)": (56.04, 54.03, 57.05, 51.67, 55.40, 53.59, 60.40, 57.64, 54.36, 56.38, 59.89),
    "DGM": (59.60, 58.36, 60.10, 54.66, 57.31, 56.22, 61.76, 60.28, 57.33, 68.26, 61.71),
}
"""As printed: overall, then by PAPER_MARKETS, in per cent. On private data; what is counted is not said."""


CROWDED = 0.9
"""Share of originals beaten before training from which Table 2 has no room left to show a gain."""


def judge_name(judge: str) -> str:
    """In plain words."""
    return JUDGES.get(judge, judge.replace("_", " "))


def before_and_after(table: Mapping[str, Any], decision: Decision) -> tuple[str, str]:
    """What a reader compares: the reference, and what is kept; where nothing new is kept, the round that was judged."""
    first = table["order"][0]
    return first, decision.last_good if decision.last_good != first else decision.round


def headline(table: Mapping[str, Any], decision: Decision) -> str:
    """The one sentence to remember: what the judge that took no part says, else the reward."""
    before, after = before_and_after(table, decision)
    if before == after:
        return "Only the writer as it was before training has been judged."
    judge = next((each for each in ("held_out", "truth") if each in table["judges"]), table["judges"][0])
    gain = table["differences"][f"{after} - {before}"]["beats_original"][judge]["share"]
    shares = [table["variants"][name]["beats_original"][judge]["share"]["value"] for name in (before, after)]
    if gain["value"] is None or None in shares:
        return "No judge compared the ads with the products' original creatives."
    kept = "" if decision.last_good == after else f" ({after} is not kept)"
    who, rival = judge_name(judge), table["variants"][after]["beats_reference"][judge]["share"]
    if shares[0] > CROWDED and rival["value"] is not None:
        return f"{who} prefers the ads to those from before in {percent(rival['value'])} of cases ({_inside(rival)}){kept}."
    said = f"{who} prefers the ads to the original creative in {percent(shares[1])} of cases"
    return f"{said}, before training in {percent(shares[0])}: {_change(gain)}{kept}."


def findings(table: Mapping[str, Any], decision: Decision) -> list[str]:
    """More sentences: the decision, the reward and the truth, head to head, fidelity, diversity, what could not be checked."""
    before, after = before_and_after(table, decision)
    found = [decision.why]
    if before != after:
        gained, now = table["differences"][f"{after} - {before}"], table["variants"][after]
        for judge in table["judges"]:
            gain, rival = (
                gained["beats_original"][judge]["share"],
                now["beats_reference"].get(judge, {}).get("share", {}),
            )
            if gain["value"] is None:
                continue
            said = f"{judge_name(judge)} says: share preferred to the original creative {_change(gain)}"
            if rival.get("value") is not None:
                said += (
                    f"; head to head {percent(rival['value'])} are preferred to the ad from before ({_inside(rival)})"
                )
            found.append(f"{said}.")
        most = max(
            table["variants"][before]["beats_original"][judge]["share"]["value"] or 0 for judge in table["judges"]
        )
        if most > CROWDED:
            found.append(
                f"Before training up to {percent(most)} of the ads are preferred to the original creative already, so Table 2 "
                "has hardly room to show a gain or a loss: read head to head."
            )
        found.append(_diversity(gained["market_effect"]))
    return [*found, *decision.warnings]


def _diversity(gain: Mapping[str, float | None]) -> str:
    if gain["value"] is None:
        return (
            "Whether designs differ more between markets was not measured: it takes two draws for a product and market."
        )
    size = f"market effect {gain['value']:+.3f}"
    if gain["low"] is None or gain["high"] is None:
        return f"Whether designs differ more between markets than before cannot be told from so few products ({size})."
    size += f", 95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}"
    if gain["low"] > 0:
        return f"Designs differ between markets more than before ({size})."
    if gain["high"] < 0:
        return f"Designs differ between markets less than before ({size})."
    return f"There is no proof that designs differ between markets more, or less, than before ({size})."


def _change(gain: Mapping[str, float | None]) -> str:
    value, low, high = gain["value"], gain["low"], gain["high"]
    assert value is not None
    size = f"{100 * value:+.1f} points"
    if low is None or high is None:
        return f"{size}, with too few products for an interval"
    proof = "" if low > 0 or high < 0 else ", which includes no change"
    return f"{size} (95 % interval {100 * low:+.1f} to {100 * high:+.1f}{proof})"


def _inside(metric: Mapping[str, float | None]) -> str:
    return f"95 % interval {span(metric)}" if span(metric) else "no interval"
