"""What every page of this room is made of: a filled template, and pictures inside the file. No script, no font, nothing from
elsewhere, so that a page opens anywhere and can be mailed."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from countryreward.data.file_primitives import write_atomically


def write_page(template: str, path: Path | str, **values: Any) -> None:
    """Fill a template of this room; text in values is escaped. A reader never sees half a page."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("countryreward.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template).render(**values)
    write_atomically(Path(path), page)


def figures(plots: Iterable[tuple[bytes, str]]) -> list[dict[str, str]]:
    """(PNG, caption) as the templates show them."""
    return [{"uri": data_uri(png, "image/png"), "caption": caption} for png, caption in plots]


def picture_uri(data: bytes, side: int, *, quality: int = 85) -> str:
    """A data URI of a picture: as it is where it is no larger than the page shows it, in pixels a side, else a smaller JPEG."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) <= side and image.format in ("PNG", "JPEG", "WEBP"):
            return data_uri(data, f"image/{image.format.lower()}")
    return thumbnail_uri(data, side, quality=quality)


def thumbnail_uri(data: bytes, side: int, *, quality: int = 80) -> str:
    """A picture as a JPEG data URI of at most so many pixels a side."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of a file inside the page. kind: its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
