"""Image bytes to facts or pixels, refusing what is too large, of another format, or broken.

Order of the checks: bytes, format and pixels from the header, then a full decode. Nothing is decoded, and no decoder
allocates a canvas, before the header's pixel count has passed.
"""

import hashlib
import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from countryreward.data.image_metadata import without_metadata

_FORMATS = ("PNG", "JPEG", "WEBP")
# First bytes of formats we can name but do not take; anything else is not an image at all.
_OTHER_FORMATS = (b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"<svg", b"<?xml", b"%PDF", b"\0\0\1\0", b"\0\0\0\x0cjP")
_ORIENTATION_TAG = 0x0112
# Orientation -> for a picture's pixels, the view of them that lies as the file does. EXIF 5 to 8 swap width and height.
_AS_STORED: dict[int, Callable[[NDArray], NDArray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}
_ROWS = 64  # turned to RGB at a time: whole copies of a large picture would take 4 bytes a pixel each
_MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each costs a walk through the whole picture

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # the others stand inside the coded picture


class ImageError(ValueError):
    """An image that is not accepted. `reason` is a key of `quarantine.REASONS`, `field_value` what was found."""

    def __init__(self, reason: str, field_value: str) -> None:
        super().__init__(f"{reason}: {field_value}")
        self.reason = reason
        self.field_value = field_value

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, self.field_value)


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the images table stores about one file."""

    content_hash: str
    """SHA-256 of the file's bytes, hex."""
    perceptual_hash: str
    """64-bit pHash of the decoded image, 16 hex digits."""
    format: str
    """PNG, JPEG or WEBP."""
    width: int
    """Pixels of the decoded image, orientation applied."""
    height: int
    """Pixels of the decoded image, orientation applied."""


def read_image(data: bytes, *, max_bytes: int, max_pixels: int) -> tuple[ImageFacts, Image.Image]:
    """Check and decode an image file, once: its facts, and the image as `decode` gives it. Raises `ImageError`."""
    image, kind = _open(data, max_bytes, max_pixels)
    rgb = _to_rgb(image)
    facts = ImageFacts(
        content_hash=hashlib.sha256(data).hexdigest(),
        perceptual_hash=str(imagehash.phash(rgb)),
        format=kind,
        width=rgb.width,
        height=rgb.height,
    )
    return facts, rgb


def inspect(data: bytes, *, max_bytes: int, max_pixels: int) -> ImageFacts:
    """Check and fully decode an image file. Raises `ImageError`."""
    return read_image(data, max_bytes=max_bytes, max_pixels=max_pixels)[0]


def decode(data: bytes, *, max_bytes: int, max_pixels: int) -> Image.Image:
    """The image as RGB: first frame, orientation applied, transparency over white. Raises `ImageError`."""
    image, _ = _open(data, max_bytes, max_pixels)
    return _to_rgb(image)


def declared_pixels(data: bytes, *, max_bytes: int, max_pixels: int) -> int:
    """Width x height by the header; nothing is decoded. Raises `ImageError`."""
    width, height = _open(data, max_bytes, max_pixels)[0].size
    return width * height


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """[height, width, 3] of an RGB image, copied once; np.asarray would hold three copies of it for a moment."""
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, _ROWS):
        pixels[top : top + _ROWS] = np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
    return pixels


def _open(data: bytes, max_bytes: int, max_pixels: int) -> tuple[ImageFile.ImageFile, str]:
    """Header checks only; the returned image has not been decoded."""
    if len(data) > max_bytes:
        raise ImageError("image_too_large", f"{len(data)} bytes")
    kind = _format_of(data)
    data = without_metadata(data, kind)
    if kind == "JPEG" and _scans(data) > _MAX_SCANS:
        raise ImageError("undecodable_image", f"more than {_MAX_SCANS} scans")
    _check_pixels(_declared_size(data, kind), max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("pixel_bomb", str(error)[:200]) from None
    except MemoryError:  # ours, not the image's: the caps hold, so the machine is short of memory
        raise
    except Exception as error:  # a parser may raise anything on hostile bytes
        raise _undecodable(error) from None
    _check_pixels(image.size, max_pixels)
    if kind == "PNG":
        _widen_transparency(image)
    return image, kind


def _format_of(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.lstrip()[:8].startswith(_OTHER_FORMATS) or data.startswith(_OTHER_FORMATS) or data[4:8] == b"ftyp":
        raise ImageError("unsupported_format", repr(data[:12]))
    raise ImageError("undecodable_image", f"starts with {data[:12]!r}")


def _declared_size(data: bytes, kind: str) -> tuple[int, int] | None:
    """(width, height) in the header of PNG and WEBP; None for JPEG, whose size Pillow reads without allocating.

    Read by hand because opening a WEBP already allocates its whole canvas.
    """
    try:
        if kind == "PNG":
            width, height = struct.unpack(">II", data[16:24])
        elif kind == "WEBP" and data[12:16] == b"VP8X":
            width = int.from_bytes(data[24:27], "little") + 1
            height = int.from_bytes(data[27:30], "little") + 1
        elif kind == "WEBP" and data[12:16] == b"VP8L":
            (bits,) = struct.unpack("<I", data[21:25])
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == "WEBP" and data[12:16] == b"VP8 ":
            width, height = (value & 0x3FFF for value in struct.unpack("<HH", data[26:30]))
        elif kind == "WEBP":
            raise ImageError("undecodable_image", f"WEBP chunk {data[12:16]!r}")
        else:
            return None
    except struct.error:
        raise ImageError("undecodable_image", f"header cut off after {len(data)} bytes") from None
    return width, height


def _scans(data: bytes) -> int:
    """Scans of a JPEG, as far as it matters: of its first image alone, since phones hang films and second pictures behind it."""
    scans, position = 0, 2
    while scans <= _MAX_SCANS and (match := _JPEG_MARKER.search(data, position)):
        position, marker = match.end(), match[0][1]
        if marker == 0xD9:  # end of image
            break
        scans += marker == 0xDA
        if marker not in (0x01, 0xD8):  # what these announce, a thumbnail such as EXIF's, is skipped by its length
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return scans


def _check_pixels(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size and size[0] * size[1] > max_pixels:
        raise ImageError("pixel_bomb", f"{size[0]}x{size[1]}")


def _to_rgb(image: ImageFile.ImageFile) -> Image.Image:
    """The image as `decode` promises it. Closes `image`, so that the old pixels are gone before the new ones become an image."""
    try:
        low_bytes = _low_bytes(image)
        image.load()
        as_stored = _AS_STORED.get(orientation := _orientation(image), lambda pixels: pixels)
        width, height = image.size
        pixels = np.empty((width, height, 3) if orientation in (5, 6, 7, 8) else (height, width, 3), dtype=np.uint8)
        view = as_stored(pixels)
        for top in range(0, height, _ROWS):
            box = (0, top, width, min(top + _ROWS, height))
            view[top : top + _ROWS] = np.asarray(_flat(image.crop(box), low_bytes and low_bytes.crop(box)))
        image.close()
        return Image.fromarray(pixels)
    except MemoryError:  # the machine is short of memory: a good image must not be quarantined for it
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise _undecodable(error) from None


def _widen_transparency(image: ImageFile.ImageFile) -> None:
    """Put a PNG's transparent colour on the scale of Pillow's pixels, which have 8 bits where the file has fewer. Bits beyond the
    file's do not count. image: not decoded yet."""
    colour, raw = image.info.get("transparency"), image.tile[0].args if image.tile else None
    largest, factor = {"L;2": (3, 85), "L;4": (15, 17)}.get(str(raw), (255, 1))
    if image.mode == "L" and isinstance(colour, int):
        image.info["transparency"] = (colour & largest) * factor
    elif raw == "RGB" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value & largest for value in colour)


def _low_bytes(image: ImageFile.ImageFile) -> Image.Image | None:
    """The low bytes of a 16-bit RGB PNG that has a transparent colour, else None: Pillow gives the high ones alone, which several
    colours share. image: not decoded yet."""
    if image.mode != "RGB" or "transparency" not in image.info or image.tile[0].args != "RGB;16B":
        return None
    low_bytes = Image.open(io.BytesIO(image.fp.getvalue()), formats=_FORMATS)  # pyright: ignore
    low_bytes.tile = [tile._replace(args="RGB;16L") for tile in low_bytes.tile]  # read as if the other byte came last
    low_bytes.load()
    return low_bytes


def _flat(band: Image.Image, low_bytes: Image.Image | None) -> Image.Image:
    """RGB without transparency. low_bytes: as `_low_bytes`, of the same rows."""
    transparent = None
    if "transparency" in band.info and (low_bytes or band.mode.startswith("I")):  # Pillow compares 8 bits
        colour, samples = band.info.pop("transparency"), np.asarray(band).astype(np.int32)
        transparent = (
            samples == colour if low_bytes is None else (samples * 256 + np.asarray(low_bytes) == colour).all(axis=2)
        )
    if band.mode.startswith("I") or band.mode == "F":  # 16-bit grey: Pillow's own conversion clips at 255
        band = Image.fromarray((np.asarray(band).astype(np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if band.has_transparency_data:
        layer = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    band = band.convert("RGB")
    if transparent is not None:
        band.paste((255, 255, 255), mask=Image.fromarray(transparent))
    return band


def _orientation(image: Image.Image) -> int:
    """By EXIF alone: no viewer turns a picture by its XMP, which `getexif` also reads."""
    try:
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION_TAG, 1))
    except MemoryError:  # the machine is short of memory: without EXIF the picture would lie on its side
        raise
    except Exception:  # damaged EXIF does not make the pixels bad; every viewer shows such files
        return 1


def _undecodable(error: Exception) -> ImageError:
    # Pillow names objects by their address, which differs from run to run: the same input must give the same dataset.
    text = re.sub(r" <[^>]* at 0x[0-9a-f]+>", "", str(error))
    return ImageError("undecodable_image", f"{type(error).__name__}: {text}"[:200])
