"""Drawing the images of a pair file that has colours instead of pictures."""

import hashlib
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from countryreward.data.marketplace.drawer import draw_variant
from countryreward.errors import UserError


def draw_variant_pairs(
    pairs: str | Path, folder: Path, *, title: str, variants: tuple[str, str], px: int = 224
) -> dict[str, Any]:
    """Write pairs.csv (the file with image_a and image_b added) and images/*.png, one per product and colour.

    Raises `UserError` when a named column is missing or a colour is unknown to the drawer.
    """
    frame = pd.read_csv(pairs, dtype=str, keep_default_na=False)
    missing = [name for name in (title, *variants) if name not in frame]
    if missing:
        raise UserError(
            f"columns {missing}: {pairs} has {list(frame.columns)}; name its columns with --title, --variant_a, --variant_b"
        )
    (folder / "images").mkdir()
    drawn: dict[tuple[str, str], str] = {}
    for side, column in zip(("a", "b"), variants, strict=True):
        names = []
        for product, colour in zip(frame[title], frame[column], strict=True):
            if (product, colour) not in drawn:
                name = hashlib.sha256("\0".join((product, colour)).encode()).hexdigest()[:16] + ".png"
                pixels = draw_variant(product, colour, px=px)
                cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
                drawn[product, colour] = name
            names.append(drawn[product, colour])
        frame[f"image_{side}"] = names
    frame.to_csv(folder / "pairs.csv", index=False)
    return {"pairs": len(frame), "images": len(drawn)}
