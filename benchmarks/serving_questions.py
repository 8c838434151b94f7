"""What benchmarks/serving.py asks: real pairs of a run's export, as PairRequests and as multipart bodies.

A fresh image has the pixels of a known one and a number in a JPEG comment, so no cache knows its bytes.
"""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BOUNDARY = "countryrewardbenchmark"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
_COMMENT = b"\xff\xfe\x00\x12"  # JPEG comment of 16 bytes


@dataclass(frozen=True)
class Pair:
    """One product with two of its images."""

    title: str
    category: str
    images: tuple[bytes, bytes]

    def fresh(self, number: int) -> tuple[bytes, bytes]:
        """The same pixels in files that nobody has seen. number: another one for every call."""
        a, b = self.images
        return _numbered(a, 2 * number), _numbered(b, 2 * number + 1)

    def body(self, images: tuple[bytes, bytes], markets: Sequence[str]) -> bytes:
        """The form of /v1/score."""
        texts = [("title", self.title), ("category", self.category), *(("markets", market) for market in markets)]
        parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}' for name, text in texts]
        head = [part.encode() for part in parts]
        files = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image_{side}"; filename="{side}.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n".encode()
            + image
            for side, image in zip("ab", images, strict=True)
        ]
        return b"\r\n".join([*head, *files, f"--{BOUNDARY}--\r\n".encode()])


def load_pairs(export: Path, count: int) -> list[Pair]:
    """`count` products of a marketplace's export, drawn with a fixed seed."""
    import pandas as pd

    products = pd.read_csv(export / "products.csv", dtype=str).fillna("").set_index("product_id")
    creatives = pd.read_csv(export / "creatives.csv", dtype=str).groupby("product_id")["image_uri"].agg(list)
    chosen = random.Random(0).sample(sorted(creatives.index), min(count, len(creatives)))
    return [
        Pair(
            title=str(products.loc[name, "title"]),
            category=str(products.loc[name, "category"]),
            images=tuple((export / "images" / uri).read_bytes() for uri in creatives[name][:2]),  # type: ignore
        )
        for name in chosen
    ]


def questions(
    pairs: Sequence[Pair], markets: Sequence[str], per_call: int, *, fresh: bool, start: int
) -> Iterator[tuple[Pair, tuple[bytes, bytes], list[str]]]:
    """Calls without end: (pair, its image files, its markets). start: other numbers than another run's."""
    for n in itertools.count():
        pair = pairs[n % len(pairs)]
        asked = [markets[(n + k) % len(markets)] for k in range(per_call)]
        yield pair, pair.fresh(start + n) if fresh else pair.images, asked


def _numbered(image: bytes, number: int) -> bytes:
    assert image[:2] == b"\xff\xd8", "a JPEG is needed"
    return image[:2] + _COMMENT + b"%016d" % number + image[2:]


def service_key(state: Path) -> str:
    """A key of a state folder that no rate holds back; made when there is none."""
    from countryreward.serving.http.keys import FILE, KeyStore

    path = state / "benchmark.key"
    if not path.exists():
        state.mkdir(mode=0o700, exist_ok=True)
        key = KeyStore(state / FILE, poll_s=0).create("demo", scopes=("score", "metrics"), rate="1000000000/minute")
        path.touch(mode=0o600)
        path.write_text(key, encoding="ascii")
    return path.read_text(encoding="ascii")


def shown(answer: bytes) -> int:
    """How many verdicts an answer holds."""
    return len(json.loads(answer)["verdicts"])
