"""What a design writer and a renderer are given and give back: a product in, designs out; a design in, an ad out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from countryreward.data.design import Design
from countryreward.scoring.contracts import Product


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """One ad to make."""

    design: Design
    product: Product
    image: np.ndarray
    """The product's own picture, RGB uint8 [height, width, 3]."""
    image_hash: str
    """SHA-256 of its file, as hex."""
    seed: int = 0
    """The same job gives the same bytes."""
    px: int | None = None
    """Side of the ad in pixels; None: the renderer's own."""
    steps: int | None = None
    """Denoising steps; None: the renderer's own. A renderer that does not denoise ignores it."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Whether the product can still be recognised in the ad; every number from 0 (no) to 1 (entirely)."""

    edges: float
    """Share of the product's outline that the ad has where it should be."""
    look: float
    """Likeness of colour and structure inside the outline."""
    score: float
    """Both in one number."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """An ad."""

    pixels: np.ndarray
    """RGB uint8 [px, px, 3]."""
    fidelity: Fidelity
    made: dict[str, Any]
    """What made it, as JSON, enough to make it again: renderer, version, design, seed, px, steps, image_hash and more."""


@dataclass(frozen=True, kw_only=True)
class RenderedFile:
    """An ad as a file, for whoever asked from another process."""

    png: bytes
    """The PNG file."""
    sha256: str
    """Of the PNG file, hex."""
    fidelity: Fidelity
    made: dict[str, Any]
    """As of `Rendered`."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """There is no ad of a job."""

    reason: str
    """Why, naming the field, and the way out."""


class Renderer(Protocol):
    """Makes ads. Not more than one thread at a time."""

    @property
    def name(self) -> str:
        """drawer, sdxl or tiny."""
        ...

    @property
    def version(self) -> str:
        """Changes when the same job would give other bytes."""
        ...

    @property
    def px(self) -> int:
        """Side of an ad where a job names none."""
        ...

    def check(self, job: RenderJob) -> None:
        """Raises `UserError`, naming the field, for a job that this renderer cannot do."""
        ...

    def render(self, jobs: Sequence[RenderJob]) -> list[Rendered]:
        """In order; several jobs may share a pass. Raises as `check`."""
        ...


@dataclass(frozen=True, kw_only=True)
class DesignRequest:
    """What a design is written for (Eq. 12): a product, its own picture, a market."""

    product: Product
    """What is advertised."""
    market: str
    """ISO 3166 alpha-2."""
    image: np.ndarray
    """The product's own picture, RGB uint8 [height, width, 3]."""
    image_hash: str
    """SHA-256 of its file, as hex."""
    seed: int = 0
    """The same request, of the same writer, gives the same answer, whatever it shares a batch with (up to rounding)."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a writer answered."""

    text: str
    """As it was written."""
    design: Design | None
    """None: the answer was refused."""
    repaired: bool = False
    """Whether something was mended before it could be read."""
    reason: str | None = None
    """What was mended, or why it was refused."""


class DesignWriter(Protocol):
    """Writes designs. Not more than one thread at a time."""

    @property
    def version(self) -> str:
        """Changes when the same request would give another answer."""
        ...

    def write(self, requests: Sequence[DesignRequest], /) -> list[Written]:
        """In order. Raises `UserError`, naming the field, for a product that cannot be asked about (an empty title, a title
        that names another market)."""
        ...
