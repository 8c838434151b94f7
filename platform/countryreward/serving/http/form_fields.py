"""Form fields to what is asked, for all services. Every refusal names the field and the way out, never the value."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from fastapi import UploadFile
from pydantic import TypeAdapter, ValidationError

from countryreward import markets
from countryreward.data.creative_identity import Copy
from countryreward.errors import UserError
from countryreward.scoring.contracts import KnownResult, Product
from countryreward.serving.http.image_fetcher import ImageFetcher
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import SharedServiceConfig

_ATTRIBUTES = TypeAdapter(dict[str, str])
_COPIES = TypeAdapter(list[Copy | None])
_KNOWN = TypeAdapter(list[KnownResult])
MAX_JSON = 64_000
"""Characters of a form field that holds a list as JSON."""


def product_of(
    config: SharedServiceConfig,
    title: str,
    category: str | None,
    attributes: str | None,
    tags: Sequence[str],
    product_id: str | None,
) -> Product:
    """The product of a form. attributes: a JSON object of texts. Raises `Problem`."""
    texts = {"title": title, "category": category or "", "tags": "".join(tags), "product_id": product_id or ""}
    _check_texts(config, {**texts, "attributes": attributes or ""})
    if not title.strip():
        raise Problem("invalid_input", "title: it is empty; write the title customers see")
    try:
        parsed = _ATTRIBUTES.validate_json(attributes, strict=True) if attributes else {}
    except ValidationError:
        raise Problem(
            "invalid_input", 'attributes: must be a JSON object of texts, such as {"Material": "oak"}'
        ) from None
    return Product(
        title=title, category=category or None, attributes=parsed, tags=list(tags), product_id=product_id or None
    )


def copy_of(
    config: SharedServiceConfig,
    side: str,
    headline: str | None,
    body: str | None,
    call_to_action: str | None,
    tags: Sequence[str],
) -> Copy | None:
    """The words of one ad of a form, whose fields end in `side`, such as _a; None: it has none. Raises `Problem`."""
    texts = {"headline": headline, "body": body, "call_to_action": call_to_action, "tags": "".join(tags)}
    _check_texts(config, {f"{name}{side}": text or "" for name, text in texts.items()})
    return Copy(headline=headline, body=body, call_to_action=call_to_action, tags=tuple(tags)) or None


def copies_of(config: SharedServiceConfig, text: str | None, images: int) -> list[Copy | None]:
    """The words of so many ads. text: a JSON list with an object or null for each; None: no ad has words. Raises `Problem`."""
    _check_json("copies", text)
    wanted = 'copies: must be a JSON list with an object such as {"headline": "Warm light"}, or null, for each image'
    try:
        found = _COPIES.validate_json(text, strict=True) if text else [None] * images
    except ValidationError:
        raise Problem("invalid_input", wanted) from None
    if len(found) != images:
        raise Problem("invalid_input", f"copies: {len(found)} entries for {images} images; send one, or null, for each")
    for place, copy in enumerate(found):
        if copy:
            texts = {"headline": copy.headline, "body": copy.body, "call_to_action": copy.call_to_action}
            texts["tags"] = "".join(copy.tags)
            _check_texts(config, {f"copies[{place}].{name}": one or "" for name, one in texts.items()})
    return [copy or None for copy in found]


def known_of(text: str | None, pairs: Sequence[tuple[int, int]]) -> tuple[KnownResult, ...]:
    """Results of the asked pairs in other markets. text: a JSON list of objects as docs/api.md shows; None: there are none.

    Raises `Problem`, which says what is wrong with the first of them that cannot be.
    """
    _check_json("known", text)
    try:
        found = _KNOWN.validate_json(text, strict=True) if text else []
    except ValidationError as error:
        raise Problem("invalid_input", _first_fault(error.errors(include_url=False)[0])) from None
    asked = {frozenset(pair) for pair in pairs}
    for place, result in enumerate(found):
        if frozenset(result.pair) not in asked:
            raise Problem("invalid_input", f"known[{place}].pair: is none of the pairs that are asked; count from 0")
        if len(result.market) >= 100 or markets.parse(result.market) is None:
            raise Problem("invalid_input", f"known[{place}].market: is no country; write an ISO 3166 code such as KR")
    return tuple(found)


def _first_fault(error: Mapping[str, Any]) -> str:
    """Where in `known`, and what to do; nothing that was sent."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, UserError):  # "known.a.clicks: what was sent; what to do"
        field, _, rest = str(raised).partition(": ")
        return f"known{place}{field.removeprefix('known')}: {rest.rpartition('; ')[2]}"
    if error["type"] == "unexpected_keyword_argument":
        return f"known{place.rpartition('.')[0]}: has a field that is none of ours; docs/api.md lists them"
    if error["type"] == "json_invalid" or not place:
        return "known: must be a JSON list of results; docs/api.md shows one"
    return f"known{place}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _check_json(name: str, text: str | None) -> None:
    if text and len(text) > MAX_JSON:
        raise Problem("invalid_input", f"{name}: longer than {MAX_JSON} characters; send less at a time")


def _check_texts(config: SharedServiceConfig, texts: Mapping[str, str]) -> None:
    """texts: by the field's name. Raises `Problem` for one that is too long or no Unicode."""
    for name, text in texts.items():
        if len(text) > config.max_text:
            raise Problem("invalid_input", f"{name}: longer than {config.max_text} characters; shorten it")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Problem("invalid_input", f"{name}: holds a character that is no Unicode; write UTF-8") from None


def markets_of(spellings: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Codes of codes or names, each once, in their order; of none: `default`. Raises `Problem`."""
    codes = []
    for position, spelling in enumerate(spellings):
        code = markets.parse(spelling) if len(spelling) < 100 else None
        if code is None:
            raise Problem(
                "invalid_input",
                f"markets: number {position + 1} is no country and no market of the model; write an ISO 3166 code such as KR, or"
                " a name",
            )
        codes.append(code)
    return tuple(dict.fromkeys(codes or default))


def day_of(text: str | None) -> date | None:
    """The day of YYYY-MM-DD; None for no text. Raises `Problem`."""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise Problem("invalid_input", "as_of: write a day as YYYY-MM-DD") from None


async def image_of(upload: UploadFile, field: str, config: SharedServiceConfig) -> bytes:
    """The bytes of an uploaded image; what it is, is checked before it is decoded. Raises `Problem`."""
    data = await upload.read(config.max_image_bytes + 1)
    if not data:
        raise Problem("invalid_image", f"{field}: the file is empty; send a PNG, JPEG or WEBP file")
    if len(data) > config.max_image_bytes:
        raise Problem("too_large", f"{field}: larger than {config.max_image_bytes} bytes; shrink the file")
    return data


async def file_or_url(
    upload: UploadFile | None, url: str | None, field: str, config: SharedServiceConfig, fetcher: ImageFetcher
) -> bytes:
    """The bytes of an image that is sent or named, one of the two. Raises `Problem`."""
    if (upload is None) == (not url):
        raise Problem("invalid_input", f"{field}: send either the file as {field} or its address as {field}_url")
    if upload is not None:
        return await image_of(upload, field, config)
    return await fetcher.fetch(url or "", field=f"{field}_url")
