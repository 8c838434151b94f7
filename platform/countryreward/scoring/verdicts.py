"""The one way from a judge's logit to a verdict."""

import math

from countryreward.scoring.contracts import Verdict
from countryreward.scoring.prior_lookup import MarketPrior, PriorLookup

NO_EVIDENCE = "no evidence: no past ad of this market may speak"


def build_verdict(
    market: str,
    logit: float | None,
    *,
    lookup: PriorLookup,
    found: MarketPrior | None,
    evidence: int | None,
    temperature: float | None,
    decides: bool,
    abstain_below: float,
    model_version: str | None,
    note: str | None,
    unsure_note: str | None = None,
    tie: str | None = None,
) -> Verdict:
    """The verdict of one pair in one market.

    logit: log-odds that A gets the higher CTR, not calibrated; None: the judge could not be asked, and `note` says why.
    found: what retrieval gave and the judge read; None: the judge reads no past ads, so none are shown. evidence: positions
    of past ads that are shown, None: all. temperature: of the calibration; None: there is none. decides: whether the judge
    may choose at all here. abstain_below: no choice where the stated probability is nearer to .5.
    unsure_note: stands where there is neither a choice nor a note. tie: what is chosen at a logit of exactly 0.
    """
    probability = 0.5 if logit is None else sigmoid(logit)
    calibrated = None if temperature is None else 0.5 if logit is None else sigmoid(logit / temperature)
    stated = probability if calibrated is None else calibrated
    leaning = None if logit is None else tie if logit == 0 else "A" if logit > 0 else "B"
    choice = leaning if decides and abs(stated - 0.5) >= abstain_below else None
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
        note=note if choice or note else unsure_note,
    )


def sigmoid(logit: float) -> float:
    """Without overflow, of any finite logit."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
