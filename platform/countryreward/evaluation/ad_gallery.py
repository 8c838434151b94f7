"""The same product in every market side by side, as the paper's Figure 4: of a writer's cases, or of ads made on request."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countryreward.data.design import LABELS, Design
from countryreward.evaluation.page import thumbnail_uri, write_page
from countryreward.evaluation.report_text import market_name, percent, shorten
from countryreward.evaluation.writer_cases import RECOGNISABLE, WriterCases, design_of, judge_name

SIDES = ((60, 320), (200, 240), (600, 176))
"""(most pictures, longest side in pixels): the more there are, the smaller each."""
LEAST_SIDE = 128
"""Where there are more pictures than that. A JPEG takes 10 to 20 KB at 240 pixels."""


@dataclass(frozen=True, kw_only=True)
class ShownAd:
    """One ad for one market."""

    market: str
    """ISO 3166 alpha-2."""
    image: bytes
    """PNG, JPEG or WEBP file bytes."""
    design: Design
    """What it was made from."""
    judged: tuple[tuple[str, float], ...]
    """(who says it, probability of being preferred to the original), the main one first."""
    fidelity: float
    """Of the product in the ad, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class AdRow:
    """One ad per market, or none."""

    ads: tuple[ShownAd, ...]
    label: str = ""
    """Above every ad of the row: "before", "after", "1st choice"."""


@dataclass(frozen=True, kw_only=True)
class AdBoard:
    """One product."""

    title: str
    category: str = ""
    original: bytes
    """Its own picture, file bytes."""
    rows: tuple[AdRow, ...]


def ranked_board(title: str, category: str, original: bytes, markets: Sequence[Sequence[ShownAd]]) -> AdBoard:
    """Every market's best beside each other, then every second best, and so on. markets: the ads of each, best first."""
    rows = [
        AdRow(label=f"choice {rank + 1}", ads=tuple(ads[rank] for ads in markets if rank < len(ads)))
        for rank in range(max((len(ads) for ads in markets), default=0))
    ]
    return AdBoard(title=title, category=category, original=original, rows=tuple(rows))


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
            cases = variant.cases[variant.cases["product_id"] == product].sort_values(["market", "key"])
            first = cases.drop_duplicates("market").set_index("market")
            present = [market for market in (markets or list(first.index)) if market in first.index]
            ads = tuple(_ad_of_case(variant.artifact.path, market, first.loc[market]) for market in present)
            rows.append(AdRow(label=variant.name, ads=ads))
        boards.append(AdBoard(title=title, category=category, original=picture, rows=tuple(rows)))
    return boards


def _ad_of_case(folder: Path, market: str, row: Any) -> ShownAd:
    """The ad of a row of CASES, with its picture from the artifact's folder."""
    return ShownAd(
        market=market,
        image=(folder / "ads" / f"{row['ad']}.png").read_bytes(),
        design=design_of(row),
        judged=tuple((judge_name(judge).lower(), value) for judge, value in dict(row["beats_original"]).items()),
        fidelity=float(row["fidelity"]),
    )


def write_gallery(
    boards: Sequence[AdBoard],
    path: Path | str,
    *,
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]] = (),
    simulated: bool = False,
) -> None:
    """One self-contained HTML page. facts: (name, text) of how the ads were made."""
    write_page(
        "ad_gallery.html.j2",
        path,
        boards=board_values(boards),
        headline=title,
        lead=lead,
        facts=facts,
        simulated=simulated,
    )


def board_values(boards: Sequence[AdBoard]) -> list[dict[str, Any]]:
    """What ad_boards.html.j2 shows of them: columns in the order in which markets first occur, None where an ad is missing."""
    pictures = sum(1 + sum(len(row.ads) for row in board.rows) for board in boards)
    side = next((side for most, side in SIDES if pictures <= most), LEAST_SIDE)
    return [_board(board, side) for board in boards]


def _board(board: AdBoard, side: int) -> dict[str, Any]:
    markets = list(dict.fromkeys(ad.market for row in board.rows for ad in row.ads))
    rows = []
    for row in board.rows:
        ads = {ad.market: _ad(ad, side) for ad in row.ads}
        rows.append({"label": row.label, "ads": [ads.get(market) for market in markets]})
    return {
        "title": shorten(board.title, 120),
        "category": board.category,
        "original": thumbnail_uri(board.original, side),
        "markets": [market_name(market) for market in markets],
        "rows": rows,
    }


def _ad(ad: ShownAd, side: int) -> dict[str, Any]:
    unclear = ad.fidelity < RECOGNISABLE
    return {
        "market": market_name(ad.market),
        "uri": thumbnail_uri(ad.image, side),
        "judged": [(who, percent(value), 100 * value) for who, value in ad.judged],
        "flag": unclear,
        "fidelity": f"product {'hardly ' if unclear else ''}recognisable: {math.floor(100 * ad.fidelity) / 100:.2f}",
        "summary": shorten(ad.design.background, 56),
        "design": [(label, getattr(ad.design, name)) for name, label in LABELS.items()],
    }
