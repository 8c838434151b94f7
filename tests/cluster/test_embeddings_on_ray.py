"""Embedding on Ray when images vanish or change after the import: they go to quarantine, everything else goes on."""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import build_knowledge_base
import build_priors
import build_records
import choose_k
import embed
import evaluate_prior
import import_data
from countryreward.data.artifacts import Artifact
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, SplitConfig, TableSource
from countryreward.data.images import ImageTable
from countryreward.data.quarantine import REASONS
from countryreward.on_ray import encode_dataset as embeddings
from countryreward.on_ray.ray_config import RayConfig
from countryreward.on_ray.session import session
from countryreward.retrieval.encoders import HashedNgrams, LayoutHog
from countryreward.retrieval.retrieval_config import EncodersConfig

PRODUCTS, PER_PRODUCT, MARKETS = 16, 3, ("BR", "KR")
DELETED, ALTERED, TRUNCATED = "p03-c1", "p05-c2", "p07-c0"


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """One Ray for the module."""
    with session(RayConfig(cpus=2)):
        yield


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_table(path: Path, rows: list[dict[str, Any]]) -> TableSource:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return TableSource(path=str(path))


@dataclass(frozen=True)
class Damaged:
    """A dataset by reference, three of whose image files were harmed after the import."""

    folder: Path
    dataset: Artifact
    hash_of: dict[str, str]
    """creative_id -> content hash"""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")
    images = folder / "images"
    images.mkdir()
    dice = random.Random(5)
    products, creatives, observations = [], [], []
    for p in range(PRODUCTS):
        # products 0 and 1 share a text: 15 unique ones
        title = "enamel mug" if p < 2 else f"thing number {p}"
        products.append({"product_id": f"p{p:02d}", "title": title, "category": "kitchen"})
        for c in range(PER_PRODUCT):
            name = f"p{p:02d}-c{c}"
            draw(images / f"{name}.png", seed=100 * p + c)
            creatives.append({"creative_id": name, "product_id": f"p{p:02d}", "image_uri": f"{name}.png"})
            observations += [
                {"creative_id": name, "market": market, "impressions": 10_000, "clicks": dice.randrange(100, 400)}
                for market in MARKETS
            ]
    source = ImportConfig(
        products=write_table(folder / "products.csv", products),
        creatives=write_table(folder / "creatives.csv", creatives),
        observations=write_table(folder / "observations.csv", observations),
        images=ImagesConfig(root=str(images), store="reference"),
    )
    dataset = import_data.main(import_data.Config(out=str(folder / "dataset"), source=source))
    build_records.main(
        build_records.Config(
            dataset=str(folder / "dataset"),
            out=str(folder / "records"),
            records=RecordsConfig(split=SplitConfig(validation=0.0, test=0.4)),
        )
    )
    (images / f"{DELETED}.png").unlink()
    draw(images / f"{ALTERED}.png", seed=999_999)
    whole = (images / f"{TRUNCATED}.png").read_bytes()
    (images / f"{TRUNCATED}.png").write_bytes(whole[: len(whole) // 2])
    frame = pd.read_parquet(dataset.path / "creatives.parquet")
    return Damaged(folder, dataset, dict(zip(frame["creative_id"], frame["content_hash"], strict=True)))


@pytest.fixture(scope="module")
def embedded(damaged: Damaged) -> Artifact:
    return embed.main(embed.Config(dataset=str(damaged.folder / "dataset"), out=str(damaged.folder / "embeddings")))


@pytest.fixture(scope="module")
def base(damaged: Damaged, embedded: Artifact) -> Artifact:
    at: dict[str, Any] = {name: str(damaged.folder / name) for name in ("dataset", "records", "embeddings")}
    return build_knowledge_base.main(build_knowledge_base.Config(**at, out=str(damaged.folder / "knowledge_base")))


@pytest.fixture(scope="module")
def priors(damaged: Damaged, base: Artifact) -> Artifact:
    at: dict[str, Any] = {name: str(damaged.folder / name) for name in ("records", "embeddings", "knowledge_base")}
    return build_priors.main(build_priors.Config(**at, out=str(damaged.folder / "priors")))


def quarantine(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.path / "quarantine.jsonl").read_text().splitlines()]


def test_harmed_images_are_quarantined_with_their_reason_and_the_rest_is_embedded(damaged: Damaged, embedded: Artifact):
    assert embedded.manifest.counts == {
        "texts": {"input": 15, "kept": 15, "dropped": 0, "quarantined": 0},
        "images": {"input": 48, "kept": 45, "dropped": 0, "quarantined": 3},
    }
    refused = {row["key"]: row for row in quarantine(embedded)}
    harmed = {damaged.hash_of[name]: name for name in (DELETED, ALTERED, TRUNCATED)}
    assert set(refused) == set(harmed)
    for key, row in refused.items():
        assert (row["stage"], row["table"], row["field"]) == ("embeddings", "images", "image")
        assert harmed[key] in row["value"]  # names the file
        assert row["way_out"] == REASONS[row["reason"]]
    assert refused[damaged.hash_of[DELETED]]["reason"] == "changed_image"
    images = pd.read_parquet(embedded.path / "images.parquet")
    assert set(images["content_hash"]) == set(damaged.hash_of.values()) - set(harmed)


def test_every_row_holds_the_vector_of_its_own_text_and_image(damaged: Damaged, embedded: Artifact):
    images = pd.read_parquet(embedded.path / "images.parquet")
    vectors = np.load(embedded.path / "images.npy")
    assert vectors.shape == (48, LayoutHog.dimension)
    assert vectors.dtype == np.float32
    source = ImageTable(damaged.dataset.path)
    for row in images.iloc[::9].itertuples():
        path = damaged.folder / "probe.png"
        path.write_bytes(source.bytes_of(str(row.content_hash)))
        with Image.open(path) as picture:
            alone = LayoutHog().encode([picture.convert("RGB")])[0]
        np.testing.assert_array_equal(vectors[int(row.image_row)], alone)  # pyright: ignore[reportArgumentType]
    texts = np.load(embedded.path / "texts.npy")
    text_row = pd.read_parquet(embedded.path / "products.parquet").set_index("product_id")["text_row"]
    assert text_row["p00"] == text_row["p01"]
    np.testing.assert_array_equal(texts[text_row["p04"]], HashedNgrams().encode(["thing number 4\nkitchen"])[0])


@pytest.mark.parametrize(("actors", "batch_size"), [(1, 64), (2, 5)])
def test_files_do_not_depend_on_the_number_of_actors(
    damaged: Damaged,
    embedded: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    actors: int,
    batch_size: int,
):
    spread = embeddings.in_actors

    def with_actors(*arguments: Any, **options: Any) -> Any:
        return spread(*arguments, **{**options, "most": actors})

    monkeypatch.setattr(embeddings, "in_actors", with_actors)
    counts = embeddings.embed_dataset(damaged.dataset.path, tmp_path, EncodersConfig(batch_size=batch_size))
    assert counts == embedded.manifest.counts
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["images.npy", "images.parquet", "products.parquet", "quarantine.jsonl", "texts.npy"]
    for name in files:
        assert (tmp_path / name).read_bytes() == (embedded.path / name).read_bytes(), name


def test_knowledge_base_counts_the_lost_observations(damaged: Damaged, base: Artifact):
    counts = base.manifest.counts["observations"]
    assert counts["input"] == 96 == counts["kept"] + counts["dropped"] + counts["quarantined"]
    units = pd.read_parquet(damaged.folder / "records" / "units.parquet").set_index("unit")["split"]
    lost = sum(units[name[:3]] == "train" for name in (DELETED, ALTERED, TRUNCATED))
    held_out = int((units != "train").sum()) * PER_PRODUCT * len(MARKETS)
    assert lost > 0
    assert counts["dropped_by_reason"] == {"no_embedding": lost * len(MARKETS), "not_in_training": held_out}
    assert counts["dropped"] == held_out + lost * len(MARKETS)
    assert sum(base.manifest.counts["entries"].values()) == counts["kept"]
    entries = pq.read_table(base.path / "entries.parquet").to_pandas()
    assert not set(entries["creative_id"]) & {DELETED, ALTERED, TRUNCATED}


def test_records_of_a_lost_image_are_quarantined_by_the_priors(damaged: Damaged, priors: Artifact):
    records = pd.read_parquet(damaged.folder / "records" / "records.parquet")
    lost = {damaged.hash_of[name] for name in (DELETED, ALTERED, TRUNCATED)}
    touched = records["hash_a"].isin(lost) | records["hash_b"].isin(lost)
    assert touched.sum() > 6
    assert priors.manifest.counts["records"] == {
        "input": len(records),
        "kept": int((~touched).sum()),
        "dropped": 0,
        "quarantined": int(touched.sum()),
    }
    assert {row["key"] for row in quarantine(priors)} == set(records.loc[touched, "record_id"])
    frame = pd.read_parquet(priors.path / "priors.parquet")
    assert set(frame["record_id"]) == set(records.loc[~touched, "record_id"])


def test_the_chain_ends_in_a_report_without_the_lost_images(damaged: Damaged, priors: Artifact):
    at: dict[str, Any] = {name: str(damaged.folder / name) for name in ("records", "embeddings", "knowledge_base")}
    curves = choose_k.main(choose_k.Config(**at, out=str(damaged.folder / "choose_k")))
    assert set(json.loads((curves.path / "curves.json").read_text())) == {"text", "image"}
    report = evaluate_prior.main(
        evaluate_prior.Config(
            **at,
            dataset=str(damaged.folder / "dataset"),
            priors={"prior_only": str(damaged.folder / "priors")},
            choose_k=str(damaged.folder / "choose_k"),
            truth="",
            out=str(damaged.folder / "report"),
            draws=50,
        )
    )
    written = json.loads((report.path / "report.json").read_text())
    records = pd.read_parquet(damaged.folder / "records" / "records.parquet")
    known = set(pd.read_parquet(priors.path / "priors.parquet")["record_id"])
    test = records[records["split"] == "test"]
    assert written["n"]["rows"] == int(test["record_id"].isin(known).sum()) < len(test)
    assert written["counts"]["priors"]["quarantined"] > 0
