"""What a design writer and a renderer are given and give back: a product in, designs out; a design in, an ad out.
And the task, one product in one market, that ads are made for.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.scoring.contracts import Product

_SEEDS = 2**31
"""The generator service takes no larger ones."""


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

    def check(self) -> None:
        """What every renderer asks for. Raises `UserError` unless the product's picture is RGB uint8 of 8 pixels a side or more
        and the seed is usable."""
        image = self.image
        if image.ndim != 3 or image.shape[2] != 3 or str(image.dtype) != "uint8" or min(image.shape[:2]) < 8:
            raise UserError(
                f"image: {image.dtype} {list(image.shape)}; give RGB uint8 [height, width, 3], 8 pixels or more"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed: {self.seed}; write a whole number from 0 to 2**63 - 1")

    def made_by(self, renderer: "Renderer", *, product_seen: str, px: int, steps: int | None) -> dict[str, Any]:
        """`Rendered.made`: as JSON, enough to make the ad again from the picture with this hash.

        product_seen: how the renderer recognised the product (`Subject.seen`). px, steps: those it took.
        """
        return {
            "renderer": renderer.name,
            "version": renderer.version,
            "design": asdict(self.design),
            "title": self.product.title,
            "category": self.product.category,
            "attributes": dict(self.product.attributes),
            "image_hash": self.image_hash,
            "seed": self.seed,
            "px": px,
            "steps": steps,
            "product": product_seen,
        }


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


@dataclass(frozen=True, kw_only=True)
class AdTask:
    """One (product, market) to make ads for."""

    product: Product
    """What is advertised."""
    image: bytes
    """File of the product's own picture."""
    image_hash: str
    """SHA-256 of it, hex."""
    market: str
    """ISO 3166 alpha-2."""
    seed: int
    """The seeds of its designs and of its ads follow from it."""
    key: str
    """The same for the same product, picture, market, seed, versions and rule: 32 hex digits."""


def task_key(product: Product, image_hash: str, market: str, seed: int, made_by: Any) -> str:
    """Key of a task. made_by: versions and options that shape its outcome, JSON-able."""
    return _digest([asdict(product), image_hash, market, seed, made_by])[:32]


def derived_seed(task: AdTask, what: str, number: int = 0) -> int:
    """A seed of the task for one purpose, below 2**31. It depends on no version: two writers are compared on the same ones."""
    names = [task.product.product_id or task.product.title, task.image_hash, task.market, task.seed, what, number]
    return int(_digest(names)[:16], 16) % _SEEDS


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
