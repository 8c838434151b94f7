"""The levels clean, real-noise and hard give the bytes they gave before level delivered came: SHA-256, first 16 hex digits."""

import hashlib
import json
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest

from countryreward.data.marketplace.export import write_export
from countryreward.data.marketplace.marketplace_config import LevelName, MarketplaceConfig

FILES: dict[LevelName, dict[str, str]] = {
    "clean": {
        "creatives.csv": "0a6b7146cd23b4ea",
        "designs.jsonl": "5d036242e325182a",
        "observations.csv": "318debe2533d48de",
        "products.csv": "ccf00cf31af792c1",
        "truth.parquet": "677792f7c60b5a91",
    },
    "real-noise": {
        "creatives.csv": "0a6b7146cd23b4ea",
        "designs.jsonl": "b9133899677417af",
        "observations.csv": "48789e4e2b758620",
        "products.csv": "ccf00cf31af792c1",
        "truth.parquet": "6e18f4db5864e4be",
    },
    "hard": {
        "creatives.csv": "0a6b7146cd23b4ea",
        "designs.jsonl": "b9133899677417af",
        "observations.csv": "e0f6fb413f90f1f3",
        "products.csv": "ccf00cf31af792c1",
        "truth.parquet": "ad7e9e56e6262860",
    },
}
IMAGES = {
    "images/p00000-c1.jpg": "a78f462ee68710d0",
    "images/p00000-c2.jpg": "0c08feaf83d8ca4e",
    "images/p00001-c1.png": "5474f95b232ff519",
    "images/p00001-c2.jpg": "fe8937ec6ec70451",
    "images/p00002-c1.jpg": "802ff06a9b86d473",
    "images/p00002-c2.png": "9d4b9b117c9a3f78",
}
"""Of every level: only clicks differ."""


def exported(level: LevelName, folder: Path) -> dict[str, str]:
    """File -> digest. Of truth.parquet the rows: Parquet's bytes change with the library that writes it."""
    config = MarketplaceConfig(
        level=level,
        seed=4,
        world_seed=11,
        products=3,
        creatives_per_product=2,
        markets=["KR", "US"],
        periods=2,
        first_month="2024-12",
        coverage=0.8,
        image_px=48,
        image_format="mixed",
    )
    write_export(folder, config)
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data = json.dumps(pq.read_table(path).to_pylist()).encode()
        digests[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()[:16]
    return digests


@pytest.mark.parametrize("level", list(FILES))
def test_tables(level: LevelName, tmp_path: Path) -> None:
    found = exported(level, tmp_path)
    assert {name: digest for name, digest in found.items() if not name.startswith("images/")} == FILES[level]


@pytest.mark.skipif(not cv2.__version__.startswith("5.0."), reason="pictures are those of OpenCV 5.0")
@pytest.mark.parametrize("level", list(FILES))
def test_pictures(level: LevelName, tmp_path: Path) -> None:
    found = exported(level, tmp_path)
    assert {name: digest for name, digest in found.items() if name.startswith("images/")} == IMAGES
