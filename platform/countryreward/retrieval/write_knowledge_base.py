"""Writing the files of a knowledge base (layout: `retrieval/knowledge_base.py`) from training observations."""

from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data import tables
from countryreward.data.creative_identity import with_keys
from countryreward.retrieval.embedding_table import Embeddings

ENTRIES = pa.schema(
    [
        pa.field("market", pa.string(), nullable=False),
        pa.field("product_row", pa.int64(), nullable=False),
        pa.field("image_row", pa.int64(), nullable=False),
        pa.field("creative_id", pa.string(), nullable=False),
        *(tables.CREATIVES.field(name) for name in ("headline", "body", "call_to_action")),
    ]
)
EVIDENCE = pa.schema(
    [pa.field("entry_row", pa.int64(), nullable=False)]
    + [
        tables.OBSERVATIONS.field(name)
        for name in tables.OBSERVATIONS.names
        if name not in ("creative_id", "market", "source")
    ]
)


def select_training(
    observations: pd.DataFrame,
    creatives: pd.DataFrame,
    units: pd.DataFrame,
    *,
    split_by: str,
    windows: "pd.Series[str] | None",
) -> "pd.Series[bool]":
    """Which observations may enter the knowledge base: those whose unit (product, image, window) is in train."""
    train = set(units.loc[units["split"] == "train", "unit"])
    if split_by == "time":
        assert windows is not None
        return windows.isin(train)
    column = {"product": "product_id", "image": "content_hash"}[split_by]
    return observations["creative_id"].map(creatives.set_index("creative_id")[column]).isin(train)


def write_tables(
    folder: Path,
    dataset_products: pd.DataFrame,
    creatives: pd.DataFrame,
    observations: pd.DataFrame,
    source: Embeddings,
) -> dict:
    """Write everything but the FAISS indexes from training observations. Returns counts; input = kept + dropped + quarantined.

    An observation whose image could not be embedded is quarantined by the embedding stage already and dropped here by count.
    """
    ads = with_keys(creatives)
    rows = observations.merge(ads[["creative_id", "product_id", "content_hash", "canonical"]], on="creative_id")
    rows = rows.assign(creative_id=rows["canonical"]).drop(columns="canonical")
    embedded = rows["content_hash"].isin(source.images["content_hash"])
    kept = rows[embedded]
    used_images = source.images[source.images["content_hash"].isin(kept["content_hash"])].sort_values("content_hash")
    products = dataset_products[dataset_products["product_id"].isin(kept["product_id"])].sort_values("product_id")
    text_row = products["product_id"].map(source.products.set_index("product_id")["text_row"]).to_numpy(np.int64)
    used_texts, text_row = np.unique(text_row, return_inverse=True)
    np.save(folder / "texts.npy", source.texts[used_texts])
    np.save(folder / "images.npy", source.image_vectors[used_images["image_row"].to_numpy(np.int64)])
    _write(
        folder / "products.parquet", products[["product_id", "title", "category", "seller"]].assign(text_row=text_row)
    )
    thumbnails = pq.read_table(
        source.artifact.path / "images.parquet", columns=["content_hash", "thumbnail"]
    ).to_pandas()
    _write(
        folder / "images.parquet",
        used_images[["content_hash", "perceptual_hash"]].merge(thumbnails, on="content_hash", how="left"),
    )
    product_rows = {name: row for row, name in enumerate(products["product_id"])}
    image_rows = {name: row for row, name in enumerate(used_images["content_hash"])}
    kept = kept.assign(product_row=kept["product_id"].map(product_rows), image_row=kept["content_hash"].map(image_rows))
    entries = kept[["market", "product_row", "image_row", "product_id", "creative_id"]].drop_duplicates()
    entries = entries.sort_values(["market", "product_id", "creative_id"]).reset_index(drop=True)
    words = ads.set_index("creative_id").reindex(columns=["headline", "body", "call_to_action"])
    entries = entries.join(words, on="creative_id")
    entry_row = entries.assign(entry_row=np.arange(len(entries)))[["market", "creative_id", "entry_row"]]
    evidence = kept.merge(entry_row, on=["market", "creative_id"]).sort_values(
        ["entry_row", "period_start", "period_end"]
    )
    pq.write_table(
        pa.Table.from_pandas(entries[ENTRIES.names], schema=ENTRIES, preserve_index=False), folder / "entries.parquet"
    )
    pq.write_table(
        pa.Table.from_pandas(evidence[EVIDENCE.names], schema=EVIDENCE, preserve_index=False),
        folder / "evidence.parquet",
        row_group_size=50_000,
    )
    dropped = int((~embedded).sum())
    return {
        "observations": {
            "input": len(rows),
            "kept": len(kept),
            "dropped": dropped,
            "quarantined": 0,
            "dropped_by_reason": {"no_embedding": dropped},
        },
        "products": len(products),
        "images": len(used_images),
        "entries": {str(name): int(count) for name, count in entries["market"].value_counts().sort_index().items()},
    }


def write_index(folder: Path, market: str) -> int:
    """Write one market's FAISS index over the unique texts of its products, rows ascending. Returns its size."""
    products = (
        pq.read_table(folder / "products.parquet", columns=["text_row"]).to_pandas()["text_row"].to_numpy(np.int64)
    )
    entries = pq.read_table(
        folder / "entries.parquet", filters=[("market", "=", market)], columns=["product_row"]
    ).to_pandas()
    text_rows = np.unique(products[entries["product_row"].unique()])
    texts = np.load(folder / "texts.npy", mmap_mode="r")
    index = faiss.IndexFlatIP(texts.shape[1])
    index.add(np.ascontiguousarray(texts[text_rows]))  # pyright: ignore[reportCallIssue]
    (folder / "indexes").mkdir(exist_ok=True)
    faiss.write_index(index, str(folder / "indexes" / f"{market}.faiss"))
    return index.ntotal


def _write(path: Path, frame: pd.DataFrame) -> None:
    pq.write_table(pa.Table.from_pandas(frame.reset_index(drop=True), preserve_index=False), path)
