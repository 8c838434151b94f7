"""A small DesignWriter: one line of words per market, with words in a title that make it refuse, fail, wait or die."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignRequest, Written


@dataclass
class LiteralWriter:
    """Writes market and seed into the background."""

    version: str = "w1"
    unreadable: frozenset[int] = frozenset()
    """Seeds of which the answer is no design; -1: all."""
    pause_s: float = 0.0
    log: Path | None = None
    """Every design that was written, a line each."""
    asked: list[list[tuple[str, int]]] = field(default_factory=list)
    """Market and seed, pass by pass."""
    threads: set[int] = field(default_factory=set)

    def write(self, requests: Sequence[DesignRequest], /) -> list[Written]:
        self.asked.append([(request.market, request.seed) for request in requests])
        self.threads.add(threading.get_ident())
        time.sleep(self.pause_s)
        for request in requests:
            title = request.product.title
            if "broken" in title:
                raise RuntimeError("the writer is broken")
            if "deadly" in title:
                os.kill(os.getpid(), signal.SIGKILL)
            if "Brazilian" in title and request.market != "BR":
                raise UserError("title: it names another market; leave that out")
        return [self._one(request) for request in requests]

    def _one(self, request: DesignRequest) -> Written:
        if self.unreadable & {request.seed, -1}:
            return Written(text="Foreground: and so on", design=None, reason="three fields are missing")
        if self.log:
            with open(self.log, "a", encoding="utf-8") as log:
                log.write(f"{request.product.title} {request.market} {request.seed}\n")
        design = written_design(request.market, request.seed)
        return Written(text=design.as_text(), design=design)


def written_design(market: str, seed: int) -> Design:
    """What the writer writes."""
    return Design(foreground="Bare.", background=f"A street in {market}, {seed}.", color_tone="Warm.", lighting="Sun.")
