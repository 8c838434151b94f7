"""What an HTTP app needs of a scorer beside its answers: whether it is there, and whether it has room."""

from collections.abc import Sequence
from typing import Protocol

from countryreward.scoring.contracts import AsyncScorer


class Backend(Protocol):
    """Whatever stands behind an app, as its gate and its health see it."""

    def ready(self) -> bool:
        """Whether it can answer now."""
        ...

    def busy(self, tenant: str = "") -> float | None:
        """Seconds after which to ask again, when a new call of this tenant would wait too long; None: there is room."""
        ...


class ServedScorer(AsyncScorer, Backend, Protocol):
    """What the reward's app is a function of. Each image of a request is hashed, decoded and encoded at most once."""

    @property
    def markets(self) -> Sequence[str]:
        """Markets it was trained on, or knows."""
        ...
