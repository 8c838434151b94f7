"""Images: hostile files refused, paths kept inside the root, datasets giving back what they took."""

import hashlib
import io
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs

from countryreward.data import images
from countryreward.data.data_config import ImagesConfig
from countryreward.data.decoding import ImageError, decode, inspect
from countryreward.data.images import ImageSource, ImageTable, ImageWriter
from countryreward.errors import UserError

CAPS: dict[str, Any] = {"max_bytes": 2**20, "max_pixels": 1_000_000}


def encoded(kind: str = "PNG", size: tuple[int, int] = (12, 8), seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height and whose data is a stub: decoding it would fail or explode."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def bomb_webp(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\x02\0\0\0"
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def refusal(data: bytes, **caps: Any) -> str:
    with pytest.raises(ImageError) as caught:
        inspect(data, **{**CAPS, **caps})
    assert caught.value.field_value
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_inspect_states_the_facts(kind: str) -> None:
    data = encoded(kind)
    facts = inspect(data, **CAPS)
    assert (facts.format, facts.width, facts.height) == (kind, 12, 8)
    assert facts.content_hash == hashlib.sha256(data).hexdigest()
    assert len(facts.perceptual_hash) == 16
    assert int(facts.perceptual_hash, 16) >= 0
    assert facts == inspect(data, **CAPS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_is_undecodable(kind: str, keep: float) -> None:
    data = encoded(kind, (64, 64))
    assert refusal(data[: int(len(data) * keep)]) == "undecodable_image"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "undecodable_image"),
        (b"not an image", "undecodable_image"),
        (b"\x89PNG\r\n\x1a\n", "undecodable_image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "undecodable_image"),
        (b"\xff\xd8\xff\xe0garbage", "undecodable_image"),
        (b"RIFF\0\0\0\0WEBPVP8X", "undecodable_image"),
        (b"RIFF\0\0\0\0WEBPevil" + b"\0" * 40, "undecodable_image"),
        (encoded("GIF"), "unsupported_format"),
        (encoded("BMP"), "unsupported_format"),
        (encoded("TIFF"), "unsupported_format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
    ],
)
def test_other_bytes(data: bytes, reason: str) -> None:
    assert refusal(data) == reason


@pytest.mark.parametrize("data", [bomb_png(50_000, 50_000), bomb_png(1001, 1000), bomb_webp(16_000, 16_000)])
def test_pixel_bomb_is_refused_before_any_decoder_sees_it(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a decoder was opened")

    monkeypatch.setattr(Image, "open", never)
    assert refusal(data) == "pixel_bomb"


def test_jpeg_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("JPEG", (64, 64))
    start = data.index(b"\xff\xc0")
    data = data[: start + 5] + struct.pack(">HH", 65_000, 65_000) + data[start + 9 :]
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    assert refusal(data) == "pixel_bomb"


def test_byte_cap_comes_first() -> None:
    assert refusal(bomb_png(50_000, 50_000), max_bytes=10) == "image_too_large"


def test_decode_applies_orientation_and_puts_transparency_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = decode(encoded("JPEG", (12, 8), exif=exif), **CAPS)
    assert (turned.mode, turned.size) == ("RGB", (8, 12))

    buffer = io.BytesIO()
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    layer.save(buffer, "PNG")
    image = decode(buffer.getvalue(), **CAPS)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


def test_decode_takes_the_first_frame_and_keeps_16_bit_grey() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(buffer.getvalue(), **CAPS).getpixel((0, 0)) == (255, 0, 0)

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 32_896, np.uint16)).save(buffer, "PNG")
    assert decode(buffer.getvalue(), **CAPS).getpixel((0, 0)) == (128, 128, 128)


def reason_of(source: ImageSource, uri: str) -> str:
    with pytest.raises(ImageError) as caught:
        source.read(uri)
    return caught.value.reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"A")
    (folder / "sub" / "b c.png").write_bytes(b"B")
    (tmp_path / "secret.png").write_bytes(b"S")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "in.png").symlink_to(folder / "a.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def test_folder_source_never_leaves_its_root(root: Path) -> None:
    source = ImageSource(ImagesConfig(root=str(root)))
    assert source.read("a.png") == b"A"
    assert source.read("sub/../a.png") == b"A"
    assert source.read(str(root / "a.png")) == b"A"
    assert source.read((root / "sub" / "b c.png").as_uri()) == b"B"
    assert source.read("in.png") == b"A"
    for uri in (
        "../secret.png", "sub/../../secret.png", str(root.parent / "secret.png"), "/etc/passwd",
        "file:///etc/passwd", "out.png",
        "up/secret.png", "http://example.com/a.png", "https://example.com/a.png", "HTTP://example.com/a.png",
        "ftp://example.com/a.png", "s3://bucket/a.png", "gs://bucket/a.png", "data:image/png;base64,AAAA",
        "a.png\0.jpg",
    ):  # fmt: skip
        assert reason_of(source, uri) == "forbidden_uri", uri
    for uri in ("none.png", "sub", ".", "pipe.png", "x" * 5000):
        assert reason_of(source, uri) == "missing_image", uri


def test_size_is_checked_before_reading(root: Path) -> None:
    with open(root / "huge.png", "wb") as handle:
        handle.truncate(10**12)  # sparse: reading it would fail
    assert reason_of(ImageSource(ImagesConfig(root=str(root))), "huge.png") == "image_too_large"


def test_http_stays_refused_when_allowed() -> None:
    with pytest.warns(UserWarning, match="only s3 and gs"):
        source = ImageSource(ImagesConfig(allowed_schemes=["https"]))
    assert reason_of(source, "https://example.com/a.png") == "forbidden_uri"
    with pytest.raises(UserError, match=r"images\.root: is empty"):
        source.read("a.png")


def test_root_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="not a zip"):
        ImageSource(ImagesConfig(root=str(tmp_path / "broken.zip")))
    with pytest.raises(UserError, match=r"images\.root"):
        ImageSource(ImagesConfig(root=str(tmp_path / "none")))


def test_zip_source(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/a.png", b"A")
        archive.writestr("images/sub/b.png", b"B")
        archive.writestr("images/bomb.png", b"\0" * 5_000_000)
    for root in (path, path / "images"):
        source = ImageSource(ImagesConfig(root=str(root), max_bytes=1_000_000))
        assert source.read("a.png") == b"A"
        assert source.read("sub/b.png") == b"B"
        assert reason_of(source, "bomb.png") == "image_too_large"
        assert reason_of(source, "none.png") == "missing_image"
        assert reason_of(source, "sub") == "missing_image"
        for uri in ("../a.png", "/images/a.png", "file:///images/a.png", "..\\a.png"):
            assert reason_of(source, uri) == "forbidden_uri"


def test_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "lying.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", b"\0" * 5_000_000)
    data = path.read_bytes().replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1000))
    path.write_bytes(data)
    assert reason_of(ImageSource(ImagesConfig(root=str(path), max_bytes=2000)), "bomb.png") == "undecodable_image"


def test_cloud_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage stood in for by a local folder: the addresses that are asked for are what counts."""
    (tmp_path / "shop" / "ads").mkdir(parents=True)
    (tmp_path / "shop" / "ads" / "a.png").write_bytes(b"A")
    (tmp_path / "shop" / "b.png").write_bytes(b"B" * 100)
    storage = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

    class Stub:
        @staticmethod
        def from_uri(uri: str) -> tuple[fs.FileSystem, str]:
            return storage, uri.split("://")[1].partition("?")[0]

    monkeypatch.setattr(images.fs, "FileSystem", Stub)
    inside = ImageSource(ImagesConfig(root="s3://shop/ads", max_bytes=10))
    assert inside.read("a.png") == inside.read("s3://shop/ads/a.png") == b"A"
    assert inside.locate("a.png") == "s3://shop/ads/a.png"
    assert reason_of(inside, "none.png") == "missing_image"
    for uri in (
        "../b.png",
        "/b.png",
        "s3://shop/b.png",
        "s3://shop/ads/../b.png",
        "gs://shop/ads/a.png",
        "http://shop/ads/a.png",
    ):
        assert reason_of(inside, uri) == "forbidden_uri"

    allowed = ImageSource(ImagesConfig(allowed_schemes=["s3"], max_bytes=10))
    assert allowed.read("s3://shop/ads/a.png") == b"A"
    assert reason_of(allowed, "s3://shop/b.png") == "image_too_large"
    for uri in ("s3://shop/ads/a.png?endpoint_override=evil", "s3://key:secret@shop/ads/a.png", "gs://shop/ads/a.png"):
        assert reason_of(allowed, uri) == "forbidden_uri"


def test_table_gives_back_every_image_from_small_row_groups(tmp_path: Path) -> None:
    files = [encoded(seed=seed) for seed in range(20)]
    with ImageWriter(tmp_path, embed=True, group_bytes=1000, part_bytes=3000) as writer:
        for data in [*files, *files]:
            writer.add(inspect(data, **CAPS), data=data, uri="ignored")
    assert len(list((tmp_path / "images").glob("part-*.parquet"))) > 1
    table = ImageTable(tmp_path, cache_bytes=1500)  # holds one row group at a time
    for again in (table, pickle.loads(pickle.dumps(table))):
        assert len(again) == 20
        assert [again.bytes_of(hashlib.sha256(data).hexdigest()) for data in files] == files
    assert [table.bytes_of(key) for key in table.hashes()] == files
    with pytest.raises(UserError, match="content_hash: 'none'"):
        table.bytes_of("none")
    with pytest.raises(UserError, match="has no images"):
        len(ImageTable(tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_reference_reads_again_and_checks_the_hash(tmp_path: Path, kind: str) -> None:
    data = encoded()
    facts = inspect(data, **CAPS)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a b.png").write_bytes(data)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            archive.writestr("inner/a b.png", data)
    source = ImageSource(ImagesConfig(root=str(photos if kind == "folder" else tmp_path / "photos.zip")))
    with ImageWriter(tmp_path / "dataset", embed=False) as writer:
        writer.add(facts, data=source.read("a b.png"), uri=source.locate("a b.png"))
    assert ImageTable(tmp_path / "dataset").bytes_of(facts.content_hash) == data
    if kind == "folder":
        (photos / "a b.png").write_bytes(encoded(seed=1))
        with pytest.raises(UserError, match="has changed"):
            ImageTable(tmp_path / "dataset").bytes_of(facts.content_hash)
        (photos / "a b.png").unlink()
        with pytest.raises(UserError, match="cannot be read"):
            ImageTable(tmp_path / "dataset").bytes_of(facts.content_hash)


def test_hostile_bytes_raise_only_our_refusal() -> None:
    random = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in ("PNG", "JPEG", "WEBP"):
            original = np.frombuffer(encoded(kind, (32, 32)), np.uint8)
            for _ in range(60):
                data = original.copy()
                data[random.integers(12, len(data), 4)] = random.integers(0, 256, 4)
                try:
                    inspect(data.tobytes(), **CAPS)
                except ImageError as error:
                    assert error.reason in ("undecodable_image", "pixel_bomb", "unsupported_format")  # noqa: PT017
