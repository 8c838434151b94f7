"""Taking in a newer model or knowledge base while answering: checked aside, put in place between two requests.

Publishing replaces a link (`data/artifacts.py`), so a new version is another folder behind the same path. It is opened with
every hash checked, its probe is run, and only then it answers; a broken or collapsed one is refused and the old one goes on.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countryreward.errors import UserError
from countryreward.scoring.contracts import ScoreRequest, Verdict
from countryreward.serving.http.request_log import fault
from countryreward.serving.inference.engine import InferenceEngine
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import RewardServiceConfig

_PATH = re.compile(r"(?<!\S)/\S*/([^/\s]+/[^/\s]+)")
_RETRY_S = 60.0
log = logging.getLogger("countryreward.service")


@dataclass(frozen=True)
class Published:
    """What lies behind the configured paths now."""

    model: Path
    knowledge_base: Path | None

    @classmethod
    def at(cls, model: str, knowledge_base: str) -> "Published":
        """Links resolved."""
        return cls(Path(model).resolve(), Path(knowledge_base).resolve() if knowledge_base else None)

    @property
    def name(self) -> str:
        """For people: the versions' folder names, never a path."""
        return self.model.name + (f" with {self.knowledge_base.name}" if self.knowledge_base else "")


class HotReloadedModel:
    """A ServedScorer that answers with the newest version that is whole.

    load: opens, checks and warms up what is published; raises `UserError` for what must not answer. It runs in a thread.
    The first one is loaded here: a service that starts with a broken model does not start.
    """

    def __init__(
        self,
        model: str,
        knowledge_base: str,
        load: Callable[[Published], InferenceEngine],
        config: RewardServiceConfig,
        watching: MetricsObserver | None = None,
    ) -> None:
        self.paths, self.load, self.config, self.watching = (
            (model, knowledge_base),
            load,
            config,
            watching or MetricsObserver(),
        )
        self.published = Published.at(*self.paths)
        self.current = load(self.published)
        self.refused: list[dict[str, str]] = []
        self._again: dict[Published, float] = {}  # what failed for a reason that may pass: not before this time
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def markets(self) -> tuple[str, ...]:
        """Those of the training of the version that answers now."""
        return self.current.markets

    async def about(self) -> dict[str, Any]:
        """What the version that answers now tells of itself, and which newer ones were refused, and why."""
        return await self.current.about() | {"refused": self.refused}

    def ready(self) -> bool:
        """Whether the version that answers now can."""
        return self.current.ready()

    def busy(self, tenant: str = "") -> float | None:
        """Of the version that answers now."""
        return self.current.busy(tenant)

    async def score(self, request: ScoreRequest, /) -> list[Verdict]:
        """One request is answered by one version throughout."""
        return await self.current.score(request)

    async def follow(self) -> None:
        """Look for newer versions for ever."""
        while True:
            await asyncio.sleep(self.config.poll_s)
            await self.look()

    async def look(self) -> bool:
        """Take in what is published now when it is new. True: it answers from now on."""
        try:
            published = Published.at(*self.paths)
        except (OSError, RuntimeError):  # a link in the middle of being replaced, or one that leads to itself
            return False
        if published == self.published or time.monotonic() < self._again.get(published, 0.0):
            return False
        before = self.published
        self.published = published  # looked at once: a refused one is not tried again until another is published
        try:
            fresh = await asyncio.to_thread(self.load, published)
        except Exception as error:
            reason = str(error)
            if not isinstance(error, UserError):  # of the machine, such as no memory: it may pass
                fault(f"loading {published.name}, which will be tried again", error)
                self.published, self._again = before, {published: time.monotonic() + _RETRY_S}
                reason = f"{type(error).__name__} while it was loaded"
            told = _PATH.sub(r"\1", reason)[:500]  # callers of /v1/models need not know where things lie
            self.refused = [*self.refused[-9:], {"version": published.name, "reason": told}]
            log.error("refused %s: %s", published.name, reason)
            self.watching.taken(accepted=False)
            return False
        old, self.current = self.current, fresh
        log.info("took in %s", published.name)
        self.watching.taken(accepted=True)
        task = asyncio.create_task(old.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return True
