"""Priors of many records at once: one search per product and market, shared by all its pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from countryreward.data.quarantine import Quarantine
from countryreward.retrieval.embeddings import Embeddings
from countryreward.retrieval.knowledge_base import MarketBase
from countryreward.retrieval.prior import Prior, PriorRetriever, retrieval_hash
from countryreward.retrieval.search import Query


@dataclass
class PriorTable:
    """Priors of records, the columns of `tables.PRIORS`, with what was refused."""

    frame: pd.DataFrame
    counts: dict[str, Any]
    quarantine: Quarantine = field(default_factory=lambda: Quarantine("priors"))


def queries(records: pd.DataFrame, source: Embeddings) -> Iterator[tuple[Query, pd.DataFrame, list[tuple[int, int]]]]:
    """Group records by product, market and day: a query with the group's images, its records and their (a, b) positions."""
    text_row = dict(zip(source.products["product_id"], source.products["text_row"], strict=True))
    image_row = dict(zip(source.images["content_hash"], source.images["image_row"], strict=True))
    perceptual = {
        name: int(text, 16)
        for name, text in zip(source.images["content_hash"], source.images["perceptual_hash"], strict=True)
    }
    keys: Any
    for keys, group in records.groupby(["product_id", "market", "as_of"], dropna=False, sort=True):
        product_id, market, as_of = keys
        names = sorted(set(group["hash_a"]) | set(group["hash_b"]))
        place = {name: position for position, name in enumerate(names)}
        query = Query(
            market=str(market),
            text=np.asarray(source.texts[text_row[product_id]]),
            images=np.asarray(source.image_vectors[[image_row[name] for name in names]]),
            content_hashes=names,
            perceptual_hashes=np.array([perceptual[name] for name in names], dtype=np.uint64),
            product_id=str(product_id),
            as_of=as_of if isinstance(as_of, date) and not pd.isna(as_of) else None,
        )
        pairs = [(place[a], place[b]) for a, b in zip(group["hash_a"], group["hash_b"], strict=True)]
        yield query, group, pairs


def build_priors(
    records: pd.DataFrame,
    source: Embeddings,
    retriever: PriorRetriever,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PriorTable:
    """Priors of `records` (contract 4). A record whose image has no embedding is quarantined. input = kept + quarantined."""
    source.check_encoders(retriever.base)
    table = PriorTable(frame=pd.DataFrame(), counts={})
    known = set(source.images["content_hash"])
    usable = records["hash_a"].isin(known) & records["hash_b"].isin(known)
    for position in np.flatnonzero(~usable.to_numpy()):
        row = records.iloc[position]
        missing = row["hash_a"] if row["hash_a"] not in known else row["hash_b"]
        table.quarantine.add(
            table="records",
            row=int(position),
            key=row["record_id"],
            reason="undecodable_image",
            field="image",
            value=missing,
        )
    rows: list[dict[str, Any]] = []
    name = retrieval_hash(retriever.config)
    for query, group, pairs in queries(records[usable], source):
        market = retriever.base.market(query.market)
        for record_id, prior in zip(group["record_id"], retriever.priors(query, pairs), strict=True):
            rows.append(_row(record_id, prior, market, retriever.base.version, name))
        if progress:
            progress(len(rows), int(usable.sum()))
    table.frame = pd.DataFrame(rows, columns=list(_COLUMNS)).sort_values("record_id").reset_index(drop=True)
    table.counts = {
        "records": {"input": len(records), "kept": len(rows), "dropped": 0, "quarantined": int((~usable).sum())},
        "without_evidence": int((table.frame["n"] == 0).sum()),
    }
    return table


_COLUMNS = ("record_id", "knowledge_base", "retrieval", "log_odds", "n", "letter", "neighbours_a", "neighbours_b")


def _row(record_id: str, prior: Prior, market: MarketBase | None, version: str, retrieval: str) -> dict[str, Any]:
    ids = (lambda entries: list(market.creative_id[entries])) if market is not None else (lambda entries: [])
    values = (
        record_id,
        version,
        retrieval,
        prior.log_odds,
        prior.n,
        prior.letter,
        ids(prior.entries_a),
        ids(prior.entries_b),
    )
    return dict(zip(_COLUMNS, values, strict=True))
