"""The one way from a judge's logit to a verdict, and from the verdicts of pairs to a ranking."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from countryreward import markets
from countryreward.data.tables import COMPARABLE, DELIVERIES
from countryreward.scoring.contracts import Ranking, ScoreRequest, Verdict

if TYPE_CHECKING:  # rankings are made where nothing is looked up
    import pandas as pd

    from countryreward.scoring.prior_lookup import MarketPrior, PriorLookup

NO_EVIDENCE = "no evidence: no past ad of this market may speak"
UNUSED_KNOWN = "known results: not used, this judge does not read them"
UNREAD_COPY = "the words were not read: the model was trained on ads without words"


def build_verdict(
    market: str,
    logit: float | None,
    *,
    lookup: "PriorLookup",
    found: "MarketPrior | None",
    evidence: int | None,
    temperature: float | None,
    decides: bool,
    abstain_below: float,
    model_version: str | None,
    note: str | None,
    unsure_note: str | None = None,
    tie: str | None = None,
    delivery: str = "unknown",
    known_used: bool | None = None,
) -> Verdict:
    """The verdict of one pair in one market.

    logit: log-odds that A gets the higher CTR, not calibrated; None: the judge could not be asked, and `note` says why.
    found: what retrieval gave and the judge read; None: the judge reads no past ads, so none are shown. evidence: positions
    of past ads that are shown, None: all. temperature: of the calibration; None: there is none. decides: whether the judge
    may choose at all here. abstain_below: no choice where the stated probability is nearer to .5.
    unsure_note: stands where there is neither a choice nor a note. tie: what is chosen at a logit of exactly 0. delivery: of what
    the judge learned from, one of `tables.DELIVERIES`. known_used: as in `Verdict`; False is also said in the note.
    """
    probability = 0.5 if logit is None else sigmoid(logit)
    calibrated = None if temperature is None else 0.5 if logit is None else sigmoid(logit / temperature)
    stated = probability if calibrated is None else calibrated
    leaning = None if logit is None else tie if logit == 0 else "A" if logit > 0 else "B"
    choice = leaning if decides and abs(stated - 0.5) >= abstain_below else None
    notes = [note if choice or note else unsure_note, _from_parent(market, lookup, found)]
    notes += [UNUSED_KNOWN] if known_used is False else []
    return Verdict(
        market=market,
        probability=probability,
        calibrated_probability=calibrated,
        choice=choice,
        log_odds=logit or 0.0,
        evidence=() if found is None else lookup.evidence(found, evidence),
        past_ads=0 if found is None else 2 * found.prior.n,
        model_version=model_version,
        knowledge_base_version=lookup.base.version,
        note="; ".join(filter(None, notes)) or None,
        delivery=delivery,
        claim=claim(delivery),
        known_used=known_used,
    )


def claim(delivery: str) -> str:
    """What may be said of an ad that won: better where chance or turns decided who saw it. Where the platform did, or nobody
    knows who did, an ad and its audience won together. delivery: one of `tables.DELIVERIES`.
    """
    return "better" if delivery in COMPARABLE else "won as delivered"


def claim_sentence(delivery: str) -> str:
    """The same in a sentence for people."""
    if claim(delivery) == "better":
        return "Chance or turns decided who saw which ad, so an ad that wins is the better one."
    who = "The platform chose" if delivery == "optimised" else "It is not known who chose"
    return f"{who} who saw which ad, so an ad that wins won as delivered: the people it was shown to may be the reason."


def delivery_of(records: "pd.DataFrame") -> str:
    """The least comparable delivery of some records (`tables.RECORDS`); unknown where they are of a release that kept none."""
    return max(set(records["delivery"]), key=DELIVERIES.index) if "delivery" in records else "unknown"


def _from_parent(market: str, lookup: "PriorLookup", found: "MarketPrior | None") -> str | None:
    """That the past ads are another market's, where the knowledge base has none of this one."""
    if found is None or not found.prior.n or not markets.parents(market):
        return None
    speaks = lookup.base.market(market)
    if speaks is None or speaks.market == market:
        return None
    return f"there are no past ads from {markets.name(market)}; these are from {markets.name(speaks.market)}"


def sigmoid(logit: float) -> float:
    """Without overflow, of any finite logit."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def ranking(market: str, images: int, judged: Sequence[tuple[int, int, Verdict]]) -> Ranking:
    """judged: (position of A, position of B, verdict) of every pair of so many images, in one market."""
    wins = np.full((images, images), np.nan)
    for a, b, verdict in judged:
        wins[a, b] = verdict.stated_probability
        wins[b, a] = 1 - wins[a, b]
    shares = np.nanmean(wins, axis=1) if judged else np.full(images, 0.5)
    return Ranking(
        market=market,
        order=tuple(int(i) for i in np.argsort(-shares, kind="stable")),
        win_share=tuple(float(share) for share in shares),
        verdicts=tuple(judged),
    )


def rankings(request: ScoreRequest, verdicts: Sequence[Verdict]) -> list[Ranking]:
    """One ranking of the request's creatives per market. verdicts: in the order of the request's questions."""
    rest = iter(verdicts)
    return [
        ranking(market, len(request.creatives), [(a, b, next(rest)) for a, b in request.pairs])
        for market in request.market_codes()
    ]
