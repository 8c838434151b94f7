"""Form fields to what is asked, for all services. Every refusal names the field and the way out, never the value."""

from collections.abc import Sequence
from datetime import date

from fastapi import UploadFile
from pydantic import TypeAdapter, ValidationError

from countryreward import markets
from countryreward.scoring.contracts import Product
from countryreward.serving.http.image_fetcher import ImageFetcher
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import SharedServiceConfig

_ATTRIBUTES = TypeAdapter(dict[str, str])


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
    for name, text in {**texts, "attributes": attributes or ""}.items():
        if len(text) > config.max_text:
            raise Problem("invalid_input", f"{name}: longer than {config.max_text} characters; shorten it")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Problem("invalid_input", f"{name}: holds a character that is no Unicode; write UTF-8") from None
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


def markets_of(spellings: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """ISO 3166 alpha-2 codes of codes or names, each once, in their order; of none: `default`. Raises `Problem`."""
    codes = []
    for position, spelling in enumerate(spellings):
        code = markets.parse(spelling) if len(spelling) < 100 else None
        if code is None:
            raise Problem(
                "invalid_input",
                f"markets: number {position + 1} is no country; write an ISO 3166 code such as KR or a name",
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
