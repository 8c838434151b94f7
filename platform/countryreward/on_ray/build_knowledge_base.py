"""The knowledge base by Ray: tables once, then one FAISS index per market, each market in a task of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import ray

from countryreward.data.data_config import SplitConfig
from countryreward.data.dataset import Dataset
from countryreward.data.quarantine import check_counts
from countryreward.data.splits import time_windows
from countryreward.errors import UserError
from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.write_knowledge_base import select_training, write_index, write_tables


def build_knowledge_base(
    dataset: Dataset,
    units: pd.DataFrame,
    split: SplitConfig,
    source: Embeddings,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the files of a `knowledge_base` artifact from the observations of the training units. Returns counts.

    Raises `UserError` when no observation belongs to a training unit.
    """
    observations = dataset.observations
    windows = time_windows(observations, split) if split.by == "time" else None
    training = select_training(observations, dataset.creatives, units, split_by=split.by, windows=windows)
    if observations.empty:
        raise UserError("dataset: it holds no observation; its quarantine.jsonl says what was refused and why")
    if not training.any():
        raise UserError("records: no observation belongs to a training unit; lower split.test and split.validation")
    counts = write_tables(folder, dataset.products, dataset.creatives, observations[training], source)
    held_out = int((~training).sum())
    counts["observations"]["input"] += held_out
    counts["observations"]["dropped"] += held_out
    counts["observations"]["dropped_by_reason"] |= {"not_in_training": held_out}
    check_counts(counts["observations"], "knowledge base")
    markets = sorted(counts["entries"])
    metrics = JobMetrics("knowledge_base")
    pending = [ray.remote(write_index).remote(folder, market) for market in markets]
    for done, reference in enumerate(pending, start=1):
        ray.get(reference)
        metrics.rows(done, len(markets))
        if progress:
            progress(done, len(markets))
    return counts
