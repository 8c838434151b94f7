"""alignment.html and table2.json: is the writer after training really better than before, and who says so?

The sentences are as negative as the numbers are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from countryreward.evaluation import alignment_plots as plots
from countryreward.evaluation.ad_gallery import AdBoard, board_values
from countryreward.evaluation.alignment import neighbours
from countryreward.evaluation.evaluation_config import StopRule
from countryreward.evaluation.page import figures, write_page
from countryreward.evaluation.report_text import (
    Metric,
    cell,
    market_name,
    percent,
    points,
    points_in_words,
    span,
    stated_p,
)
from countryreward.evaluation.stop_rule import Decision
from countryreward.evaluation.writer_cases import judge_name

DEFINITION = (
    "Share of (product, market) cases in which the generated ad is preferred to the product's original creative. Ours: the paper "
    "does not say what its percentages count."
)
NAMED = 3
"""Most countries that a cell names."""
WHAT_THEY_ARE = {
    "reward": "The reward model whose choices the writer was trained on. The paper's Table 2 is of this kind. A writer that "
    "learned to please it looks better here than it is.",
    "held_out": "A reward model that took no part: another seed, other products, a knowledge base of its own.",
    "truth": "The click probabilities from which the simulator drew its clicks. Nobody has them for real ads; no decision "
    "uses them.",
}
"""Judge -> what a reader must know of it."""
PAPER_MARKETS = ("BR", "CL", "ES", "FR", "KR", "JP", "US", "MX", "AU", "SA")
PAPER_TABLE_2 = {
    "DGM (w/o RL)": (56.04, 54.03, 57.05, 51.67, 55.40, 53.59, 60.40, 57.64, 54.36, 56.38, 59.89),
    "DGM": (59.60, 58.36, 60.10, 54.66, 57.31, 56.22, 61.76, 60.28, 57.33, 68.26, 61.71),
}
"""As printed: overall, then by PAPER_MARKETS, in per cent. On private data; what is counted is not said."""
CROWDED = 0.9
"""Share of originals beaten before training from which Table 2 has no room left to show a gain."""


def write_alignment_report(
    table: Mapping[str, Any],
    decision: Decision,
    boards: Sequence[AdBoard],
    folder: Path | str,
    *,
    rule: StopRule | None = None,
    judges: Mapping[str, str] | None = None,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> None:
    """Write alignment.html (one self-contained page), table2.json and alignment.json (the whole table, decision within).

    table: of `alignment_table`; boards: of `case_boards`; judges: judge -> which model it was, in words, shown beside what it is;
    facts: (name, text) of versions, machine and seconds; rule: that of the decision, for its bounds.
    """
    rule, folder = rule or StopRule(), Path(folder)
    whole = {**table, "decision": decision.as_dict()}
    for name, numbers in (("table2.json", table_2(table, decision)), ("alignment.json", whole)):
        text = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(text, encoding="utf-8")
    before, after = before_and_after(table, decision)
    write_page(
        "alignment_report.html.j2",
        folder / "alignment.html",
        headline=headline(table, decision),
        findings=findings(table, decision)[1:],  # the decision stands in a box of its own
        decision=decision,
        tiles=_tiles(table, before, after),
        plots=figures(_plots(table, decision, rule)),
        boards=board_values(boards),
        definition=DEFINITION,
        ours=_ours(table, before, after),
        gains=_gains(table),
        markets=[market_name(market) for market in table["markets"]],
        paper={
            "markets": [market_name(market) for market in PAPER_MARKETS],
            "rows": [(name, [f"{value:.2f}" for value in values]) for name, values in PAPER_TABLE_2.items()],
        },
        order=table["order"],
        others=_others(table),
        pairs=_pairs(table),
        judges=[
            (judge_name(judge), WHAT_THEY_ARE.get(judge, ""), (judges or {}).get(judge, ""))
            for judge in table["judges"]
        ],
        facts=[
            ("products", f"{table['n']['products']:,}"),
            ("intervals", f"95 %, {table['bootstrap']['draws']:,} bootstrap draws over products"),
            *facts,
        ],
        command=command,
        simulated=table["simulated"],
    )


def table_2(table: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """The numbers of our Table 2, every variant by every judge, the paper's beside them."""
    return {
        "definition": DEFINITION,
        "simulated": table["simulated"],
        "kept": decision.last_good,
        "markets": table["markets"],
        "rows": [
            {
                "variant": name,
                "judge": judge,
                "all": preferences["share"],
                "per_market": {market: preferences["per_market"][market]["share"] for market in table["markets"]},
            }
            for name in table["order"]
            for judge, preferences in table["variants"][name]["beats_original"].items()
        ],
        "paper": {
            "note": "The paper's, on private data (MACP), by the reward that trained the writer; not comparable to ours.",
            "unit": "percentage",
            "rows": {
                name: dict(zip(("all", *PAPER_MARKETS), values, strict=True)) for name, values in PAPER_TABLE_2.items()
            },
        },
    }


def before_and_after(table: Mapping[str, Any], decision: Decision) -> tuple[str, str]:
    """What a reader compares: the reference, and what is kept; where nothing new is kept, the round that was judged."""
    first = table["order"][0]
    return first, decision.last_good if decision.last_good != first else decision.round


def headline(table: Mapping[str, Any], decision: Decision) -> str:
    """The one sentence to remember: what the judge that took no part says, else the reward."""
    before, after = before_and_after(table, decision)
    if before == after:
        return "Only the writer as it was before training has been judged."
    judge = next((name for name in ("held_out", "truth") if name in table["judges"]), table["judges"][0])
    gain = table["differences"][f"{after} - {before}"]["beats_original"][judge]["share"]
    shares = [table["variants"][name]["beats_original"][judge]["share"]["value"] for name in (before, after)]
    if gain["value"] is None or None in shares:
        return "No judge compared the ads with the products' original creatives."
    kept = "" if decision.last_good == after else f" ({after} is not kept)"
    who, rival = judge_name(judge), table["variants"][after]["beats_reference"][judge]["share"]
    if shares[0] > CROWDED and rival["value"] is not None:
        return f"{who} prefers the ads to those from before in {percent(rival['value'])} of cases ({_interval(rival)}){kept}."
    sentence = f"{who} prefers the ads to the original creative in {percent(shares[1])} of cases"
    return f"{sentence}, before training in {percent(shares[0])}: {_change(gain)}{kept}."


def findings(table: Mapping[str, Any], decision: Decision) -> list[str]:
    """More sentences: the decision, the reward and the truth, head to head, fidelity, diversity, what could not be checked."""
    before, after = before_and_after(table, decision)
    sentences = [decision.why]
    if before != after:
        difference, now = table["differences"][f"{after} - {before}"], table["variants"][after]
        for judge in table["judges"]:
            gain = difference["beats_original"][judge]["share"]
            rival = now["beats_reference"].get(judge, {}).get("share", {})
            if gain["value"] is None:
                continue
            sentence = f"{judge_name(judge)} says: share preferred to the original creative {_change(gain)}"
            if rival.get("value") is not None:
                share, interval = percent(rival["value"]), _interval(rival)
                sentence += f"; head to head {share} are preferred to the ad from before ({interval})"
            sentences.append(f"{sentence}.")
        most = max(
            table["variants"][before]["beats_original"][judge]["share"]["value"] or 0 for judge in table["judges"]
        )
        if most > CROWDED:
            sentences.append(
                f"Before training up to {percent(most)} of the ads are preferred to the original creative already, so Table 2 "
                "has hardly room to show a gain or a loss: read head to head."
            )
        sentences.append(_diversity(difference["market_effect"]))
    return [*sentences, *decision.warnings]


def _diversity(gain: Metric) -> str:
    """Whether designs differ more between markets. gain: in market effect."""
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


def _change(gain: Metric) -> str:
    """A difference of shares in points, and whether its interval holds 0."""
    low, high = gain["low"], gain["high"]
    if low is None or high is None:
        return f"{points_in_words(gain)}, with too few products for an interval"
    return points_in_words(gain, "" if low > 0 or high < 0 else ", which includes no change")


def _interval(metric: Metric) -> str:
    return f"95 % interval {span(metric)}" if span(metric) else "no interval"


def _tiles(table: Mapping[str, Any], before: str, after: str) -> list[dict[str, str]]:
    """By judge, the share preferred to the original creative."""
    tiles = []
    for judge in table["judges"]:
        now = table["variants"][after]["beats_original"][judge]["share"]
        was = table["variants"][before]["beats_original"][judge]["share"]
        compare = f"before training: {percent(was['value'])}" if before != after else "before training"
        tiles.append({"name": judge_name(judge), "value": percent(now["value"]), "span": span(now), "compare": compare})
    return tiles


def _plots(table: Mapping[str, Any], decision: Decision, rule: StopRule) -> list[tuple[bytes, str]]:
    """Pictures with their captions."""
    before, after = before_and_after(table, decision)
    pictures = [
        (
            plots.judges_by_round(table, decision.last_good),
            "What each judge says, round by round. Where the first line rises and the second falls, the writer pleases its judge "
            "instead of people. The dashed line is 50 %.",
        ),
        (
            plots.bounds_by_round(table, decision.last_good, rule.fidelity_least),
            "Is the product still recognisable, do designs still differ, and how far has the writer gone?",
        ),
    ]
    if before != after:
        for judge in table["judges"]:
            caption = f"{judge_name(judge)}, country by country: {before}, {after}."
            pictures.append((plots.market_bars(table, judge, before, after), caption))
    return pictures


def _ours(table: Mapping[str, Any], before: str, after: str) -> list[dict[str, Any]]:
    """Table 2: by judge, a row per variant; what a reader compares stands out."""

    def row(judge: str, name: str) -> dict[str, Any]:
        preferences = table["variants"][name]["beats_original"][judge]
        shares = (preferences["share"], *(preferences["per_market"][market]["share"] for market in table["markets"]))
        return {"variant": name, "main": name in (before, after), "cells": [cell(share, True) for share in shares]}

    return [
        {"judge": judge_name(judge), "rows": [row(judge, name) for name in table["order"]]} for judge in table["judges"]
    ]


def _gains(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Differences of neighbours and to the reference, in points, by judge, with the markets that stay significant."""
    rows = []
    for title, difference in table["differences"].items():
        later, earlier = title.split(" - ")
        if not neighbours(table["order"], later, earlier):
            continue
        for judge in table["judges"]:
            against = difference["beats_original"][judge]
            better, worse = _significant(against["per_market"])
            rows.append(
                {
                    "title": f"{later} against {earlier}",
                    "judge": judge_name(judge),
                    "cells": [
                        points(against["share"]),
                        points(against["probability"]),
                        points(difference["beats_reference"][judge]["share"]),
                    ],
                    "p": stated_p(against["share_p"]),
                    "better": better,
                    "worse": worse,
                }
            )
    return rows


def _significant(per_market: Mapping[str, Any]) -> tuple[str, str]:
    """Markets whose share rose and fell, after Holm's correction: by name while they are few."""
    significant = {market: row["share"]["value"] for market, row in per_market.items() if row["p_holm"] < 0.05}

    def named(sign: int) -> str:
        names = [market_name(market) for market, value in significant.items() if sign * value > 0]
        return ", ".join(names) if 0 < len(names) <= NAMED else f"{len(names)} of {len(per_market)}"

    return named(1), named(-1)


def _others(table: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(name, meaning, a cell per variant) of everything beside the judges."""
    variants = [table["variants"][name] for name in table["order"]]

    def numbers(group: str, name: str = "", share: bool = False) -> list[tuple[str, str]]:
        return [cell(variant[group][name] if name else variant[group], share) for variant in variants]

    def counts(name: str) -> list[tuple[str, str]]:
        return [("–" if variant[name] is None else f"{variant[name]:,}", "") for variant in variants]

    def most_frequent(variant: Mapping[str, Any]) -> tuple[str, str]:
        shares = [market["commonest"] for market in variant["diversity"]["per_market"].values() if market["designs"]]
        return percent(max(shares)), ""

    return [
        ("Product fidelity", "mean; 1: entirely recognisable", numbers("fidelity", "mean")),
        ("Hardly recognisable", "share of ads with a fidelity below .5", numbers("fidelity", "below_half", True)),
        ("Designs differ within a market", "share of words that differ, two draws", numbers("diversity", "within")),
        ("… between markets", "the same of two markets", numbers("diversity", "across")),
        ("Market effect", "between less within; 0: the market is ignored", numbers("diversity", "market_effect")),
        (
            "Most frequent design",
            "its largest share of a market's designs",
            [most_frequent(variant) for variant in variants],
        ),
        ("KL to the reference", "nats per design: how far the writer went", numbers("kl")),
        ("Cases", "(product, market)", counts("cases")),
        ("Designs", "with several draws a case", counts("designs")),
        ("Repaired", "designs that had to be mended to be read", counts("repaired")),
        ("Refused", "designs that could not be read", counts("refused")),
    ]


def _pairs(table: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(variant, pairs and their share per market) of the rounds that were trained."""
    rows = []
    for name in table["order"]:
        pairs = table["variants"][name]["pairs"]
        whole = sum(pairs.values())
        if whole:
            share = [f"{pairs.get(m, 0):,} ({percent(pairs.get(m, 0) / whole)})" for m in table["markets"]]
            rows.append((name, [f"{whole:,}", *share]))
    return rows
