"""Metadata costs no picture and turns none but by EXIF; transparent colours of every depth are put on white."""

import io
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from PIL import Image

from countryreward.data.decoding import ImageError, decode, inspect
from countryreward.data.image_metadata import without_metadata
from tests.unit.hostile_images import chunk, noisy, png

CAPS: dict[str, Any] = {"max_bytes": 2**24, "max_pixels": 1_000_000}
WHITE = (255, 255, 255)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
BOMB = zlib.compress(b"\0" * 50_000_000, 9)
TURN = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # EXIF with orientation 6 alone


def png_of(samples: bytes, depth: int, colour: int, *more: bytes) -> bytes:
    """A PNG of one row. samples: as they lie in the file."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2}[colour]
    width = len(samples) * 8 // (depth * channels)
    return png(width, 1, *more, depth=depth, colour=colour, data=zlib.compress(b"\0" + samples))


def row(data: bytes) -> list[Any]:
    image = decode(data, **CAPS)
    return [image.getpixel((x, 0)) for x in range(image.width)]


def grey(*levels: int) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


@pytest.mark.parametrize(
    ("samples", "depth", "colour", "transparent", "pixels"),
    [
        (struct.pack(">3H", 51_400, 51_401, 0), 16, 0, struct.pack(">H", 51_400), [WHITE, *grey(200, 0)]),
        (struct.pack(">2H", 51_200, 0), 16, 0, struct.pack(">H", 0), [*grey(199), WHITE]),
        (struct.pack(">2H", 65_535, 1), 16, 0, struct.pack(">H", 1), [WHITE, WHITE]),
        (bytes([200, 100]), 8, 0, struct.pack(">H", 200), [WHITE, *grey(100)]),
        (bytes([200, 100]), 8, 0, struct.pack(">H", 256 + 200), [WHITE, *grey(100)]),  # only 8 bits of it count
        (bytes([0xC3]), 4, 0, struct.pack(">H", 12), [WHITE, *grey(51)]),
        (bytes([0b10_01_00_11]), 2, 0, struct.pack(">H", 1), [*grey(170), WHITE, *grey(0), WHITE]),
        (bytes([0b10101010]), 1, 0, struct.pack(">H", 1), [WHITE, *grey(0)] * 4),
        (struct.pack(">6H", 51_200, 0, 0, 51_201, 0, 0), 16, 2, struct.pack(">3H", 51_200, 0, 0), [WHITE, (200, 0, 0)]),
        (struct.pack(">6H", 0, 0, 51_200, 0, 0, 200), 16, 2, struct.pack(">3H", 0, 0, 200), [(0, 0, 200), WHITE]),
        (bytes([9, 8, 7, 9, 8, 6]), 8, 2, struct.pack(">3H", 9, 8, 7), [WHITE, (9, 8, 6)]),
    ],
)
def test_the_transparent_colour_is_put_on_white_and_no_other(
    samples: bytes, depth: int, colour: int, transparent: bytes, pixels: list[Any]
) -> None:
    assert row(png_of(samples, depth, colour, chunk(b"tRNS", transparent))) == pixels


def test_alpha_and_palettes_are_put_on_white() -> None:
    assert row(png_of(struct.pack(">4H", 0, 0, 25_700, 65_535), 16, 4)) == [WHITE, (100, 100, 100)]
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    assert row(png_of(bytes([0, 1]), 8, 3, palette, chunk(b"tRNS", bytes([0])))) == [WHITE, (40, 50, 60)]


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        chunk(b"zTXt", b"Raw profile type xmp\0\0" + BOMB),
        chunk(b"iCCP", b"profile\0\0" + BOMB),
        chunk(b"iCCP", b"profile\0\0" + b"no zlib stream"),
        chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000) * 4,
        chunk(b"iTXt", b"\xff" * 50),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"tIME", b"")[:-4] + b"\0\0\0\0",  # a wrong checksum
        chunk(b"eXIf", b"II*\0" + b"\xff" * 60_000),
        chunk(b"eXIf", TURN)[:-4] + b"\0\0\0\0",
        chunk(b"acTL", b"\0" * 8),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_metadata_of_a_png_costs_nothing_however_large_or_damaged(metadata: bytes, behind: bool) -> None:
    data = png_of(bytes([9, 8, 7]), 8, 2, *([] if behind else [metadata]))
    if behind:
        data = data.replace(chunk(b"IEND", b""), metadata + chunk(b"IEND", b""))
    tracemalloc.start()
    assert row(data) == [(9, 8, 7)]
    assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + 2**20  # nothing of 50 MB was unpacked
    tracemalloc.stop()


def test_metadata_that_is_cut_off_behind_the_pixels_costs_nothing() -> None:
    data = png_of(bytes([9, 8, 7]), 8, 2)
    end = data.index(chunk(b"IEND", b""))
    assert row(data[:end] + chunk(b"tEXt", b"Comment\0" + b"x" * 100)[:50]) == [(9, 8, 7)]


def jpeg_with(marker: int, body: bytes, size: tuple[int, int] = (40, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "JPEG")
    data = buffer.getvalue()
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        (0xE2, b"ICC_PROFILE\0\1\1" + b"\xff" * 60_000),
        (
            0xE2,
            b"MPF\0II*\0\x08\0\0\0" + b"\x02\0\x01\xb0\x04\0\x01\0\0\0\x02\0\0\0\x02\xb0\x07\0\x03\0\0\0abc\0\0\0\0\0",
        ),
        (0xED, b"Photoshop 3.0\x008BIM"),
        (0xE0, b"JFIF"),
        (0xEE, b"Adobe"),
        (0xFE, b"\xff" * 65_000),
        (0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        (0xE1, b"Exif"),
    ],
)
def test_metadata_of_a_jpeg_neither_turns_nor_costs_it(marker: int, body: bytes) -> None:
    assert decode(jpeg_with(marker, body), **CAPS).size == (40, 20)


def test_exif_turns_a_picture_and_xmp_does_not() -> None:
    assert decode(jpeg_with(0xE1, b"Exif\0\0" + TURN), **CAPS).size == (20, 40)
    assert decode(png_of(bytes(40), 8, 0, chunk(b"eXIf", TURN)), **CAPS).size == (1, 40)
    assert decode(png_of(bytes(40), 8, 0, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), **CAPS).size == (40, 1)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "WEBP", xmp=XMP)
    assert decode(buffer.getvalue(), **CAPS).size == (40, 20)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "WEBP", xmp=XMP, exif=TURN, icc_profile=b"\xff" * 1_001)
    assert decode(buffer.getvalue(), **CAPS).size == (20, 40)


def test_metadata_of_a_webp_may_be_damaged_or_cut_off() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "WEBP", xmp=XMP * 20, lossless=True)
    data = buffer.getvalue()
    assert decode(data[:-900], **CAPS).size == (40, 20)
    junk = b"JUNK" + struct.pack("<I", 2**31)
    assert decode(data[:4] + struct.pack("<I", len(data) + len(junk) - 8) + data[8:] + junk, **CAPS).size == (40, 20)
    assert b"XMP " not in without_metadata(data, "WEBP")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_without_metadata_stays_as_it_is_and_a_cut_one_is_refused(kind: str) -> None:
    data = noisy(kind, 1)
    assert without_metadata(data, kind) == data
    assert inspect(data, **CAPS).width == 64
    with pytest.raises(ImageError, match="undecodable_image"):
        decode(data[: len(data) // 2], **CAPS)
