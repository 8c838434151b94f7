"""Image files without what no pixel depends on: profiles, XMP, comments, texts, second pictures.

Metadata is skipped by its length and never read or unpacked, so neither its size nor its damage costs the picture. What is
needed to show the picture stays: the pixels, transparency, the notes of JFIF and Adobe on a JPEG's colours, and EXIF, whose
orientation turns it.
"""

import zlib

_PNG_SIGNATURE = 8  # bytes
_PNG_KEPT = (b"tRNS", b"eXIf")  # of the chunks that a reader may skip
_JPEG_METADATA = {*range(0xE0, 0xF0), 0xFE}  # APP0 to APP15, comment
_JPEG_KEPT = {0xE0: (b"JFIF\0", 16), 0xE1: (b"Exif\0\0", 8), 0xEE: (b"Adobe", 14)}  # how they begin, shortest length
_JPEG_NO_LENGTH = {0x00, 0x01, 0xD8, 0xD9, 0xDA, *range(0xD0, 0xD8)}  # DA, start of scan: the last that we look at
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_EXIF, _WEBP_OTHERS = 0x08, 0x24  # flags in VP8X; the others are profile and XMP


def without_metadata(data: bytes, kind: str) -> bytes:
    """The file without its metadata. What does not follow the format, and all behind it, stays as it is.

    kind: PNG, JPEG or WEBP.
    """
    return {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}[kind](data)


def _png(data: bytes) -> bytes:
    """Without chunks that a reader may skip, but transparency and EXIF where their checksums fit them."""
    view, start = memoryview(data), _PNG_SIGNATURE
    kept, name = [view[:start]], b""
    while start + 8 <= len(data) and name != b"IEND":
        name = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        may_skip = name[:1].islower()
        if end > len(data) and not may_skip:
            break
        if not may_skip or (name in _PNG_KEPT and _checksum_fits(view[start:end])):
            kept.append(view[start:end])
        start = end
    return _joined(data, [*kept, view[start:]])


def _joined(data: bytes, parts: list[memoryview]) -> bytes:
    """The parts of a file; the file itself where they are all of it: it may be large."""
    return data if sum(map(len, parts)) == len(data) else b"".join(parts)


def _checksum_fits(chunk: memoryview) -> bool:
    """Whether a PNG chunk (length, name, content, checksum) is whole and undamaged."""
    return len(chunk) >= 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _jpeg(data: bytes) -> bytes:
    """Without the application segments and comments before the first scan, but JFIF's, EXIF's and Adobe's."""
    view, start = memoryview(data), 2
    kept = [view[:start]]
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == 0xFF:  # a fill byte
            start += 1
            continue
        end = start + 2 + length
        if marker in _JPEG_NO_LENGTH or length < 2 or end > len(data):
            break
        beginning, shortest = _JPEG_KEPT.get(marker, (b"", 2**16))
        if marker not in _JPEG_METADATA or (length >= shortest and data.startswith(beginning, start + 4)):
            kept.append(view[start:end])
        start = end
    return _joined(data, [*kept, view[start:]])


def _webp(data: bytes) -> bytes:
    """Without profile, XMP and unknown chunks, and the header says so. A simple file, which has no metadata, is given back."""
    stop = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    if data[12:20] != b"VP8X\x0a\0\0\0" or stop < 30:
        return data
    kept, start, flags = [], 12, data[20] & ~(_WEBP_EXIF | _WEBP_OTHERS)
    while start + 8 <= stop:
        name, content_end = data[start : start + 4], start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        end = content_end + content_end % 2
        if name in _WEBP_PIXELS and content_end > stop:
            return data
        if name in _WEBP_PIXELS or (name == b"EXIF" and content_end <= stop):
            kept.append(data[start:end].ljust(end - start, b"\0"))
            flags |= _WEBP_EXIF if name == b"EXIF" else 0
        start = end
    header, *others = kept
    body = b"".join([b"WEBP", header[:8], bytes([flags]), header[9:], *others])
    return b"RIFF" + len(body).to_bytes(4, "little") + body
