"""One picture of one product judged differently in several countries: the README's first screen."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from countryreward.evaluation.gallery import FlipCard, MarketVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

A_COLOUR, B_COLOUR = "#1f5fa8", "#d0752b"
INK, QUIET, TRACK = "#1d2733", "#66717f", "#eef1f4"


def flip_figure(card: FlipCard, path: Path, *, note: str = "") -> None:
    """Write a PNG: the two images, and for each market who wins, how sure, and who really won (a star).

    `note` is printed at the foot, for instance that the data are simulated.
    """
    from matplotlib.figure import Figure

    rows = len(card.markets)
    height = max(4.1, 1.75 + 0.36 * rows)
    figure = Figure(figsize=(10, height), dpi=150, facecolor="white")
    figure.text(0.03, 1 - 0.42 / height, _short(card.title, 60), fontsize=15, fontweight="bold", color=INK, va="center")
    figure.text(0.03, 1 - 0.75 / height, card.category, fontsize=10.5, color=QUIET, va="center")
    inches = 2.45
    side = inches / 10  # over the figure's width: the images are square
    bottom = max(1.0, (height - 1.0 - inches) / 2 + 0.1) / height
    for left, letter, data, colour in ((0.03, "A", card.image_a, A_COLOUR), (0.295, "B", card.image_b, B_COLOUR)):
        axis = figure.add_axes((left, bottom, side, inches / height))
        _image(axis, data, colour)
        axis.set_title(f"Ad {letter}", fontsize=12, fontweight="bold", color=colour, pad=5)
    figure.text(0.03 + (0.265 + side) / 2, bottom - 0.3 / height, _summary(card), fontsize=10.5, color=INK, ha="center")
    axis = figure.add_axes((0.68, 0.62 / height, 0.265, (height - 1.72) / height))
    _markets(axis, card.markets)
    foot = "★ really got the higher click rate   ·   bar: how sure the answer is" + (f"   ·   {note}" if note else "")
    figure.text(0.97, 0.26 / height, foot, fontsize=9, color=QUIET, ha="right", va="center")
    figure.savefig(path, format="png", metadata={"Software": None})


def _summary(card: FlipCard) -> str:
    """ "A in 3 countries, B in 6 · right in 7 of 8": the picture's point, misses included."""
    answers = [m.answer for m in card.markets]
    known = [m for m in card.markets if m.answer is not None and m.observed is not None]
    right = sum(m.answer == m.observed for m in known)
    text = f"Answer: A in {answers.count('A')}, B in {answers.count('B')} of {len(answers)} countries"
    return text + (f"  ·  right in {right} of {len(known)}" if known else "")


def _image(axis: "Axes", data: bytes, colour: str) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        axis.imshow(image.convert("RGB"), aspect="equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=2.5)


def _markets(axis: "Axes", markets: tuple[MarketVerdict, ...]) -> None:
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
            words = f"{market.answer}  {100 * sure:.0f} %"
            inside = length > 22
            axis.text(
                sign * (length - 2 if inside else length + 2),
                place,
                words,
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


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
