"""Small hand-made worlds for the unit tests, without Ray."""

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from countryreward.data import tables
from countryreward.data.artifacts import open_artifact, publish
from countryreward.retrieval import knowledge_base as kb
from countryreward.retrieval import write_knowledge_base as build
from countryreward.retrieval.embedding_table import Embeddings

World = tuple[kb.KnowledgeBase, Embeddings]
SLOW = re.compile(r"^pytestmark = (\[.*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A module whose tests are all slow is not even imported where slow ones are left out: its imports are what takes long."""
    left_out = config.option.markexpr == "not slow" and collection_path.suffix == ".py"
    return True if left_out and SLOW.search(collection_path.read_text(encoding="utf-8")) else None


def observations(rows: list[dict]) -> pd.DataFrame:
    """Observation rows with every column of the schema."""
    frame = pd.DataFrame(rows)
    for name in tables.OBSERVATIONS.names:
        if name not in frame:
            frame[name] = None
    return pa.Table.from_pandas(
        frame[tables.OBSERVATIONS.names], schema=tables.OBSERVATIONS, preserve_index=False
    ).to_pandas()


def write_world(
    folder: Path,
    *,
    products: list[str],
    creatives: list[tuple[str, str]],
    rows: list[dict],
    text: dict[str, np.ndarray],
    image: dict[str, np.ndarray],
    hashes: dict[str, str] | None = None,
    perceptual: dict[str, str] | None = None,
    headlines: dict[str, str] | None = None,
) -> World:
    """Publish embeddings and a knowledge base made of `rows`.

    creatives: (creative_id, product_id); text by product, image by creative (all of them, also those not in the base);
    hashes: content hash by creative, its id by default; perceptual hash by content hash, far apart by default;
    headlines: by creative, none by default.
    """
    hashes = hashes or {}
    perceptual = perceptual or {}
    every = sorted(image)
    content = {name: hashes.get(name, f"hash-{name}") for name in every}
    unique = sorted(set(content.values()))
    rng = np.random.default_rng(99)
    spread = {name: f"{int(rng.integers(0, 2**63)):016x}" for name in unique}
    vector_of = {content[name]: image[name] for name in every}
    with publish(folder / "embeddings", kind="embeddings", config={"encoders": "hand", "encoder_names": {}}) as draft:
        np.save(draft.path / "texts.npy", np.stack([text[name] for name in sorted(text)]).astype(np.float32))
        np.save(draft.path / "images.npy", np.stack([vector_of[name] for name in unique]).astype(np.float32))
        pq.write_table(
            pa.table({"product_id": sorted(text), "text_row": np.arange(len(text))}), draft.path / "products.parquet"
        )
        table = {
            "content_hash": unique,
            "perceptual_hash": [perceptual.get(name, spread[name]) for name in unique],
            "image_row": np.arange(len(unique)),
            "thumbnail": [b"" for _ in unique],
        }
        pq.write_table(pa.table(table), draft.path / "images.parquet")
    source = Embeddings.open(folder / "embeddings")
    product_frame = pd.DataFrame(
        {"product_id": products, "title": products, "category": "c", "seller": None}, dtype="str"
    )
    creative_frame = pd.DataFrame(
        [(name, product, content[name]) for name, product in creatives],
        columns=["creative_id", "product_id", "content_hash"],
    )
    said = creative_frame["creative_id"].map(headlines or {})
    creative_frame = creative_frame.assign(headline=said, copy_hash=said, body=None, call_to_action=None)
    with publish(folder / "base", kind=kb.KIND, config={"encoders": "hand", "encoder_names": {}}) as draft:
        counts = build.write_tables(draft.path, product_frame, creative_frame, observations(rows), source)
        for market in counts["entries"]:
            build.write_index(draft.path, market)
        draft.counts |= counts
    return kb.KnowledgeBase(open_artifact(folder / "base", kind=kb.KIND)), source


def random_world(
    folder: Path,
    *,
    seed: int,
    products: int = 60,
    per_product: int = 3,
    markets: tuple[str, ...] = ("BR", "KR"),
    order: int = 0,
) -> World:
    """A base of random unit vectors with many exact ties: a third of the products share a text, a fifth of the images recur.

    `order` permutes the input rows, which must change nothing.
    """
    rng = np.random.default_rng(seed)
    text, image, creatives, rows = {}, {}, [], []
    pool = _unit(rng, 6, 8)
    for p in range(products):
        name = f"p{p:03d}"
        text[name] = pool[p % 6] if p % 3 == 0 else _unit(rng, 1, 8)[0]
        for c in range(per_product):
            creative = f"{name}-c{c}"
            creatives.append((creative, name))
            image[creative] = pool[(p + c) % 6] if p % 5 == 0 else _unit(rng, 1, 8)[0]
            for market in markets:
                impressions = int(rng.integers(1_000, 5_000))
                clicks = int(rng.binomial(impressions, rng.uniform(0.01, 0.05)))
                rows += [
                    {
                        "creative_id": creative,
                        "market": market,
                        "period_start": dt.date(2026, month, 1),
                        "period_end": dt.date(2026, month, 28),
                        "kind": "counts",
                        "impressions": impressions,
                        "clicks": min(clicks + month, impressions),
                    }
                    for month in (1, 2)
                ]
    for extra in range(4):  # query products that are not in the base
        text[f"q{extra}"] = _unit(rng, 1, 8)[0] if extra else pool[0]
        for c in range(3):
            image[f"q{extra}-c{c}"] = _unit(rng, 1, 8)[0] if c else pool[extra]
    shuffler = np.random.default_rng(order)
    names = sorted({product for _, product in creatives})
    if order:
        shuffler.shuffle(creatives)
        shuffler.shuffle(rows)
        shuffler.shuffle(names)
    return write_world(folder, products=names, creatives=creatives, rows=rows, text=text, image=image)


def _unit(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    vectors = rng.normal(size=(n, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """`make_world(seed=1, ...)`: a random world in a folder of its own."""
    made = 0

    def make(**options) -> World:
        nonlocal made
        made += 1
        return random_world(tmp_path / f"world-{made}", **options)

    return make


@pytest.fixture
def hand_world(tmp_path: Path) -> Callable[..., World]:
    """`hand_world(products=..., ...)`: a world written out by the test."""
    return lambda **options: write_world(tmp_path / "hand", **options)
