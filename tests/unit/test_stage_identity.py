"""What a stage is recognised by stays: the options in its manifest, its file names and its content, for literal inputs.

`artifacts.current` compares the options of a folder on somebody's disk with those of today: another key, another order of
levels or another default would build every folder again. The values below are those of the releases so far.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import build_records
import draw_variants
import import_data
import import_designs
import make_marketplace
from countryreward.data.artifacts import Artifact, as_plain
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, SplitConfig, TableSource
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig

ROOT = Path(__file__).parents[2]
DATASET = {
    "creatives.parquet": "f61efa55fc867476",
    "images/part-00000.parquet": "f39dc7edf1c02798",
    "observations.parquet": "e16d4ba5405f6485",
    "products.parquet": "6a7d2e26f36058c1",
}
RECORDS = {"records.parquet": "e1aa7412fb68b9d4", "units.parquet": "c0d0187763307f4f"}
DESIGNS = {"designs.parquet": "1fe2acad1ec17658"}
EXPORT = {
    "creatives.csv": "2cd2c53bb019b7db",
    "observations.csv": "5ab25a947d10fef6",
    "products.csv": "182ae67c2e789a29",
    "truth.parquet": "779e22f4eb546d12",
}


@pytest.fixture
def in_root() -> Iterator[None]:
    before = Path.cwd()
    os.chdir(ROOT)
    yield
    os.chdir(before)


def sample_source() -> ImportConfig:
    return ImportConfig(
        products=TableSource(path="docs/sample/products.csv"),
        creatives=TableSource(path="docs/sample/creatives.csv"),
        observations=TableSource(path="docs/sample/observations.csv", constants={"source": "made up"}),
        images=ImagesConfig(root="docs/sample/images"),
        market_aliases={"Korea": "KR"},
    )


def content(artifact: Artifact) -> dict[str, str]:
    """File -> 16 digits of a SHA-256 of its rows: Parquet's bytes change with the library that writes it, rows do not."""
    digests = {}
    for name in artifact.manifest.files:
        path = artifact.path / name
        if path.suffix in (".jpg", ".png", ".jsonl"):
            continue
        rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_text(encoding="utf-8")
        text = json.dumps(rounded(rows), default=lambda value: value.hex() if isinstance(value, bytes) else str(value))
        digests[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return digests


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.usefixtures("in_root")
def test_an_import_is_recognised_by_these_options_and_holds_these_rows(tmp_path: Path):
    artifact = import_data.main(import_data.Config(source=sample_source(), out=str(tmp_path / "dataset")))
    options = dict(artifact.manifest.config)
    fingerprint = options.pop("fingerprint")
    read = {
        "columns": {},
        "constants": {},
        "skip_lines": None,
        "decimal": "auto",
        "dates": "auto",
        "rates": "auto",
        "missing": [],
    }
    assert options == {
        "products": {"path": "docs/sample/products.csv", **read},
        "creatives": {"path": "docs/sample/creatives.csv", **read},
        "observations": {"path": "docs/sample/observations.csv", **read, "constants": {"source": "made up"}},
        "pairs": {"path": "", **read},
        "votes": {"path": "", **read},
        "images": {
            "root": "docs/sample/images",
            "store": "embed",
            "max_bytes": 20971520,
            "max_pixels": 25000000,
            "allowed_schemes": [],
            "workers": 4,
        },
        "market_aliases": {"Korea": "KR"},
        "markets": "",
        "empty_clicks": "refuse",
        "delivery": "unknown",
    }
    assert sorted(fingerprint) == [
        "docs/sample/creatives.csv",
        "docs/sample/images",
        "docs/sample/observations.csv",
        "docs/sample/products.csv",
    ]
    products = (ROOT / "docs/sample/products.csv").read_bytes()
    assert fingerprint["docs/sample/products.csv"] == hashlib.sha256(products).hexdigest()
    assert (artifact.manifest.kind, artifact.manifest.schema_version) == ("dataset", 1)
    assert content(artifact) == DATASET


@pytest.mark.usefixtures("in_root")
def test_an_image_folder_is_recognised_by_names_sizes_and_times(tmp_path: Path):
    shutil.copytree(ROOT / "docs/sample/images", tmp_path / "images")
    paths = sorted((tmp_path / "images").iterdir())
    for seconds, path in enumerate(paths, 1):
        os.utime(path, (seconds, seconds))
    states = "".join(
        f"{path.name}\0{path.stat().st_size}\0{seconds}000000000\n" for seconds, path in enumerate(paths, 1)
    )
    source = sample_source()
    source.images.root = str(tmp_path / "images")
    artifact = import_data.main(import_data.Config(source=source, out=str(tmp_path / "dataset")))
    recorded = artifact.manifest.config["fingerprint"][str(tmp_path / "images")]
    assert recorded == hashlib.sha256(states.encode()).hexdigest()


@pytest.mark.usefixtures("in_root")
def test_records_are_recognised_by_these_options_and_hold_these_rows(tmp_path: Path):
    import_data.main(import_data.Config(source=sample_source(), out=str(tmp_path / "dataset")))
    config = build_records.Config(
        dataset=str(tmp_path / "dataset"),
        out=str(tmp_path / "records"),
        records=RecordsConfig(orientation_seed=3, split=SplitConfig(by="image", validation=0.2, test=0.3, seed=5)),
    )
    artifact = build_records.main(config)
    assert artifact.manifest.config == {
        "reading": "repaired",
        "label_kind": None,
        "orientation": None,
        "orientation_seed": 3,
        "label_outcome": "clicks",
        "min_impressions": 0,
        "reveal_markets": 0.0,
        "split": {
            "by": "image",
            "validation": 0.2,
            "test": 0.3,
            "seed": 5,
            "train_until": "",
            "validation_until": "",
        },
    }
    assert list(artifact.manifest.inputs) == ["dataset"]
    assert (artifact.manifest.kind, artifact.manifest.schema_version) == ("records", 1)
    assert content(artifact) == RECORDS


@pytest.mark.slow
@pytest.mark.usefixtures("in_root")
def test_designs_are_recognised_by_these_options_and_hold_these_rows(tmp_path: Path):
    import_data.main(import_data.Config(source=sample_source(), out=str(tmp_path / "dataset")))
    build_records.main(build_records.Config(dataset=str(tmp_path / "dataset"), out=str(tmp_path / "records")))
    lines = ["creative_id,foreground,background,color_tone,lighting"]
    lines += [f"mug-{letter},a mug,a table,warm {letter},soft" for letter in "abc"]
    (tmp_path / "designs.csv").write_text("\n".join(lines) + "\n")
    config = import_designs.Config(
        designs=TableSource(path=str(tmp_path / "designs.csv")),
        dataset=str(tmp_path / "dataset"),
        records=str(tmp_path / "records"),
        out=str(tmp_path / "designs"),
    )
    artifact = import_designs.main(config)
    assert artifact.manifest.config == {
        "designs": {
            "path": str(tmp_path / "designs.csv"),
            "columns": {},
            "constants": {},
            "skip_lines": None,
            "decimal": "auto",
            "dates": "auto",
            "rates": "auto",
            "missing": [],
        },
        "sha256": hashlib.sha256((tmp_path / "designs.csv").read_bytes()).hexdigest(),
        "won": True,
        "market_aliases": {},
    }
    assert sorted(artifact.manifest.inputs) == ["dataset", "records"]
    assert (artifact.manifest.kind, artifact.manifest.schema_version) == ("designs", 1)
    assert content(artifact) == DESIGNS


def test_a_marketplace_is_recognised_by_these_options(tmp_path: Path):
    config = MarketplaceConfig(products=2, creatives_per_product=2, markets=["KR", "US"], image_px=32)
    artifact = make_marketplace.main(make_marketplace.Config(out=str(tmp_path / "export"), marketplace=config))
    assert artifact.manifest.config == as_plain(config.shaping())
    assert artifact.manifest.config == {
        "level": "clean",
        "seed": 0,
        "world_seed": -1,
        "products": 2,
        "creatives_per_product": 2,
        "markets": ["KR", "US"],
        "periods": 4,
        "first_month": "2025-01",
        "coverage": 1.0,
        "image_px": 32,
        "image_format": "JPEG",
        "workers": 2,
    }
    assert (artifact.manifest.kind, artifact.manifest.schema_version) == ("export", 1)
    assert content(artifact) == EXPORT


def test_drawn_variants_are_recognised_by_these_options(tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("product,variant_a,variant_b\nshirt,pink,BLUE\n")
    config = draw_variants.Config(pairs=str(tmp_path / "pairs.csv"), out=str(tmp_path / "drawn"), image_px=32)
    artifact = draw_variants.main(config)
    assert artifact.manifest.config == {
        "pairs": str(tmp_path / "pairs.csv"),
        "title": "product",
        "variant_a": "variant_a",
        "variant_b": "variant_b",
        "image_px": 32,
        "pairs_sha256": hashlib.sha256((tmp_path / "pairs.csv").read_bytes()).hexdigest(),
    }
    assert (artifact.path / "pairs.csv").read_text() == (
        "product,variant_a,variant_b,image_a,image_b\nshirt,pink,BLUE,52485f4de22b912b.png,5558f7303044ede5.png\n"
    )
