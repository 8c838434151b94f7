"""What a caller gives, as form fields. Every refusal names the field, the value and the way out."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from countryreward import markets as countries
from countryreward.errors import UserError
from countryreward.scoring.contracts import Product

ImageLike = bytes | str | Path
"""File bytes, or the path of a file."""
Fields = dict[str, str | list[str]]


def form(product: Product, as_of: date | None, evidence: int | None) -> Fields:
    """Fields of a question, without its markets. Raises `UserError` for what is no text."""
    attributes = {_text(name, "attributes"): _text(value, "attributes") for name, value in product.attributes.items()}
    fields: Fields = {
        "title": _text(product.title, "title"),
        "category": _text(product.category or "", "category"),
        "attributes": json.dumps(attributes, ensure_ascii=False) if attributes else "",
        "tags": [_text(tag, "tags") for tag in product.tags],
        "product_id": _text(product.product_id or "", "product_id"),
        "as_of": as_of.isoformat()[:10] if as_of else "",  # a datetime is a date, too
        "evidence": "" if evidence is None else str(evidence),
    }
    return {name: value for name, value in fields.items() if value}


def product_of(product: Product | str) -> Product:
    """A title alone is a product, too."""
    return Product(title=product) if isinstance(product, str) else product


def image_bytes(image: ImageLike, name: str) -> bytes:
    """The bytes of an image file. Raises `UserError` where it cannot be read."""
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise UserError(f"{name}: {type(image).__name__} is neither bytes nor a path; give a PNG, JPEG or WEBP file")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {image} cannot be read ({error.strerror}); give a PNG, JPEG or WEBP file") from None


def codes(markets: Sequence[str]) -> list[str]:
    """Alpha-2 codes. Raises `UserError` for what is no country."""
    if isinstance(markets, str):
        raise UserError(f"markets: {markets!r} is a text; give a list such as ['KR', 'BR']")
    found = [countries.parse(market) for market in markets]
    for market, code in zip(markets, found, strict=True):
        if code is None:
            raise UserError(
                f"markets: {market!r} is no country; write an ISO 3166 code such as KR or a name such as South Korea"
            )
    return [code for code in found if code]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name}: {value!r} is no text; write it as text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name}: {value!r} holds a character that is no Unicode; write UTF-8") from None
    return value
