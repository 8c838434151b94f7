"""Priors for several k, each published as jobs/build_priors.py would publish it, from one search."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.retrieval.bulk_priors import build_priors_of_ks, with_ks
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.retrieval.prior import PriorRetriever
from countryreward.retrieval.retrieval_config import RetrievalConfig


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
    """(text_k, image_k) -> `folder`/kTEXT-mIMAGE. Those that are there and made from the same are left as they are."""
    inputs = {"records": records, "embeddings": source.artifact, "knowledge_base": base.artifact}
    options: dict[tuple[int, int], dict[str, Any]] = {k: {"retrieval": with_ks(config, *k), "split": "all"} for k in ks}
    at = {k: folder / f"k{k[0]}-m{k[1]}" for k in ks}
    missing = [k for k in ks if not current(at[k], kind="priors", inputs=inputs, config=options[k])]
    if missing:
        widest = with_ks(config, max(text_k for text_k, _ in missing), max(image_k for _, image_k in missing))
        frame = pd.read_parquet(records.path / "records.parquet")
        tables = build_priors_of_ks(frame, source, PriorRetriever(base, widest), missing, progress=progress)
        for k, table in tables.items():
            with publish(at[k], kind="priors", inputs=inputs, config=options[k]) as draft:
                table.write(draft.path)
                draft.counts |= table.counts
    return {k: open_artifact(at[k], kind="priors") for k in ks}
