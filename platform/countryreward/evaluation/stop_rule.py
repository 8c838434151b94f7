"""Go on with alignment or stop: does the judge that trained the writer part from one that took no part?

**What is tested.** (a) is the reward that trained the writer, (b) the held-out judge. Both are read as the mean probability
that an ad beats the *reference writer's* ad of the same product and market, as a paired difference to an earlier variant (the
reference has .5 against itself). Table 2's share of ads that beat the *original creative* is what people want to know, and a bad
alarm: it throws away how much, and says nothing once nearly every ad beats the original, as on the simulator, whose drawer makes
cleaner pictures than most originals are. In simulations with 80 products, 5 markets and 2 draws, judges with errors as large as
the differences between ads, and a reference that is as good as the original or far better, a fall of .25 logits is found by that
share in 0 to 80 %, by the mean probability against the original in 47 to 95 %, against the reference's ad in 88 to 97 %. Where
ads were not compared with the reference's, the probability against the original stands in.

**Parting.** (a) rose (its difference is above 0) and (b) fell: below 0 with a two-sided p, times the number of earlier
variants compared with, under `level`. Comparing with every earlier variant finds a slow drift that no single step shows; the
factor (Bonferroni) keeps false alarms near level / 2 a round where nothing changes: by default 2.5 %, 3.3 % with 40 products,
whose spread is less well known. Half of them are of parting. Where (b) fell and (a) did not rise, the ads got worse by both
judges: that stops, too, under another name.

**Bounds.** Fidelity, diversity within a market and the most frequent design are compared with bounds, not tested: means over
hundreds of ads, far from their bounds until something breaks.

The truth, which only a simulator knows, plays no part: the rule must work where there is none.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from countryreward.evaluation.evaluation_config import StopRule
from countryreward.evaluation.report_text import Metric, market_name, percent, points_in_words, stated_p

Reason = Literal["parting", "worse", "fidelity", "diversity", "collapse"]
TRAINED, HELD_OUT = "reward", "held_out"
RIVALS = {"beats_reference": "the reference's ad", "beats_original": "the original creative"}
"""What is asked -> against what, in words; the first that was asked of both judges is tested."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do after the last round that was judged."""

    stop: bool
    """False: go on with the next round."""
    round: str
    """The first round that broke the rule; where none did, the last one."""
    last_good: str
    """The variant to keep."""
    reasons: tuple[Reason, ...]
    """Why, empty where it goes on."""
    why: str
    """In words, with the numbers."""
    warnings: tuple[str, ...] = ()
    """What could not be checked."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)


def decide(table: Mapping[str, Any], rule: StopRule) -> Decision:
    """From `alignment_table`: rounds in order, the first that breaks the rule stops the run.

    The last good variant is the round before it; after a slow parting the latest one from which the fall is proven.
    """
    order, warnings = table["order"], _warnings(table, rule)
    for at, name in enumerate(order[1:], start=1):
        breaches = [*_parting(table, name, rule), *_fidelity(table, name, rule), *_diversity(table, name, rule)]
        if breaches:
            keep = min((order.index(good) for _, _, good in breaches if good), default=at - 1)
            return Decision(
                stop=True,
                round=name,
                last_good=order[min(keep, at - 1)],
                reasons=tuple(dict.fromkeys(reason for reason, _, _ in breaches)),
                why=f"Stop at {name} and keep {order[min(keep, at - 1)]}: {' '.join(sentence for _, sentence, _ in breaches)}",
                warnings=warnings,
            )
    return Decision(
        stop=False,
        round=order[-1],
        last_good=order[-1],
        reasons=(),
        why=_goes_on(table, rule),
        warnings=warnings,
    )


Breaches = list[tuple[Reason, str, str | None]]
"""(reason, sentence, the variant to keep; None: the round before)."""


def _parting(table: Mapping[str, Any], name: str, rule: StopRule) -> Breaches:
    """Whether the held-out judge's probability fell against an earlier variant."""
    earlier = table["order"][: table["order"].index(name)]
    for rival in reversed(earlier):  # the latest from which the fall is proven
        question = _question(table, name, rival)
        trained, held_out = (_gain(table, name, rival, judge, question) for judge in (TRAINED, HELD_OUT))
        if held_out["value"] is None or held_out["low"] is None or held_out["value"] >= 0:
            continue
        single_p = table["differences"][f"{name} - {rival}"][question][HELD_OUT]["probability_p"]
        p = min(1.0, single_p * len(earlier))
        if p >= rule.level:
            continue
        what = f"since {rival}, the probability of beating {RIVALS[question]}"
        stated = stated_p(p) if p < 0.001 else f"= {stated_p(p)}"
        over = "one comparison" if len(earlier) == 1 else f"{len(earlier)} comparisons"
        fell = f"fell by {_size(held_out, -1)}, p {stated} over {over}, for the held-out judge"
        if trained["value"] is not None and trained["value"] > 0:
            rose = f"rose by {_size(trained, 1)} for the reward that trained the writer"
            return [("parting", f"{what} {rose}, and {fell}: the writer learned to please its judge.", rival)]
        return [("worse", f"{what} {fell}, and did not rise for the reward that trained it: the ads got worse.", rival)]
    return []


def _fidelity(table: Mapping[str, Any], name: str, rule: StopRule) -> Breaches:
    """Whether the product is no longer recognisable enough in the ads."""
    reference = table["order"][0]
    now, before = (table["variants"][variant]["fidelity"]["mean"]["value"] for variant in (name, reference))
    lost = table["differences"][f"{name} - {reference}"]["fidelity"]["value"]
    if now < rule.fidelity_least <= before:
        sentence = f"the product is recognisable in the ads to {now:.2f}, below the bound of {rule.fidelity_least:.2f}."
        return [("fidelity", sentence, None)]
    if lost is not None and -lost > rule.fidelity_drop:
        most = f"{rule.fidelity_drop:.2f} is the most"
        sentence = f"fidelity to the product lost {-lost:.2f} against {reference} and is {now:.2f}; {most}."
        return [("fidelity", sentence, None)]
    return []


def _diversity(table: Mapping[str, Any], name: str, rule: StopRule) -> Breaches:
    """Whether designs of one market differ hardly any more, or one design has taken a market over."""
    breaches: Breaches = []
    share = _kept_diversity(table, name)
    if share is not None and share < rule.diversity_least:
        sentence = (
            f"two designs for one product and market differ {percent(share)} as much as the reference's did, below the bound of "
            f"{percent(rule.diversity_least)}."
        )
        breaches.append(("diversity", sentence, None))
    market, most = _most_frequent(table, name, rule)
    if market is not None and most > rule.collapse_most:
        sentence = (
            f"{percent(most)} of the designs for {market_name(market)} are one and the same; {percent(rule.collapse_most)} is "
            "the most."
        )
        breaches.append(("collapse", sentence, None))
    return breaches


def _kept_diversity(table: Mapping[str, Any], name: str) -> float | None:
    """Diversity within a market as a share of the reference's; None where either was not measured or there never was any."""
    now, before = (table["variants"][variant]["diversity"]["within"]["value"] for variant in (name, table["order"][0]))
    return None if now is None or not before else now / before


def _most_frequent(table: Mapping[str, Any], name: str, rule: StopRule) -> tuple[str | None, float]:
    """(market, share) where one design is the most frequent, among markets where it is more frequent than the reference's."""
    now, before = (table["variants"][variant]["diversity"]["per_market"] for variant in (name, table["order"][0]))
    shares = {
        market: designs["commonest"]
        for market, designs in now.items()
        if designs["products"] >= rule.collapse_products and designs["commonest"] > (before[market]["commonest"] or 0)
    }
    return max(shares.items(), key=lambda item: item[1]) if shares else (None, 0.0)


def _warnings(table: Mapping[str, Any], rule: StopRule) -> tuple[str, ...]:
    """What could not be checked, and why."""
    first, last = table["order"][0], table["order"][-1]
    sentences = []
    if HELD_OUT not in table["judges"]:
        sentences.append(
            "There is no held-out judge: a writer that learned to please its reward cannot be told from a better one."
        )
    elif len(table["order"]) > 1 and _gain(table, last, first, HELD_OUT, _question(table, last, first))["low"] is None:
        sentences.append("There are too few products for an interval: whether the judges part cannot be told.")
    if _kept_diversity(table, last) is None:
        sentences.append("Diversity within a market was not measured: it takes two draws for a product and market.")
    before = table["variants"][first]["fidelity"]["mean"]["value"]
    if before < rule.fidelity_least:
        sentences.append(
            f"The reference's own ads have a fidelity of {before:.2f}, below the bound of {rule.fidelity_least:.2f}: only the "
            "loss against it is checked."
        )
    return tuple(sentences)


def _goes_on(table: Mapping[str, Any], rule: StopRule) -> str:
    """Why no bound is broken, with the numbers of the last round."""
    order = table["order"]
    if len(order) == 1:
        return "Go on: only the reference has been judged."
    name, before = order[-1], order[-2]
    question, changes = _question(table, name, before), []
    for judge, who in ((TRAINED, "the reward that trained the writer"), (HELD_OUT, "the held-out judge")):
        gain = _gain(table, name, before, judge, question)
        if gain["value"] is not None:
            changes.append(f"{points_in_words(gain)} for {who}")
    sentence = (
        f"Go on: since {before}, the probability of beating {RIVALS[question]} changed by {' and '.join(changes)}"
    )
    sentence += f"; fidelity is {table['variants'][name]['fidelity']['mean']['value']:.2f}"
    share = _kept_diversity(table, name)
    sentence += "" if share is None else f"; designs within a market differ {percent(share)} as much as the reference's"
    return f"{sentence}. No bound is broken."


def _question(table: Mapping[str, Any], later: str, earlier: str) -> str:
    """Head to head where both judges were asked, else against the original."""
    judges = [judge for judge in (TRAINED, HELD_OUT) if judge in table["judges"]]
    answered = (
        question
        for question in RIVALS
        if all(_gain(table, later, earlier, judge, question)["value"] is not None for judge in judges)
    )
    return next(answered, "beats_original")


def _gain(table: Mapping[str, Any], later: str, earlier: str, judge: str, question: str) -> Metric:
    """Difference in the mean probability of winning, as one judge says; all None where it was not asked."""
    difference = table["differences"][f"{later} - {earlier}"][question].get(judge, {})
    return difference.get("probability", {"value": None, "low": None, "high": None})


def _size(gain: Metric, sign: int) -> str:
    """How much was won, in points without a plus sign: "4.1 points (95 % interval 2.0 to 6.2)"; sign -1: how much was lost."""
    bounds = [bound for bound in (gain["low"], gain["high"]) if bound is not None][::sign]
    value = gain["value"]
    assert value is not None
    span = f" (95 % interval {100 * sign * bounds[0]:.1f} to {100 * sign * bounds[1]:.1f})" if len(bounds) == 2 else ""
    return f"{100 * sign * value:.1f} points{span}"
