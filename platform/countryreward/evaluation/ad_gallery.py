"""The same product in every market side by side, as the paper's Figure 4: for the report, and for ads made on request."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countryreward.data.design import LABELS, Design
from countryreward.evaluation.html import data_uri, write_page
from countryreward.evaluation.report_text import market_name, percent
from countryreward.evaluation.writer_measures import RECOGNISABLE

SIDES = ((60, 320), (200, 240), (600, 176))
"""(most pictures, longest side in pixels): the more there are, the smaller each."""
LEAST_SIDE = 128
QUALITY = 80
"""Of the JPEG thumbnails: 10 to 20 KB each at 240 pixels."""


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
        given=board_values(boards),
        title=title,
        lead=lead,
        facts=facts,
        simulated=simulated,
    )


def board_values(boards: Sequence[AdBoard]) -> list[dict[str, Any]]:
    """What ad_boards.html.j2 shows of them: columns in the order in which markets first occur, None where an ad is missing."""
    side = _side(sum(1 + sum(len(row.ads) for row in board.rows) for board in boards))
    return [_board(board, side) for board in boards]


def _board(board: AdBoard, side: int) -> dict[str, Any]:
    markets = list(dict.fromkeys(ad.market for row in board.rows for ad in row.ads))
    rows = []
    for row in board.rows:
        there = {ad.market: ad for ad in row.ads}
        rows.append(
            {"label": row.label, "ads": [_ad(there[each], side) if each in there else None for each in markets]}
        )
    return {
        "title": _short(board.title, 120),
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
        "summary": _short(ad.design.background, 56),
        "design": [(label, getattr(ad.design, name)) for name, label in LABELS.items()],
    }


def thumbnail_uri(data: bytes, side: int) -> str:
    """A picture as a JPEG data URI of at most so many pixels a side."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return data_uri(buffer.getvalue(), "image/jpeg")


def _side(pictures: int) -> int:
    return next((side for most, side in SIDES if pictures <= most), LEAST_SIDE)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
