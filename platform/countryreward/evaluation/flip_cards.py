"""Products whose answer changes with the country: which ones the report shows, what stands on their cards, and a picture of one.

A card holds two images, what every market says, and the past ads that speak for it.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward import markets as countries
from countryreward.evaluation.plots import INK, MAIN, QUIET
from countryreward.evaluation.report_text import shorten
from countryreward.retrieval.bulk_priors import queries
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.prior import Prior, PriorRetriever

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Letter = Literal["A", "B"]
A_COLOUR, B_COLOUR, TRACK = MAIN, "#d0752b", "#eef1f4"


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One past ad of another product that voted in this market."""

    image: bytes  # PNG, JPEG or WebP
    title: str
    market: str  # "Japan"
    lift: str  # in words: "+18 % vs. its product's average"
    speaks_for: Letter


@dataclass(frozen=True, kw_only=True)
class MarketVerdict:
    """The answer for one market, beside what was observed there."""

    market: str  # "Japan"
    answer: Letter | None  # None: no evidence, no answer
    probability: float  # P(A)
    observed: Letter | None  # None: not observed
    evidence: int  # neighbours that voted


@dataclass(frozen=True, kw_only=True)
class FlipCard:
    """One product whose answer changes with the country."""

    title: str
    category: str
    image_a: bytes
    image_b: bytes
    markets: tuple[MarketVerdict, ...]
    neighbours: tuple[Neighbour, ...] = ()


def telling_items(test: pd.DataFrame, logits: NDArray[np.float64], *, most: int, most_wrong: int = 1) -> list[str]:
    """Pair ids for the gallery: products whose winner changes with the country, best judged first, one pair per product.

    Items where at least a fifth of the markets disagree with the rest come first, in observed winners and in answers; then
    the share of markets judged right decides, then the mean log-odds in favour of the observed winner (bounded at 1). The
    last `most_wrong` are the worst judged: a gallery of successes only would mislead. Ties are left out.
    """
    decided = (test["label"] != 0.5).to_numpy()
    test, logits = test[decided], logits[decided]
    right = (logits >= 0) == (test["label"] == 1)
    margin = np.clip(np.where(test["label"] == 1, logits, -logits), -1, 1)
    items = (
        test.assign(right=right, margin=margin, answer=logits >= 0)
        .groupby("pair_id")
        .agg(
            product_id=("product_id", "first"),
            right=("right", "mean"),
            margin=("margin", "mean"),
            observed=("label", "mean"),
            answers=("answer", "mean"),
        )
    )
    minority = np.minimum(items[["observed", "answers"]], 1 - items[["observed", "answers"]]).min(axis=1)
    order = ["telling", "right", "margin"]
    flips = items.assign(telling=minority >= 0.2)[minority > 0].sort_values(order, ascending=False)
    flips = flips.loc[~flips["product_id"].duplicated()]
    wrong = flips.sort_values(["right", "margin"]).head(min(most_wrong, max(0, len(flips) - 1))).index.tolist()
    wrong = wrong if most > 1 else []
    return [*[name for name in flips.index if name not in wrong][: most - len(wrong)], *wrong]


def flip_cards(
    test: pd.DataFrame,
    pair_ids: list[str],
    logits: NDArray[np.float64],
    *,
    products: pd.DataFrame,
    source: Embeddings,
    retriever: PriorRetriever,
    image_bytes: Callable[[str], bytes],
    neighbours_per_market: int = 1,
) -> list[FlipCard]:
    """Cards of the chosen items. `logits` are the judge's, per row of `test`; neighbours are those of `retriever`."""
    titles = products.set_index("product_id")
    judged = test.assign(logit=logits)
    cards = []
    for pair_id in pair_ids:
        rows = judged[judged["pair_id"] == pair_id].drop_duplicates("market", keep="last").sort_values("market")
        first = rows.iloc[0]
        priors = _priors(rows, source, retriever)
        verdicts = tuple(
            _verdict(str(market), float(logit), float(label), priors[market].n)
            for market, logit, label in rows[["market", "logit", "label"]].itertuples(index=False)
        )
        title, category = titles.loc[first["product_id"], "title"], titles.loc[first["product_id"], "category"]
        cards.append(
            FlipCard(
                title=str(title),
                category=str(category) if isinstance(category, str) else "",
                image_a=image_bytes(str(first["hash_a"])),
                image_b=image_bytes(str(first["hash_b"])),
                markets=verdicts,
                neighbours=tuple(_neighbours(rows, priors, retriever, neighbours_per_market)),
            )
        )
    return cards


def lift_in_words(lift: float, kind: str) -> str:
    """A lift for a person: "+18 % vs. its product's average"; ratings in standard deviations."""
    if kind == "score":
        return f"{lift:+.1f} sd vs. its product's average"
    return f"{100 * math.expm1(lift):+.0f} % vs. its product's average"


def _verdict(market: str, logit: float, label: float, votes: int) -> MarketVerdict:
    """A logit of exactly 0 has no evidence and no answer."""
    return MarketVerdict(
        market=countries.name(market),
        answer=None if logit == 0 else "A" if logit > 0 else "B",
        probability=1 / (1 + math.exp(-logit)),
        observed=None if label == 0.5 else "A" if label == 1 else "B",
        evidence=votes,
    )


def _priors(rows: pd.DataFrame, source: Embeddings, retriever: PriorRetriever) -> dict[str, Prior]:
    """Market -> prior of an item's rows."""
    return {query.market: retriever.priors(query, pairs)[0] for query, _, pairs in queries(rows, source)}


def _neighbours(
    rows: pd.DataFrame, priors: dict[str, Prior], retriever: PriorRetriever, per_market: int
) -> list[Neighbour]:
    """The heaviest votes of the surest market for A and of the surest for B, so that both sides are seen."""
    order = rows.sort_values("logit")
    neighbours = []
    for row in [order.iloc[-1], order.iloc[0]]:
        market, prior = retriever.base.market(row["market"]), priors[row["market"]]
        if market is None or prior.n == 0:
            continue
        evidence = market.evidence(row["as_of"] if pd.notna(row["as_of"]) else None)
        for side, entries in (("A", prior.entries_a), ("B", prior.entries_b)):
            for entry in entries[:per_market]:
                lift = float(evidence.lift[entry])
                product = retriever.base.products.iloc[market.product_row[entry]]
                neighbours.append(
                    Neighbour(
                        image=retriever.base.thumbnails([int(market.image_row[entry])])[0],
                        title=str(product["title"]),
                        market=countries.name(str(row["market"])),
                        lift=f"looks like {side}: {lift_in_words(lift, str(row['kind']))}",
                        speaks_for="A" if (lift >= 0) == (side == "A") else "B",
                    )
                )
    return neighbours


def flip_figure(card: FlipCard, path: Path, *, note: str = "") -> None:
    """Write a PNG: the two images, and for each market who wins, how sure, and who really won (a star).

    `note` is printed at the foot, for instance that the data are simulated.
    """
    from matplotlib.figure import Figure

    rows = len(card.markets)
    height = max(4.1, 1.75 + 0.36 * rows)
    figure = Figure(figsize=(10, height), dpi=150, facecolor="white")
    figure.text(
        0.03, 1 - 0.42 / height, shorten(card.title, 60), fontsize=15, fontweight="bold", color=INK, va="center"
    )
    figure.text(0.03, 1 - 0.75 / height, card.category, fontsize=10.5, color=QUIET, va="center")
    inches = 2.45
    side = inches / 10  # over the figure's width: the images are square
    bottom = max(1.0, (height - 1.0 - inches) / 2 + 0.1) / height
    for left, letter, data, colour in ((0.03, "A", card.image_a, A_COLOUR), (0.295, "B", card.image_b, B_COLOUR)):
        axis = figure.add_axes((left, bottom, side, inches / height))
        _draw_image(axis, data, colour)
        axis.set_title(f"Ad {letter}", fontsize=12, fontweight="bold", color=colour, pad=5)
    figure.text(0.03 + (0.265 + side) / 2, bottom - 0.3 / height, _summary(card), fontsize=10.5, color=INK, ha="center")
    axis = figure.add_axes((0.68, 0.62 / height, 0.265, (height - 1.72) / height))
    _draw_markets(axis, card.markets)
    foot = "★ really got the higher click rate   ·   bar: how sure the answer is" + (f"   ·   {note}" if note else "")
    figure.text(0.97, 0.26 / height, foot, fontsize=9, color=QUIET, ha="right", va="center")
    figure.savefig(path, format="png", metadata={"Software": None})


def _summary(card: FlipCard) -> str:
    """ "A in 3 countries, B in 6 · right in 7 of 8": the picture's point, misses included."""
    answers = [m.answer for m in card.markets]
    observed = [m for m in card.markets if m.answer is not None and m.observed is not None]
    right = sum(m.answer == m.observed for m in observed)
    text = f"Answer: A in {answers.count('A')}, B in {answers.count('B')} of {len(answers)} countries"
    return text + (f"  ·  right in {right} of {len(observed)}" if observed else "")


def _draw_image(axis: "Axes", data: bytes, colour: str) -> None:
    """A picture in a frame of the ad's colour."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        axis.imshow(image.convert("RGB"), aspect="equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=2.5)


def _draw_markets(axis: "Axes", markets: tuple[MarketVerdict, ...]) -> None:
    """One line per market; the bar grows from the middle towards the winner, to the edge at 100 %."""
    for place, market in enumerate(markets):
        axis.barh(place, 100, left=-50, height=0.66, color=TRACK, zorder=1)
        if market.answer is None:
            ground = {"facecolor": TRACK, "edgecolor": "none", "pad": 1.0}
            axis.text(
                0, place, "no evidence, no answer", ha="center", va="center", fontsize=8.5, color=QUIET, bbox=ground
            )
        else:
            sure = max(market.probability, 1 - market.probability)
            sign, colour = (-1, A_COLOUR) if market.answer == "A" else (1, B_COLOUR)
            length = 100 * (sure - 0.5)
            axis.barh(place, sign * length, height=0.66, color=colour, zorder=2)
            answer = f"{market.answer}  {100 * sure:.0f} %"
            inside = length > 22
            axis.text(
                sign * (length - 2 if inside else length + 2),
                place,
                answer,
                ha=("left" if sign < 0 else "right") if inside else ("right" if sign < 0 else "left"),
                va="center",
                fontsize=9.5,
                fontweight="bold",
                color="white" if inside else colour,
                zorder=3,
            )
        if market.observed is not None:
            sign, colour = (-1, A_COLOUR) if market.observed == "A" else (1, B_COLOUR)
            axis.scatter([sign * 55], [place], marker="*", s=85, color=colour, zorder=4, clip_on=False)
    axis.axvline(0, color="white", lw=1.2, zorder=2)
    axis.set_xlim(-52, 52)
    axis.set_ylim(len(markets) - 0.5, -0.5)
    axis.set_yticks(range(len(markets)), [m.market for m in markets])
    axis.tick_params(length=0, labelsize=10.5, colors=INK, pad=18)
    axis.set_xticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.text(-50, -0.85, "◀ A wins", ha="left", va="bottom", fontsize=10, fontweight="bold", color=A_COLOUR)
    axis.text(50, -0.85, "B wins ▶", ha="right", va="bottom", fontsize=10, fontweight="bold", color=B_COLOUR)
