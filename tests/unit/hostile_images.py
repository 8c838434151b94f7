"""Image files that mean harm, or are broken, or are merely odd."""

import io
import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image

Build = Callable[[random.Random], bytes]
SIDE = 5_000
"""Side of the largest square that is allowed: 25 megapixels."""
LARGE = [
    (mode, kind) for mode in ("RGB", "RGBA", "L", "LA", "I;16", "P") for kind in ("PNG",)
] + [("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "JPEG")]  # fmt: skip
"""Allowed, and as large as allowed: what is decoded in full. WEBP is by itself: its decoder holds three canvases."""
LARGE_WEBP = [("RGB", "WEBP"), ("RGBA", "WEBP")]


def plain(mode: str, kind: str, size: tuple[int, int], seed: int = 0, **options) -> bytes:
    """A valid file of one colour."""
    colour = {"RGBA": (seed % 256, 20, 30, 128), "LA": (seed % 256, 128), "RGB": (seed % 256, 90, 10)}.get(
        mode, seed % 256
    )
    if mode == "CMYK":
        colour = (seed % 256, 1, 2, 3)
    with io.BytesIO() as file:
        Image.new(mode, size, colour).save(file, kind, **options)
        return file.getvalue()


def noisy(kind: str, seed: int, side: int = 64, **options) -> bytes:
    """A valid file that looks like something."""
    pixels = random.Random(seed).randbytes(side * side * 3)
    with io.BytesIO() as file:
        Image.frombytes("RGB", (side, side), pixels).save(file, kind, **options)
        return file.getvalue()


def large(seed: int) -> bytes:
    """An allowed file of 25 megapixels."""
    mode, kind = LARGE[seed % len(LARGE)]
    return plain(mode, kind, (SIDE, SIDE), seed)


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 2, data: bytes | None = None) -> bytes:
    """A PNG that says it is so large, with further chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 2_000) if data is None else data)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + chunk(b"IEND", b"")


def many_scans(scans: int, seed: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = plain("RGB", "JPEG", (256, 256), seed, progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


def webp(kind: bytes, body: bytes) -> bytes:
    """A WEBP of one chunk."""
    part = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(part) + 4) + b"WEBP" + part


def animation(kind: str, frames: int, seed: int) -> bytes:
    """Many small frames."""
    rng = random.Random(seed)
    pictures = [Image.new("RGB", (16, 16), (rng.randrange(256), n % 256, n // 256 % 256)) for n in range(frames)]
    with io.BytesIO() as file:
        pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=10)
        return file.getvalue()


def _flipped(rng: random.Random) -> bytes:
    data = bytearray(noisy(rng.choice(["PNG", "JPEG", "WEBP"]), rng.randrange(100)))
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] ^= rng.randint(1, 255)
    return bytes(data)


def _cut(rng: random.Random) -> bytes:
    data = noisy(rng.choice(["PNG", "JPEG", "WEBP"]), rng.randrange(100))
    return data[: rng.randrange(len(data))]


def _packed(rng: random.Random) -> bytes:
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    text = b"k\0\0" + bomb
    return png(
        1, 1,
        rng.choice([
            chunk(b"iCCP", text), chunk(b"zTXt", text), chunk(b"iTXt", b"k\0\1\0\0\0" + bomb), chunk(b"zTXt", text) * 100,
            chunk(b"tEXt", b"k\0" + b"x" * 2_000_000) * 4, chunk(b"eXIf", b"II*\0" + b"\xff" * 60_000),
        ]),
    )  # fmt: skip


def _exif(rng: random.Random) -> bytes:
    data = noisy("JPEG", rng.randrange(100))
    blob = rng.choice([
        b"II*\0\x08\0\0\0" + b"\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 5_000,
        b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\4\0\0\0\1\0\0\0\x08", b"\0" * 60_000, b"II*\0\xff\xff\xff\xff",
    ])  # fmt: skip
    body = b"Exif\0\0" + blob[:65_000]
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def _polyglot(rng: random.Random) -> bytes:
    tails = [
        b"PK\x03\x04" + b"\0" * 100,
        b"<script>alert(1)</script>",
        b"%PDF-1.4",
        b"GIF89a",
        b"MZ" * 100,
        b"<?php x ?>",
    ]
    data = noisy(rng.choice(["PNG", "JPEG", "WEBP"]), rng.randrange(100))
    return rng.choice([data + rng.choice(tails) * 50, rng.choice(tails) + data])


def _foreign(rng: random.Random) -> bytes:
    head = rng.choice([
        b"GIF89a\xff\xff\xff\xff\x80", b"BM\xff\xff\xff\x7f", b"II*\0\x08\0\0\0", b"MM\0*", b"8BPS\0\1", b"<svg xmlns='x'>",
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'aaaa'>]><svg>&a;</svg>", b"\0\0\0\x20ftypavif", b"\0\0\0\x18ftypheic",
        b"%PDF-1.7", b"\0\0\1\0\1\0", b"\0\0\0\x0cjP  \r\n", b"%!PS-Adobe", b"\x1f\x8b\x08", b"PK\x03\x04", b"", b"\0",
        b"P6 9 9 9 ",
        b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"RIFF\xff\xff\xff\xffWEBPVP8X",
        b"\x89PNG\r\n\x1a\n\0\0\0\0IHDR",
    ])  # fmt: skip
    return head + rng.choice([b"", rng.randbytes(500), b"\0" * 5_000])


def _liar(rng: random.Random) -> bytes:
    """WEBP whose header and stream differ."""
    inner = noisy("WEBP", rng.randrange(100))
    side = rng.choice([1, 63, 4_999, 16_383])
    canvas = bytes([rng.choice([0, 0x10, 0x02, 0x3E]), 0, 0, 0]) + side.to_bytes(3, "little") * 2
    told = b"VP8X" + struct.pack("<I", 10) + canvas + inner[12:]
    return b"RIFF" + struct.pack("<I", len(told) + 4) + b"WEBP" + told


def _odd(rng: random.Random) -> bytes:
    mode, kind = rng.choice([
        ("CMYK", "JPEG"), ("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"),
        ("RGBA", "WEBP"), ("L", "WEBP"),
    ])  # fmt: skip
    return plain(mode, kind, (rng.randint(1, 900), rng.randint(1, 900)), rng.randrange(256))


def _jpeg_header(rng: random.Random) -> bytes:
    """A small JPEG that says it is large, has no components, or tables out of range."""
    data = bytearray(noisy("JPEG", rng.randrange(100)))
    at = data.index(b"\xff\xc0")
    how = rng.randrange(4)
    if how == 0:
        data[at + 5 : at + 9] = struct.pack(
            ">HH", *rng.choice([(65_500, 65_500), (4_900, 5_000), (0, 64), (1, 65_535)])
        )
    elif how == 1:
        data[at + 9] = rng.choice([0, 2, 4, 255])
    elif how == 2:
        data[at + 11] = rng.choice([0x00, 0x44, 0xFF, 0x14])
    else:
        data[at + 1] = rng.choice([0xC1, 0xC2, 0xC3, 0xC9, 0xCB])
    return bytes(data)


KINDS: dict[str, Build] = {
    "PNG that says it is huge": lambda rng: png(*rng.choice([(2**31 - 1, 2**31 - 1), (65_535, 65_535), (5_001, 5_000)])),
    "PNG of 13,000 x 13,000": lambda rng: png(13_000, 13_000, colour=0, depth=1, data=zlib.compress(b"\0" * 21_138_000, 9)),
    "PNG of no size": lambda rng: png(*rng.choice([(0, 0), (0, 10), (10, 0)])),
    "PNG of a wrong kind": lambda rng: png(9, 9, depth=rng.choice([0, 3, 16, 32]), colour=rng.choice([1, 3, 5, 6, 255])),
    "PNG with too few pixels": lambda rng: png(rng.randint(100, 3_000), rng.randint(100, 3_000)),
    "PNG with too many pixels": lambda rng: png(3, 3, data=zlib.compress(b"\0" * 30_000_000, 9)),
    "packed chunks": _packed,
    "cut off": _cut,
    "flipped bytes": _flipped,
    "header of a JPEG": _jpeg_header,
    "thousands of scans": lambda rng: many_scans(rng.choice([101, 3_000, 50_000]), rng.randrange(100)),
    "hundred scans": lambda rng: many_scans(80, rng.randrange(100)),
    "animated WEBP": lambda rng: animation("WEBP", rng.choice([2, 300]), rng.randrange(100)),
    "animated PNG": lambda rng: animation("PNG", rng.choice([2, 2_000]), rng.randrange(100)),
    "WEBP with another canvas": _liar,
    "WEBP of a wrong kind": lambda rng: webp(rng.choice([b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ALPH"]), rng.randbytes(40)),
    "odd modes": _odd,
    "EXIF": _exif,
    "two formats in one": _polyglot,
    "other formats": _foreign,
    "strips": lambda rng: plain("RGB", "PNG", rng.choice([(1, 100_000), (100_000, 1), (2, 60_000)]), rng.randrange(99)),
}  # fmt: skip


def hostile_images(count: int, seed: int = 0, large_every: int = 0) -> list[tuple[str, Callable[[], bytes]]]:
    """(kind, how to make it): every kind in turn; every so many an allowed one of 25 megapixels."""
    made: list[tuple[str, Callable[[], bytes]]] = []
    names = list(KINDS)
    for number in range(count):
        if large_every and number % large_every == large_every - 1:
            made.append(("as large as allowed", lambda number=number: large(number // large_every)))
            continue
        kind = names[number % len(names)]
        made.append((kind, lambda kind=kind, number=number: KINDS[kind](random.Random(f"{seed} {number}"))))
    return made
