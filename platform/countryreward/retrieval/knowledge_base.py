"""The knowledge base (contract 3): what is known of past ads, market by market. Built from observations, never from records.

Files of the artifact (rows of the first three are shared by all markets):

    products.parquet   product_row = position: product_id, title, category, seller, text_row
    texts.npy          [unique texts, D_text] float32 unit vectors
    images.parquet     image_row = position: content_hash, perceptual_hash, thumbnail (WEBP bytes)
    images.npy         [unique images, D_image] float32 unit vectors
    entries.parquet    entry_row = position, sorted by market, product_id, creative_id: one entry per market and creative
    evidence.parquet   one row per entry and period: the observations
    indexes/KR.faiss   inner-product index over the unique texts of the market's products

A larger id is a larger row everywhere, so "id ascending" is "row ascending".
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from countryreward.data import tables
from countryreward.data.artifacts import Artifact, Manifest, open_artifact
from countryreward.data.evidence import pool
from countryreward.equations import evidence as equations
from countryreward.errors import UserError

KIND = "knowledge_base"


@dataclass(frozen=True)
class EntryEvidence:
    """Evidence of the entries of one market, as of one day. Arrays over the market's entries, [E]."""

    alive: NDArray[np.bool_]  # some evidence ended before the day
    value: NDArray[np.float64]  # raw: CTR, rate, orders or score; NaN where not alive
    lift: NDArray[np.float64]  # within-product lift; NaN where not alive
    impressions: NDArray[np.float64]  # NaN without counts


class MarketBase:
    """One market of a knowledge base: its entries, its FAISS index over texts, its evidence."""

    def __init__(
        self,
        market: str,
        *,
        entries: pd.DataFrame,
        first_row: int,
        evidence: pd.DataFrame,
        text_of_product: NDArray[np.int64],
        index: faiss.Index,
        texts: NDArray[np.float32],
    ) -> None:
        self.market = market
        self.first_row = first_row
        self.creative_id: NDArray = entries["creative_id"].to_numpy(dtype=object)
        self.product_row = entries["product_row"].to_numpy(np.int64)  # [E], ascending
        self.image_row = entries["image_row"].to_numpy(np.int64)  # [E]
        self.product_rows = np.unique(self.product_row)  # [P]
        self.first_entry = np.searchsorted(self.product_row, self.product_rows)  # entries of product p: [first, last)
        self.last_entry = np.searchsorted(self.product_row, self.product_rows, side="right")
        product_text = text_of_product[self.product_rows]
        order = np.lexsort((self.product_rows, product_text))
        self.text_rows, first = np.unique(product_text[order], return_index=True)  # [U], position in the FAISS index
        self.products_of_text = np.split(order, first[1:])  # positions in product_rows, ascending
        self.index = index
        self.texts = texts
        assert index.ntotal == len(self.text_rows), f"{market}: index and entries disagree"
        self._evidence = evidence

    @functools.lru_cache(maxsize=64)  # noqa: B019 - one instance per market, kept as long as the knowledge base
    def evidence(self, as_of: date | None) -> EntryEvidence:
        """Evidence that ended before `as_of` (all of it for None; undated evidence only for None)."""
        rows = self._evidence
        if as_of is not None:
            rows = rows[pd.to_datetime(rows["period_end"]) < pd.Timestamp(as_of)]
        entries = len(self.creative_id)
        value, lift, impressions = (np.full(entries, np.nan) for _ in range(3))
        if len(rows):
            pooled = pool(rows, ["entry"])
            rank = pooled["kind"].map({kind: position for position, kind in enumerate(tables.KINDS)})
            pooled = pooled.assign(rank=rank).sort_values(["entry", "rank"]).drop_duplicates("entry")
            for kind, group in pooled.groupby("kind"):
                at = group["entry"].to_numpy(np.int64)
                value[at] = group["value"].to_numpy(float)
                impressions[at] = group["impressions"].to_numpy(float)
                product = np.unique(self.product_row[at], return_inverse=True)[1]
                lift[at] = _lift(str(kind), group, product)
        return EntryEvidence(alive=~np.isnan(value), value=value, lift=lift, impressions=impressions)


def _lift(kind: str, group: pd.DataFrame, product: NDArray[np.int64]) -> NDArray[np.float64]:
    if kind == "counts":
        clicks, impressions = group["clicks"].to_numpy(float), group["impressions"].to_numpy(float)
        return equations.lift_from_counts(clicks, impressions, product, equations.fit_beta(clicks, impressions))
    of_kind = {
        "rate": equations.lift_from_rates,
        "orders": equations.lift_from_orders,
        "score": equations.lift_from_scores,
    }
    return of_kind[kind](group["value"].to_numpy(float), product)


class KnowledgeBase:
    """An opened knowledge base. Arrays are memory-mapped; markets are loaded when first asked for."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        folder = artifact.path
        self.products = pq.read_table(folder / "products.parquet").to_pandas()
        self.images = pq.read_table(folder / "images.parquet", columns=["content_hash", "perceptual_hash"]).to_pandas()
        self.texts: NDArray[np.float32] = np.load(folder / "texts.npy", mmap_mode="r")
        self.image_vectors: NDArray[np.float32] = np.load(folder / "images.npy", mmap_mode="r")
        self.perceptual = np.array([int(text, 16) for text in self.images["perceptual_hash"]], dtype=np.uint64)
        self._entries = pq.read_table(folder / "entries.parquet").to_pandas()
        self._product_row = {name: row for row, name in enumerate(self.products["product_id"])}
        self._image_row = {name: row for row, name in enumerate(self.images["content_hash"])}
        self._markets: dict[str, MarketBase] = {}

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> "KnowledgeBase":
        """Open a published knowledge base. Raises `UserError` when it is missing or a file does not match its hash."""
        return cls(open_artifact(path, kind=KIND, verify=verify))

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.artifact.manifest

    @property
    def version(self) -> str:
        """The version that priors and verdicts name."""
        return self.artifact.manifest.version

    @property
    def markets(self) -> list[str]:
        """Markets with at least one entry."""
        return sorted(self._entries["market"].unique())

    def product_row(self, product_id: str | None) -> int:
        """Row of a product, -1 when it is not in the base."""
        return self._product_row.get(product_id, -1) if product_id is not None else -1

    def image_row(self, content_hash: str) -> int:
        """Row of an image, -1 when it is not in the base."""
        return self._image_row.get(content_hash, -1)

    def market(self, code: str) -> MarketBase | None:
        """One market, None when the base knows nothing of it."""
        if code not in self._markets:
            rows = np.flatnonzero((self._entries["market"] == code).to_numpy())
            if len(rows) == 0:
                return None
            evidence = pq.read_table(
                self.artifact.path / "evidence.parquet",
                filters=[("entry_row", ">=", int(rows[0])), ("entry_row", "<=", int(rows[-1]))],
            ).to_pandas()
            self._markets[code] = MarketBase(
                code,
                entries=self._entries.iloc[rows],
                first_row=int(rows[0]),
                evidence=evidence.assign(entry=evidence["entry_row"] - int(rows[0])),
                text_of_product=self.products["text_row"].to_numpy(np.int64),
                index=faiss.read_index(str(self.artifact.path / "indexes" / f"{code}.faiss")),
                texts=self.texts,
            )
        return self._markets[code]

    def thumbnails(self, image_rows: Sequence[int]) -> list[bytes]:
        """Small WEBP pictures of images by row."""
        column = pq.read_table(self.artifact.path / "images.parquet", columns=["thumbnail"], memory_map=True)[
            "thumbnail"
        ]
        return [column[int(row)].as_py() for row in image_rows]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a whole dataset (texts and images of all splits), made once per encoder pair."""

    artifact: Artifact
    products: pd.DataFrame  # product_id, text_row
    images: pd.DataFrame  # content_hash, perceptual_hash, image_row; images that failed are absent
    texts: NDArray[np.float32]
    image_vectors: NDArray[np.float32]

    @classmethod
    def open(cls, path: str | Path) -> "Embeddings":
        """Open a published `embeddings` artifact."""
        artifact = open_artifact(path, kind="embeddings")
        folder = artifact.path
        return cls(
            artifact=artifact,
            products=pq.read_table(folder / "products.parquet").to_pandas(),
            images=pq.read_table(
                folder / "images.parquet", columns=["content_hash", "perceptual_hash", "image_row"]
            ).to_pandas(),
            texts=np.load(folder / "texts.npy", mmap_mode="r"),
            image_vectors=np.load(folder / "images.npy", mmap_mode="r"),
        )

    def check_encoders(self, base: KnowledgeBase) -> None:
        """Raise `UserError` when these embeddings come from other encoders than the knowledge base's."""
        mine, theirs = self.artifact.manifest.config["encoders"], base.manifest.config["encoders"]
        if mine != theirs:
            raise UserError(
                f"embeddings: made by {mine}, the knowledge base by {theirs}; embed again with the same encoders"
            )


ENTRIES = pa.schema(
    [
        pa.field("market", pa.string(), nullable=False),
        pa.field("product_row", pa.int64(), nullable=False),
        pa.field("image_row", pa.int64(), nullable=False),
        pa.field("creative_id", pa.string(), nullable=False),
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
    rows = observations.merge(creatives[["creative_id", "product_id", "content_hash"]], on="creative_id")
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
