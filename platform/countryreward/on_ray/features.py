"""Features once, by Ray Data: the frozen vision tower over every unique image of a dataset (contract 5)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.quarantine import Quarantine, check_counts
from countryreward.errors import UserError
from countryreward.on_ray.embed_dataset import Batch, fill_rows, in_actors
from countryreward.on_ray.job_metrics import JobMetrics


class EncodeTower:
    """A Ray Data actor: image bytes to tower outputs. A row that fails carries its reason on instead of raising."""

    def __init__(self, backbone: str, dataset: str, px: int, device: str) -> None:
        from countryreward.data.images import ImageTable
        from countryreward.models.tower import VisionTower

        self.tower = VisionTower(backbone, px=px, device=device)
        self.images = ImageTable(Path(dataset))

    def __call__(self, batch: Batch) -> Batch:
        from countryreward.on_ray.embed_dataset import decoded

        pictures, reasons, values = decoded(self.images, batch["content_hash"])
        features = np.zeros((len(pictures), *self.tower.shape), dtype=np.float32)
        good = [picture for picture in pictures if picture is not None]
        if good:
            features[[picture is not None for picture in pictures]] = self.tower.encode(good)
        return {**batch, "embedding": features.reshape(len(pictures), -1), "reason": reasons, "value": values}


def build_features(
    dataset: Path,
    folder: Path,
    *,
    backbone: str,
    px: int,
    batch_size: int = 64,
    gpus_per_actor: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the files of a `features` artifact (`data/feature_store.py`). Returns counts; input = kept + quarantined."""
    from countryreward.models.tower import VisionTower

    shape = VisionTower(backbone, px=px).shape
    parts = sorted((dataset / "images").glob("part-*.parquet"))
    if not parts:
        raise UserError(f"dataset: {dataset} holds no image; its quarantine.jsonl says what was refused")
    names = sorted(pq.read_table(parts, columns=["content_hash"])["content_hash"].to_pylist())
    frame = pd.DataFrame({"row": np.arange(len(names)), "content_hash": names})
    quarantine = Quarantine("features")
    kept: list[int] = []
    metrics = JobMetrics("features")

    def collect(batch: Batch) -> None:
        for row, name, reason, value in zip(
            batch["row"], batch["content_hash"], batch["reason"], batch["value"], strict=True
        ):
            if reason:
                quarantine.add(table="images", row=int(row), key=name, reason=str(reason), field="image", value=value)
            else:
                kept.append(int(row))
        metrics.rows(len(kept) + len(quarantine.refusals), len(names), len(quarantine.refusals))
        if progress:
            progress(len(kept) + len(quarantine.refusals), len(names))

    device = "cuda" if gpus_per_actor > 0 else "cpu"
    arguments = {"backbone": backbone, "dataset": str(dataset), "px": px, "device": device}
    source = in_actors(frame, EncodeTower, arguments, batch_size=batch_size, gpus_per_actor=gpus_per_actor)
    fill_rows(folder / "features.npy", len(names), source, collect, shape=shape)
    kept.sort()
    pq.write_table(
        pa.table({"content_hash": [names[row] for row in kept], "row": np.array(kept, dtype=np.int64)}),
        folder / "index.parquet",
    )
    quarantine.write(folder)
    counts = {"images": {"input": len(names), "kept": len(kept), "dropped": 0, "quarantined": len(quarantine.refusals)}}
    check_counts(counts["images"], "features")
    return counts
