"""Did the writer get better? Table 2 by our definition for every variant of the writer and every judge, paired, with intervals.

Products are drawn again, never rows (evaluation/statistics.py); all variants are compared on the same draws.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from countryreward.evaluation.statistics import Key, PairedMeans, holm
from countryreward.evaluation.writer_cases import MEASURES, QUESTIONS, SPREADS, WriterCases, collapse, measures


def alignment_table(
    variants: Sequence[WriterCases], *, simulated: bool = False, draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """All that is known of the variants, ready for JSON. variants: the reference first, then the rounds in order.

    An interval is {"value", "low", "high"}, 95 % over products; None where there is nothing to divide by, its bounds None
    below ten products. Keys:

    judges, markets, order, simulated, bootstrap, n
    variants.NAME         cases, designs, products, repaired, refused, pairs {market: n}
      .beats_original     {judge: {n, share, probability, per_market {market: {n, share, probability}}}}
      .beats_reference    the same, head to head against the reference's ad; {} for the reference
      .fidelity           mean, below_half, per_market {market: mean}
      .diversity          within, across, market_effect; per_market {market: {designs, different, commonest, by_field}}
      .kl                 to the reference, nats per design sampled from the variant; .kl_per_token
    differences."LATER - EARLIER", on the cases that both have
      .beats_original, .beats_reference   {judge: {n, share, probability, share_p, probability_p, per_market}}; per_market
                          {market: {n, share, p, p_holm}} where EARLIER is the reference or the round before, else {}.
                          Head to head the reference counts as .5
      .fidelity, .within, .across, .market_effect   intervals

    Raises `ValueError` for no variant, an empty one, or two of one name.
    """
    _check(variants)
    markets = sorted({str(market) for variant in variants for market in variant.cases["market"]})
    products = sorted({str(product) for variant in variants for product in variant.cases["product_id"]})
    judges = list(dict.fromkeys(judge for variant in variants for judge in variant.judges()))
    order = [variant.name for variant in variants]
    measured = {variant.name: measures(variant, is_reference=number == 0) for number, variant in enumerate(variants)}
    pairs = [(later, earlier) for earlier, later in combinations(order, 2)]
    means = PairedMeans(products, draws=draws, seed=seed)
    for name, values in measured.items():
        _add(means, name, values, markets_of=(*MEASURES, "mean"))
    for later, earlier in pairs:
        both = measured[later].keys() & measured[earlier].keys()
        apart = {key: (measured[later][key] - measured[earlier][key]).dropna() for key in sorted(both)}
        _add(means, f"{later} - {earlier}", apart, markets_of=("share",))
    means.draw()
    tested = {pair: markets if neighbours(order, *pair) else [] for pair in pairs}
    return {
        "judges": judges,
        "markets": markets,
        "order": order,
        "simulated": simulated,
        "bootstrap": {"draws": draws, "seed": seed, "level": 0.95, "unit": "product"},
        "n": {"products": len(products), "markets": len(markets)},
        "variants": {variant.name: _variant(variant, means, judges, markets, order[0]) for variant in variants},
        "differences": {
            f"{later} - {earlier}": _difference(f"{later} - {earlier}", means, judges, markets_tested)
            for (later, earlier), markets_tested in tested.items()
        },
    }


def _check(variants: Sequence[WriterCases]) -> None:
    if not variants:
        raise ValueError("variants: none; give the reference's cases and those of each round")
    for variant in variants:
        if variant.cases.empty:
            raise ValueError(f"variants: {variant.name} has no case")
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise ValueError(f"variants: {', '.join(names)}; give each a name of its own")


def neighbours(order: Sequence[str], later: str, earlier: str) -> bool:
    """Whether a difference is shown market by market: to the reference, or to the round before."""
    return earlier == order[0] or order.index(later) - order.index(earlier) == 1


def _add(means: PairedMeans, name: str, values: Mapping[Key, pd.Series], *, markets_of: Sequence[str]) -> None:
    """All means of a variant or a difference. markets_of: measures that are also averaged market by market."""
    for key, by_case in values.items():
        means.add((name, *key), by_case)
        if key[-1] in markets_of:
            means.add_by_market((name, *key), by_case)


def _variant(
    variant: WriterCases, means: PairedMeans, judges: Sequence[str], markets: Sequence[str], reference: str
) -> dict[str, Any]:
    """What alignment.json says of a variant; keys as in `alignment_table`."""
    name, cases = variant.name, variant.cases

    def preferences(question: str, judge: str, *market: str) -> dict[str, Any]:
        """Over all markets, or in one."""
        intervals = {measure: means.interval((name, question, judge, measure, *market)) for measure in MEASURES}
        return {"n": means.n((name, question, judge, "share", *market)), **intervals}

    def by_judge(question: str) -> dict[str, Any]:
        return {
            judge: preferences(question, judge)
            | {"per_market": {market: preferences(question, judge, market) for market in markets}}
            for judge in judges
        }

    kl = means.interval((name, "kl"))
    tokens = None if variant.log_probs is None else float(variant.log_probs["tokens"].mean())
    return {
        "cases": len(cases.groupby(["product_id", "market"])),
        "designs": len(cases),
        "products": int(cases["product_id"].nunique()),
        "repaired": int(cases["repaired"].sum()),
        "refused": variant.refused,
        "pairs": {market: int(n) for market, n in sorted(variant.pairs.items())},
        "beats_original": by_judge("beats_original"),
        "beats_reference": {} if name == reference else by_judge("beats_reference"),
        "fidelity": {
            **{measure: means.interval((name, "fidelity", measure)) for measure in ("mean", "below_half")},
            "per_market": {market: means.interval((name, "fidelity", "mean", market)) for market in markets},
        },
        "diversity": {
            **{spread: means.interval((name, "diversity", spread)) for spread in SPREADS},
            "per_market": {market: collapse(variant, market) for market in markets},
        },
        "kl": kl,
        "kl_per_token": kl["value"] / tokens if kl["value"] is not None and tokens else None,
    }


def _difference(name: str, means: PairedMeans, judges: Sequence[str], markets: Sequence[str]) -> dict[str, Any]:
    """name: "LATER - EARLIER"; markets: those to test one by one, with Holm's correction over them."""

    def preferences(question: str, judge: str) -> dict[str, Any]:
        key = name, question, judge
        with_cases = [market for market in markets if means.n((*key, "share", market))]
        p = {market: means.p((*key, "share", market)) for market in with_cases}
        corrected = holm(p)
        return {
            "n": means.n((*key, "share")),
            **{measure: means.interval((*key, measure)) for measure in MEASURES},
            **{f"{measure}_p": means.p((*key, measure)) for measure in MEASURES},
            "per_market": {
                market: {
                    "n": means.n((*key, "share", market)),
                    "share": means.interval((*key, "share", market)),
                    "p": p[market],
                    "p_holm": corrected[market],
                }
                for market in with_cases
            },
        }

    return {
        **{question: {judge: preferences(question, judge) for judge in judges} for question in QUESTIONS},
        "fidelity": means.interval((name, "fidelity", "mean")),
        **{spread: means.interval((name, "diversity", spread)) for spread in SPREADS},
    }
