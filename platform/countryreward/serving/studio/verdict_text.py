"""Verdicts in the words of people who make ads: which picture, how sure, because of which past ads."""

import math
import re
from collections.abc import Sequence

from pydantic import BaseModel, Field

from countryreward import markets
from countryreward.data.quarantine import REASONS
from countryreward.scoring.contracts import PastAd, Ranking, Verdict

CLOSE = 0.55
"""Below this the page says that it is not sure."""
_WORDS = ((0.9, "very sure"), (0.75, "sure"), (0.6, "fairly sure"), (CLOSE, "leaning"))


class SpeakingAd(BaseModel):
    """A past ad that speaks for or against a picture."""

    like: int = Field(description="Position of the picture it resembles.")
    title: str
    headline: str = Field(default="", description="Of its words; empty: none is known.")
    effect: str = Field(examples=["+12 % clicks"])
    good: bool = Field(description="Whether it came out ahead of its product's other ads.")


class MarketSaid(BaseModel):
    """What there is to say about one market."""

    market: str
    name: str
    winner: int | None = Field(description="Position of the picture to choose; null: not sure.")
    sure: int = Field(description="In a hundred, 50 to 99.")
    words: str = Field(examples=["very sure"])
    why: str = Field(description="Why there is no choice, and what to do; otherwise empty.")
    order: list[int] = Field(description="Positions of the pictures, best first.")
    shares: list[int] = Field(description="Of each picture as given: how often it beats the others, in a hundred.")
    claim: str = Field(
        default="won as delivered",
        description="What winning says: better, or won as delivered (to the people it was shown to).",
    )
    past_ads: int = Field(description="Past ads of this market that speak.")
    ads: list[SpeakingAd]


def said(ranking: Ranking, trained: Sequence[str]) -> MarketSaid:
    """One market's ranking in words: the best picture beside the second best."""
    first, second = ranking.order[:2]
    verdict, a, b = next((verdict, a, b) for a, b, verdict in ranking.verdicts if {a, b} == {first, second})
    stated = verdict.stated_probability
    of_first = stated if a == first else 1 - stated
    sure = max(of_first, 1 - of_first)
    winner = None if verdict.choice is None or sure < CLOSE else (a if verdict.choice == "A" else b)
    name = markets.name(ranking.market)
    return MarketSaid(
        market=ranking.market,
        name=name,
        winner=winner,
        sure=min(99, round(100 * sure)),
        words="not sure" if winner is None else sureness(sure),
        why="" if winner is not None else _why(verdict, name, trained),
        order=list(ranking.order),
        shares=[round(100 * share) for share in ranking.win_share],
        claim=verdict.claim,
        past_ads=verdict.past_ads,
        ads=_ads(verdict, a, b),
    )


def sureness(sure: float) -> str:
    """In words. sure: .5 to 1."""
    return next((words for least, words in _WORDS if sure >= least), "not sure")


def _why(verdict: Verdict, name: str, trained: Sequence[str]) -> str:
    if verdict.past_ads == 0:
        return (
            f"There are no past ads from {name} to go by. Run both pictures there for a while and compare their clicks."
        )
    if verdict.market not in trained:
        return f"We have not learned from {name} yet. Run both pictures there for a while and compare their clicks."
    return "These pictures are too close to call here. Run both for a while, or try a picture that differs more."


def _ads(verdict: Verdict, a: int, b: int) -> list[SpeakingAd]:
    """Each once, the most telling first."""
    shown: dict[tuple[int, str], SpeakingAd] = {}
    for evidence in verdict.evidence:
        for like, ad in ((a, evidence.like_a), (b, evidence.like_b)):
            headline = ad.headline or ""
            spoken = SpeakingAd(like=like, title=ad.title, headline=headline, effect=effect(ad), good=ad.lift > 0)
            shown.setdefault((like, ad.creative_id), spoken)
    return list(shown.values())


def effect(ad: PastAd) -> str:
    """How it did beside its product's other ads. Only where clicks were counted is the difference one of clicks."""
    if ad.impressions is None:
        return f"{'came out ahead of' if ad.lift > 0 else 'fell behind'} its product's other ads"
    percent = round(100 * math.expm1(ad.lift))
    return f"{percent:+d} % clicks".replace("-", "−") if percent else "average clicks"


_PICTURE = {
    "undecodable_image": "it cannot be opened; save it again as PNG, JPEG or WEBP",
    "unsupported_format": "it is of another kind; save it as PNG, JPEG or WEBP",
    "image_too_large": "the file is too large; save it at 20 MB or less",
    "pixel_bomb": "it has too many pixels; make it smaller, 5,000 × 5,000 at most",
}


def picture_refused(position: int, reason: str) -> str:
    """Which picture is not accepted, and what to do."""
    return f"Picture {position + 1}: {_PICTURE.get(reason, 'it cannot be used; choose another')}."


_ROW = {
    "missing_image": "the zip holds no picture of this name",
    "missing_value": "it is empty",
    "same_image": "both pictures are the same",
    "unknown_market": "this is no market we know; write a code such as KR or a name",
    "text_too_long": "the text is too long",
    "forbidden_uri": "write the picture's name as it is in the zip",
    "duplicate_key": "this row_id was used before",
}


def row_refused(field: str, reason: str) -> str:
    """Why a row of a table was not compared."""
    return f"{field}: {_ROW.get(reason) or _PICTURE.get(reason) or REASONS[reason].partition('; docs/')[0]}"


def plain(error: str | None) -> str:
    """Why a job failed, without words of those who run the service."""
    if error and re.search(r"\b(model|replica|renderer|scorer|writer|knowledge base|images\.)", error):
        return "The service could not finish this. Try again later; if it fails again, tell whoever invited you."
    return error or ""
