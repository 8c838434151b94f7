"""The knowledge base (contract 3): what is known of past ads, market by market. Built from observations, never from records.

Files of the artifact (rows of the first three are shared by all markets):

    products.parquet   product_row = position: product_id, title, category, seller, text_row
    texts.npy          [unique texts, D_text] float32 unit vectors
    images.parquet     image_row = position: content_hash, perceptual_hash, thumbnail (WEBP bytes)
    images.npy         [unique images, D_image] float32 unit vectors
    entries.parquet    entry_row = position, sorted by market, product_id, creative_id: one entry per market and creative, that is
                       product, picture and words, with its headline, body and call_to_action; all its ads' evidence is pooled
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
from countryreward.data.pair_evidence import product_cells
from countryreward.data.pair_labels import spread_between
from countryreward.data.pooled_evidence import pool
from countryreward.equations import evidence as equations
from countryreward.markets import parents

KIND = "knowledge_base"


@dataclass(frozen=True)
class EntryEvidence:
    """Evidence of the entries of one market, as of one day. Arrays over the market's entries, [E]."""

    alive: NDArray[np.bool_]  # some evidence ended before the day
    living: NDArray[np.bool_]  # [P] products with an entry that is alive
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
    ) -> None:
        self.market = market
        self.first_row = first_row
        self.creative_id: NDArray = entries["creative_id"].to_numpy(dtype=object)
        self.product_row = entries["product_row"].to_numpy(np.int64)  # [E], ascending
        self.image_row = entries["image_row"].to_numpy(np.int64)  # [E]
        words = entries.get("headline", pd.Series(None, index=entries.index, dtype="str"))
        self.headline: NDArray = words.astype(object).where(words.notna(), None).to_numpy()  # [E] None: no headline
        self.product_rows = np.unique(self.product_row)  # [P]
        self.first_entry = np.searchsorted(self.product_row, self.product_rows)  # [P]
        self.entries = np.searchsorted(self.product_row, self.product_rows, side="right") - self.first_entry  # [P]
        product_text = text_of_product[self.product_rows]
        order = np.lexsort((self.product_rows, product_text))
        self.text_rows, first = np.unique(product_text[order], return_index=True)  # [U], position in the FAISS index
        self.product_order = order  # [P] positions in product_rows, those of one text side by side and ascending
        self.first_product = first  # [U] of each text, in product_order
        self.products = np.diff(first, append=len(order))  # [U] how many
        self.index = index
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
                if kind == "counts":
                    lift[at] = _lift_from_counts(rows[(rows["kind"] == kind) & rows["entry"].isin(at)], at, product)
                else:
                    lift[at] = _LIFTS[str(kind)](group["value"].to_numpy(float), product)
        alive = ~np.isnan(value)
        living = np.logical_or.reduceat(alive, self.first_entry)
        return EntryEvidence(alive=alive, living=living, value=value, lift=lift, impressions=impressions)


_LIFTS = {
    "rate": equations.lift_from_rates,
    "orders": equations.lift_from_orders,
    "score": equations.lift_from_scores,
}


def _lift_from_counts(
    rows: pd.DataFrame, entries: NDArray[np.int64], product: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Lift of each entry; rows: its observations with counts; product: a number per entry. Both ascend with the entries."""
    creative = np.searchsorted(entries, rows["entry"].to_numpy(np.int64))
    of_row = product[creative]
    between = spread_between(rows.assign(creative_id=rows["entry"]), of_row)
    clicks, impressions = rows["clicks"].to_numpy(float), rows["impressions"].to_numpy(float)
    return equations.lift_from_counts(clicks, impressions, creative, product, product_cells(rows, of_row), between)


def _mapped(path: Path) -> faiss.Index:
    """A FAISS index whose vectors stay in the file's pages; parts of an index that FAISS cannot map are read as usual."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


class KnowledgeBase:
    """An opened knowledge base; markets are loaded when first asked for.

    Vectors and indexes are memory-mapped: processes of one machine that open the same base share their pages.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        folder = artifact.path
        self.products = pq.read_table(folder / "products.parquet").to_pandas()
        self.images = pq.read_table(folder / "images.parquet", columns=["content_hash", "perceptual_hash"]).to_pandas()
        # Plain arrays over the mapped pages: np.memmap is slow to index.
        self.texts: NDArray[np.float32] = np.asarray(np.load(folder / "texts.npy", mmap_mode="r"))
        self.image_vectors: NDArray[np.float32] = np.asarray(np.load(folder / "images.npy", mmap_mode="r"))
        self.perceptual = np.array([int(text, 16) for text in self.images["perceptual_hash"]], dtype=np.uint64)
        self._entries = pq.read_table(folder / "entries.parquet").to_pandas()
        self._product_ids, self._titles = (self.products[name].astype(str).tolist() for name in ("product_id", "title"))
        self._product_row = {name: row for row, name in enumerate(self._product_ids)}
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

    @functools.cached_property
    def delivery(self) -> str:
        """Who chose what customers saw of these past ads: the least comparable of `tables.DELIVERIES`; unknown where not told."""
        path = self.artifact.path / "evidence.parquet"
        if "delivery" not in pq.read_schema(path).names:
            return "unknown"
        told = pq.read_table(path, columns=["delivery"])["delivery"].unique().to_pylist()
        return max((name or "unknown" for name in told), key=tables.DELIVERIES.index, default="unknown")

    @property
    def markets(self) -> list[str]:
        """Markets with at least one entry."""
        return sorted(self._entries["market"].unique())

    def product_row(self, product_id: str | None) -> int:
        """Row of a product, -1 when it is not in the base."""
        return self._product_row.get(product_id, -1) if product_id is not None else -1

    def product(self, row: int) -> tuple[str, str]:
        """Id and title of a product by row."""
        return self._product_ids[row], self._titles[row]

    def image_row(self, content_hash: str) -> int:
        """Row of an image, -1 when it is not in the base."""
        return self._image_row.get(content_hash, -1)

    def market(self, code: str) -> MarketBase | None:
        """One market; where the base has none of its ads, the first of its parents (`markets.parents`) of which it has some, as
        its `market` says; None when the base knows nothing of any."""
        return next((found for near in (code, *parents(code)) if (found := self._market(near))), None)

    def _market(self, code: str) -> MarketBase | None:
        if code not in self._markets:
            rows = np.flatnonzero((self._entries["market"] == code).to_numpy())
            if len(rows) == 0:
                return None
            evidence = pq.read_table(
                self.artifact.path / "evidence.parquet",
                filters=[("entry_row", ">=", int(rows[0])), ("entry_row", "<=", int(rows[-1]))],
            )
            for field in tables.OBSERVATIONS:  # columns that a base of an earlier release does not have
                if field.name not in (*evidence.column_names, "creative_id", "market", "source"):
                    evidence = evidence.append_column(field, pa.nulls(evidence.num_rows, field.type))
            evidence = evidence.to_pandas()
            self._markets[code] = MarketBase(
                code,
                entries=self._entries.iloc[rows],
                first_row=int(rows[0]),
                evidence=evidence.assign(entry=evidence["entry_row"] - int(rows[0])),
                text_of_product=self.products["text_row"].to_numpy(np.int64),
                index=_mapped(self.artifact.path / "indexes" / f"{code}.faiss"),
            )
        return self._markets[code]

    def thumbnails(self, image_rows: Sequence[int]) -> list[bytes]:
        """Small WEBP pictures of images by row."""
        column = pq.read_table(self.artifact.path / "images.parquet", columns=["thumbnail"], memory_map=True)[
            "thumbnail"
        ]
        return [column[int(row)].as_py() for row in image_rows]
