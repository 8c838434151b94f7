"""alignment.html and table2.json: is the writer after training really better than before, and who says so?"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from countryreward.evaluation import alignment_plots as plots
from countryreward.evaluation.ad_gallery import AdBoard, AdRow, ShownAd, board_values
from countryreward.evaluation.alignment_words import (
    PAPER_MARKETS,
    PAPER_TABLE_2,
    WHAT_THEY_ARE,
    before_and_after,
    findings,
    headline,
    judge_name,
)
from countryreward.evaluation.evaluation_config import StopRule
from countryreward.evaluation.html import data_uri, points, stated_p, write_page
from countryreward.evaluation.report_text import cell, market_name, percent, span
from countryreward.evaluation.stop_rule import Decision
from countryreward.evaluation.writer_cases import WriterCases, design_of

DEFINITION = (
    "Share of (product, market) cases in which the generated ad is preferred to the product's original creative. Ours: the paper "
    "does not say what its percentages count."
)


NAMED = 3
"""Most countries that a cell names."""


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
    for name, found in (("table2.json", table_2(table, decision)), ("alignment.json", whole)):
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(text, encoding="utf-8")
    before, after = before_and_after(table, decision)
    write_page(
        "alignment_report.html.j2",
        folder / "alignment.html",
        headline=headline(table, decision),
        findings=findings(table, decision),
        decision=decision,
        tiles=_tiles(table, before, after),
        plots=[{"uri": data_uri(png, "image/png"), "caption": said} for png, said in _plots(table, decision, rule)],
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
                "all": found["share"],
                "per_market": {market: found["per_market"][market]["share"] for market in table["markets"]},
            }
            for name in table["order"]
            for judge, found in table["variants"][name]["beats_original"].items()
        ],
        "paper": {
            "note": "The paper's, on private data (MACP), by the reward that trained the writer; not comparable to ours.",
            "unit": "percentage",
            "rows": {
                name: dict(zip(("all", *PAPER_MARKETS), values, strict=True)) for name, values in PAPER_TABLE_2.items()
            },
        },
    }


def case_boards(
    variants: Sequence[WriterCases],
    originals: Mapping[str, tuple[str, str, bytes]],
    products: Sequence[str],
    *,
    markets: Sequence[str] = (),
) -> list[AdBoard]:
    """Products in every market side by side, a row per variant (say, before and after); the first draw of each case.

    variants: read by `open_cases`, so that their ads are at hand. originals: product id -> title, category, file bytes.
    markets: which, in order; none: all of them.
    """
    boards = []
    for product in products:
        title, category, picture = originals[product]
        rows = []
        for variant in variants:
            assert variant.artifact is not None, "ads are read from the artifact"
            here = variant.cases[variant.cases["product_id"] == product].sort_values(["market", "key"])
            first = here.drop_duplicates("market").set_index("market")
            shown = [market for market in (markets or list(first.index)) if market in first.index]
            ads = tuple(_shown(variant.artifact.path, market, first.loc[market]) for market in shown)
            rows.append(AdRow(label=variant.name, ads=ads))
        boards.append(AdBoard(title=title, category=category, original=picture, rows=tuple(rows)))
    return boards


def _shown(folder: Path, market: str, row: Any) -> ShownAd:
    said = dict(row["beats_original"])
    return ShownAd(
        market=market,
        image=(folder / "ads" / f"{row['ad']}.png").read_bytes(),
        design=design_of(row),
        judged=tuple((judge_name(judge).lower(), value) for judge, value in said.items()),
        fidelity=float(row["fidelity"]),
    )


def _tiles(table: Mapping[str, Any], before: str, after: str) -> list[dict[str, str]]:
    found = []
    for judge in table["judges"]:
        now = table["variants"][after]["beats_original"][judge]["share"]
        was = table["variants"][before]["beats_original"][judge]["share"]
        compare = f"before training: {percent(was['value'])}" if before != after else "before training"
        found.append({"name": judge_name(judge), "value": percent(now["value"]), "span": span(now), "compare": compare})
    return found


def _plots(table: Mapping[str, Any], decision: Decision, rule: StopRule) -> list[tuple[bytes, str]]:
    before, after = before_and_after(table, decision)
    blocks = [
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
        blocks += [
            (
                plots.market_bars(table, judge, before, after),
                f"{judge_name(judge)}, country by country: {before}, {after}.",
            )
            for judge in table["judges"]
        ]
    return blocks


def _ours(table: Mapping[str, Any], before: str, after: str) -> list[dict[str, Any]]:
    """Table 2: by judge, a row per variant; what a reader compares stands out."""

    def row(judge: str, name: str) -> dict[str, Any]:
        found = table["variants"][name]["beats_original"][judge]
        shares = (found["share"], *(found["per_market"][market]["share"] for market in table["markets"]))
        return {"variant": name, "main": name in (before, after), "cells": [cell(share, True) for share in shares]}

    return [
        {"judge": judge_name(judge), "rows": [row(judge, name) for name in table["order"]]} for judge in table["judges"]
    ]


def _gains(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Differences of neighbours and to the reference, in points, by judge, with the markets that stay significant."""
    order, found = table["order"], []
    for title, gained in table["differences"].items():
        later, earlier = title.split(" - ")
        if earlier != order[0] and order.index(later) - order.index(earlier) != 1:
            continue
        for judge in table["judges"]:
            against = gained["beats_original"][judge]
            better, worse = _sure(against["per_market"])
            found.append(
                {
                    "title": f"{later} against {earlier}",
                    "judge": judge_name(judge),
                    "cells": [
                        points(against["share"]),
                        points(against["probability"]),
                        points(gained["beats_reference"][judge]["share"]),
                    ],
                    "p": stated_p(against["share_p"]),
                    "better": better,
                    "worse": worse,
                }
            )
    return found


def _sure(per_market: Mapping[str, Any]) -> tuple[str, str]:
    """Markets whose share rose and fell, after Holm's correction: by name while they are few."""
    sure = {market: row["share"]["value"] for market, row in per_market.items() if row["p_holm"] < 0.05}
    said = []
    for sign in (1, -1):
        named = [market_name(market) for market, value in sure.items() if sign * value > 0]
        said.append(", ".join(named) if 0 < len(named) <= NAMED else f"{len(named)} of {len(per_market)}")
    return said[0], said[1]


def _others(table: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(name, meaning, a cell per variant) of everything beside the judges."""
    variants = [table["variants"][name] for name in table["order"]]

    def numbers(group: str, name: str = "", share: bool = False) -> list[tuple[str, str]]:
        return [cell(found[group][name] if name else found[group], share) for found in variants]

    def counts(name: str) -> list[tuple[str, str]]:
        return [("–" if found[name] is None else f"{found[name]:,}", "") for found in variants]

    def frequent(found: Mapping[str, Any]) -> tuple[str, str]:
        shares = [market["commonest"] for market in found["diversity"]["per_market"].values() if market["designs"]]
        return percent(max(shares)), ""

    return [
        ("Product fidelity", "mean; 1: entirely recognisable", numbers("fidelity", "mean")),
        ("Hardly recognisable", "share of ads with a fidelity below .5", numbers("fidelity", "below_half", True)),
        ("Designs differ within a market", "share of words that differ, two draws", numbers("diversity", "within")),
        ("… between markets", "the same of two markets", numbers("diversity", "across")),
        ("Market effect", "between less within; 0: the market is ignored", numbers("diversity", "market_effect")),
        ("Most frequent design", "its largest share of a market's designs", [frequent(found) for found in variants]),
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
