"""Priors of many records at once, as a table or published: one search per product and market, shared by all its pairs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data import tables
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.data.quarantine import Quarantine
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.knowledge_base import KnowledgeBase, MarketBase
from countryreward.retrieval.prior import Prior, PriorRetriever, retrieval_hash
from countryreward.retrieval.retrieval_config import RetrievalConfig
from countryreward.retrieval.search import Query


@dataclass
class PriorTable:
    """Priors of records (the columns of `tables.PRIORS`), their counts, and the records that were refused."""

    frame: pd.DataFrame
    counts: dict[str, Any]
    quarantine: Quarantine = field(default_factory=lambda: Quarantine("priors"))

    def write(self, folder: Path) -> None:
        """priors.parquet and quarantine.jsonl."""
        table = pa.Table.from_pandas(self.frame, schema=tables.PRIORS, preserve_index=False)
        pq.write_table(table, folder / "priors.parquet")
        self.quarantine.write(folder)


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
    search = retriever.config.search
    k = (search.text_k, search.image_k)
    return build_priors_of_ks(records, source, retriever, [k], progress=progress)[k]


def build_priors_of_ks(
    records: pd.DataFrame,
    source: Embeddings,
    retriever: PriorRetriever,
    ks: Sequence[tuple[int, int]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[int, int], PriorTable]:
    """Priors for several (text_k, image_k) from one search each, exactly as if each had been searched for by itself.

    `retriever` searches with the largest of the text_k; a smaller one drops candidates by the rank of their product, and the
    images are chosen anew among the rest. (A prefix of the image list would be wrong: it holds images of dropped products.)
    """
    source.check_encoders(retriever.base)
    search = retriever.config.search
    assert max(text_k for text_k, _ in ks) <= search.text_k, "the search must reach as far as the largest k"
    quarantine = Quarantine("priors")
    embedded = set(source.images["content_hash"])
    usable = records["hash_a"].isin(embedded) & records["hash_b"].isin(embedded)
    for position in np.flatnonzero(~usable.to_numpy()):
        row = records.iloc[position]
        missing = row["hash_a"] if row["hash_a"] not in embedded else row["hash_b"]
        quarantine.add(
            table="records",
            row=int(position),
            key=row["record_id"],
            reason="undecodable_image",
            field="image",
            value=missing,
        )
    names = {k: retrieval_hash(with_ks(retriever.config, *k)) for k in ks}
    rows: dict[tuple[int, int], list[dict[str, Any]]] = {k: [] for k in ks}
    done = 0
    for query, group, pairs in queries(records[usable], source):
        market, candidates = retriever.base.market(query.market), retriever.search.candidates(query)
        for record_id, (a, b) in zip(group["record_id"], pairs, strict=True):
            for k, name in names.items():
                prior = retriever.prior(query, candidates, a, b, text_k=k[0], image_k=k[1])
                rows[k].append(_row(record_id, prior, market, retriever.base.version, name))
        done += len(pairs)
        if progress:
            progress(done, int(usable.sum()))
    return {k: _table(rows_of_k, len(records), quarantine) for k, rows_of_k in rows.items()}


def publish_priors_of_ks(
    folder: Path,
    ks: Sequence[tuple[int, int]],
    config: RetrievalConfig,
    *,
    records: Artifact,
    source: Embeddings,
    base: KnowledgeBase,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[int, int], Artifact]:
    """Publish priors for several (text_k, image_k) from one search, each as jobs/build_priors.py would, at `folder`/kTEXT-mIMAGE.

    Those that are there and made from the same are left as they are. Returns all of them by (text_k, image_k).
    """
    inputs = {"records": records, "embeddings": source.artifact, "knowledge_base": base.artifact}
    options: dict[tuple[int, int], dict[str, Any]] = {k: {"retrieval": with_ks(config, *k), "split": "all"} for k in ks}
    places = {k: folder / f"k{k[0]}-m{k[1]}" for k in ks}
    missing = [k for k in ks if not current(places[k], kind="priors", inputs=inputs, config=options[k])]
    if missing:
        widest = with_ks(config, max(text_k for text_k, _ in missing), max(image_k for _, image_k in missing))
        frame = pd.read_parquet(records.path / "records.parquet")
        tables = build_priors_of_ks(frame, source, PriorRetriever(base, widest), missing, progress=progress)
        for k, table in tables.items():
            with publish(places[k], kind="priors", inputs=inputs, config=options[k]) as draft:
                table.write(draft.path)
                draft.counts |= table.counts
    return {k: open_artifact(places[k], kind="priors") for k in ks}


def with_ks(config: RetrievalConfig, text_k: int, image_k: int) -> RetrievalConfig:
    """The same retrieval with other k and m."""
    return replace(config, search=replace(config.search, text_k=text_k, image_k=image_k))


def _table(rows: list[dict[str, Any]], records: int, quarantine: Quarantine) -> PriorTable:
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).sort_values("record_id").reset_index(drop=True)
    counts = {
        "records": {"input": records, "kept": len(rows), "dropped": 0, "quarantined": len(quarantine.refusals)},
        "without_evidence": int((frame["n"] == 0).sum()),
    }
    return PriorTable(frame, counts, quarantine)


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
