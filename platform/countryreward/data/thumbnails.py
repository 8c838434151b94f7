"""Small pictures for evidence: what a neighbour looked like, wherever the original is."""

import io

from PIL import Image

SIDE = 112


def thumbnail(image: Image.Image) -> bytes:
    """An RGB image shrunk to at most 112 x 112 pixels, as WEBP bytes (about 3 KB)."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    small.save(out, format="WEBP", quality=80, method=0)
    return out.getvalue()
