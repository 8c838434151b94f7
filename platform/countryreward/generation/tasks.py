"""What ads are made for: a product with its own picture, in a market; its seeds and its key."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from countryreward.scoring.contracts import Product

_SEEDS = 2**31
"""The generator service takes no larger ones."""


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
    named = [task.product.product_id or task.product.title, task.image_hash, task.market, task.seed, what, number]
    return int(_digest(named)[:16], 16) % _SEEDS


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
