"""A small DesignWriter: designs of the templates by seed, with words in a title that make it slow, refuse, fail or die.

And a scorer of its ads."""

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignRequest, Written
from countryreward.generation.templates import draw_designs
from countryreward.scoring.contracts import PairRequest, ScoreRequest, Verdict
from tests.unit.in_threads import each_pair


@dataclass
class LiteralWriter:
    """What is written depends on the seed alone, but for these words in the title: "same" (one design for every seed), "mumbled"
    (no design), "half mumbled" (every odd seed), "repaired", "unspeakable" (UserError), "slow", "broken", "deadly"."""

    version: str = "literal-1"
    pause_s: float = 0.0
    log: Path | None = None
    """Every task written is noted there, a line each."""
    calls: list[int] = field(default_factory=list)
    """Requests of every call."""

    def write(self, requests: Sequence[DesignRequest], /) -> list[Written]:
        self.calls.append(len(requests))
        for request in requests:
            if "unspeakable" in request.product.title:
                raise UserError("title: it names the market BR, but market is KR; correct one of them")
            if "broken" in request.product.title:
                raise RuntimeError("the writer is broken")
            if "deadly" in request.product.title:
                os.kill(os.getpid(), signal.SIGKILL)
        slow = sum("slow" in request.product.title for request in requests)
        time.sleep(self.pause_s * len(requests) + 0.05 * slow)
        if self.log:
            with open(self.log, "a", encoding="utf-8") as log:
                log.writelines(f"{request.product.title} {request.market} {request.seed}\n" for request in requests)
        return [self._one(request) for request in requests]

    @staticmethod
    def _one(request: DesignRequest) -> Written:
        title = request.product.title
        if "mumbled" in title and ("half" not in title or request.seed % 2):
            return Written(text="Well.", design=None, reason="design: Background missing")
        (design,) = draw_designs(1, 0 if "same" in title else request.seed)
        return Written(text=design.as_text(), design=design, repaired="repaired" in title)


@dataclass
class LiteralScorer:
    """An ad's worth is the first byte of its hash; the word "unsure" in a title makes all alike, "first" prefers A in any order,
    "foreign" refuses."""

    pause_s: float = 0.0
    model: str = "judge-1"
    calibrated: bool = True
    calls: list[int] = field(default_factory=list)

    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]:
        self.calls.append(len(requests))
        for request in requests:
            if "foreign" in request.product.title:
                raise UserError("title: it names the market BR; leave it out")
        time.sleep(self.pause_s * len(requests))
        return [[self._one(pair) for pair in each_pair(request)] for request in requests]

    def _one(self, request: PairRequest) -> Verdict:
        a, b = worth(request.image_a), worth(request.image_b)
        p = 0.5 + 0.4 * ((a > b) - (a < b))
        if "unsure" in request.product.title:
            p = 0.5 + 0.05 * ((a > b) - (a < b))
        if "first" in request.product.title:
            p = 0.9
        return Verdict(
            market=request.market_code(),
            probability=0.5,
            calibrated_probability=p if self.calibrated else None,
            choice="A" if p > 0.5 else "B",
            log_odds=0.0,
            evidence=(),
            past_ads=0,
            model_version=self.model,
            knowledge_base_version="kb-1",
        )


def worth(png: bytes) -> int:
    return int(hashlib.sha256(png).hexdigest()[:4], 16)
