"""A dataset encoded by Ray Data, every unique text and image once, in any number of actors.

Embeddings are for search and knowledge base, outputs of the frozen vision tower for training (contract 5).
"""

import itertools
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from numpy.typing import NDArray
from PIL import Image
from ray.util.annotations import RayDeprecationWarning

from countryreward.data.decoding import ImageError, decode
from countryreward.data.images import ImageTable, thumbnail
from countryreward.data.quarantine import Quarantine, check_counts
from countryreward.errors import UserError
from countryreward.on_ray.job_metrics import JobMetrics
from countryreward.progress import ShowProgress
from countryreward.retrieval.embedding_table import product_texts
from countryreward.retrieval.encoders import ImageEncoder, load_image_encoder, load_text_encoder
from countryreward.retrieval.retrieval_config import EncodersConfig

Batch = dict[str, Any]
LoadImageEncoder = Callable[[str], ImageEncoder]


def decoded(images: ImageTable, names: Iterable[str]) -> tuple[list[Image.Image | None], list[str], list[str]]:
    """Decode images by hash: pictures (None where refused), reasons and values (empty where not). Their caps held at import."""
    pictures: list[Image.Image | None] = []
    reasons, values = [], []
    for name in names:
        try:
            pictures.append(decode(images.bytes_of(str(name)), max_bytes=2**31, max_pixels=2**31))
            reasons.append("")
            values.append("")
        except (ImageError, UserError) as error:  # UserError: a referenced image is gone or was altered
            pictures.append(None)
            reasons.append(error.reason if isinstance(error, ImageError) else "changed_image")
            values.append(error.field_value if isinstance(error, ImageError) else str(error))
    return pictures, reasons, values


def encoded(
    images: ImageTable, batch: Batch, encode: Callable[[list[Image.Image]], NDArray[np.float32]], shape: tuple[int, ...]
) -> Batch:
    """A batch of `content_hash` with `picture` (None where refused), `embedding` (flat; zeros where refused), `reason`, `value`.

    encode: n pictures -> [n, *shape].
    """
    pictures, reasons, values = decoded(images, batch["content_hash"])
    readable = [picture for picture in pictures if picture is not None]
    vectors = np.zeros((len(pictures), *shape), dtype=np.float32)
    if readable:
        vectors[[picture is not None for picture in pictures]] = encode(readable)
    flat = vectors.reshape(len(pictures), -1)
    return {**batch, "picture": pictures, "embedding": flat, "reason": reasons, "value": values}


class EmbedImages:
    """A Ray Data actor: image bytes to embedding and thumbnail. A row that fails carries its reason on instead of raising."""

    def __init__(self, encoder: str, dataset: str, load: LoadImageEncoder = load_image_encoder) -> None:
        self.encoder = load(encoder)
        self.images = ImageTable(Path(dataset))

    def __call__(self, batch: Batch) -> Batch:
        rows = encoded(self.images, batch, self.encoder.encode, (self.encoder.dimension,))
        thumbnails = [thumbnail(picture) if picture is not None else b"" for picture in rows.pop("picture")]
        return {**rows, "thumbnail": thumbnails}


class EmbedTexts:
    """A Ray Data actor: texts to embeddings."""

    def __init__(self, encoder: str) -> None:
        self.encoder = load_text_encoder(encoder)

    def __call__(self, batch: Batch) -> Batch:
        return {"row": batch["row"], "embedding": self.encoder.encode([str(text) for text in batch["text"]])}


class EncodeTower:
    """A Ray Data actor: image bytes to outputs of the frozen vision tower. A row that fails carries its reason on."""

    def __init__(self, backbone: str, dataset: str, px: int, device: str) -> None:
        from countryreward.models.tower import VisionTower

        self.tower = VisionTower(backbone, px=px, device=device)
        self.images = ImageTable(Path(dataset))

    def __call__(self, batch: Batch) -> Batch:
        rows = encoded(self.images, batch, self.tower.encode, self.tower.shape)
        del rows["picture"]
        return rows


class ImageRows:
    """What became of every image of a dataset, as batches arrive in whatever order: kept or in quarantine."""

    def __init__(self, stage: str, total: int, progress: ShowProgress | None) -> None:
        self.stage, self.total, self.progress = stage, total, progress
        self.kept: dict[int, bytes] = {}  # row -> thumbnail, empty where the stage makes none
        self.quarantine = Quarantine(stage)
        self.metrics = JobMetrics(stage)

    def collect(self, batch: Batch) -> None:
        """Note the rows of a batch; tell how many there were."""
        thumbnails = batch.get("thumbnail", [b""] * len(batch["row"]))
        for row, name, small, reason, value in zip(
            batch["row"], batch["content_hash"], thumbnails, batch["reason"], batch["value"], strict=True
        ):
            if reason:
                self.quarantine.add(
                    table="images", row=int(row), key=name, reason=str(reason), field="image", value=value
                )
            else:
                self.kept[int(row)] = small
        refused = len(self.quarantine.refusals)
        self.metrics.rows(len(self.kept) + refused, self.total, refused)
        if self.progress:
            self.progress(len(self.kept) + refused, self.total)

    def write_quarantine(self, folder: Path) -> None:
        """quarantine.jsonl in the order of the rows, whichever batch arrived first."""
        self.quarantine.refusals.sort(key=lambda refusal: refusal.row)
        self.quarantine.write(folder)

    def counts(self) -> dict[str, int]:
        """input = kept + dropped + quarantined, checked."""
        refused = len(self.quarantine.refusals)
        counts = {"input": self.total, "kept": len(self.kept), "dropped": 0, "quarantined": refused}
        check_counts(counts, self.stage)
        return counts


def embed_dataset(
    dataset: Path,
    folder: Path,
    config: EncodersConfig,
    *,
    progress: ShowProgress | None = None,
    load: LoadImageEncoder = load_image_encoder,
) -> dict[str, Any]:
    """Write the files of an `embeddings` artifact; `dataset` is a published dataset. Returns counts.

    products.parquet (product_id, text_row), texts.npy, images.parquet (content_hash, perceptual_hash, image_row, thumbnail),
    images.npy, quarantine.jsonl. Rows are placed by their hash's rank, so the files do not depend on the number of actors.
    load: makes the image encoder of `config.image` in each actor; for encoders of your own. Raises `UserError` where the dataset
    has no product with an image.
    """
    products = pq.read_table(dataset / "products.parquet").to_pandas()
    parts = sorted((dataset / "images").glob("part-*.parquet"))
    if products.empty or not parts:
        raise UserError(
            f"dataset: {dataset} holds no product with an image; its quarantine.jsonl says what was refused"
        )
    texts, text_row = np.unique(np.array(product_texts(products), dtype=object), return_inverse=True)
    pq.write_table(
        pa.table({"product_id": products["product_id"].to_list(), "text_row": text_row.astype(np.int64)}),
        folder / "products.parquet",
    )
    pool: dict[str, Any] = {"batch_size": config.batch_size, "gpus_per_actor": config.gpus_per_actor}
    text_frame = pd.DataFrame({"row": np.arange(len(texts)), "text": texts})
    text_vectors = in_actors(text_frame, EmbedTexts, {"encoder": config.text}, **pool, most=1)
    fill_rows(folder / "texts.npy", len(texts), text_vectors)

    catalogue = pq.read_table(parts, columns=["content_hash", "perceptual_hash"])
    images = catalogue.to_pandas().sort_values("content_hash").reset_index(drop=True)
    arguments = {"encoder": config.image, "dataset": str(dataset), "load": load}
    frame = pd.DataFrame({"row": np.arange(len(images)), "content_hash": images["content_hash"]})
    rows = ImageRows("embeddings", len(images), progress)
    fill_rows(folder / "images.npy", len(images), in_actors(frame, EmbedImages, arguments, **pool), rows.collect)
    order = sorted(rows.kept)
    kept = images.iloc[order]
    table = {
        "content_hash": kept["content_hash"].to_list(),
        "perceptual_hash": kept["perceptual_hash"].to_list(),
        "image_row": np.array(order, dtype=np.int64),
        "thumbnail": pa.array([rows.kept[row] for row in order], type=pa.binary()),
    }
    pq.write_table(pa.table(table), folder / "images.parquet")
    rows.write_quarantine(folder)
    of_texts = {"input": len(texts), "kept": len(texts), "dropped": 0, "quarantined": 0}
    return {"texts": of_texts, "images": rows.counts()}


def build_features(
    dataset: Path,
    folder: Path,
    *,
    backbone: str,
    px: int,
    batch_size: int = 64,
    gpus_per_actor: float = 0.0,
    progress: ShowProgress | None = None,
) -> dict[str, Any]:
    """Write the files of a `features` artifact (contract 5; read by `data/feature_store.py`). Returns counts.

    features.npy [images, patches, width] float32 of the frozen tower, index.parquet (content_hash, row), quarantine.jsonl. Rows
    stand in the order of their hashes. Raises `UserError` where the dataset has no image.
    """
    from countryreward.models.tower import VisionTower

    shape = VisionTower(backbone, px=px).shape
    parts = sorted((dataset / "images").glob("part-*.parquet"))
    if not parts:
        raise UserError(f"dataset: {dataset} holds no image; its quarantine.jsonl says what was refused")
    names = sorted(pq.read_table(parts, columns=["content_hash"])["content_hash"].to_pylist())
    frame = pd.DataFrame({"row": np.arange(len(names)), "content_hash": names})
    device = "cuda" if gpus_per_actor > 0 else "cpu"
    arguments = {"backbone": backbone, "dataset": str(dataset), "px": px, "device": device}
    source = in_actors(frame, EncodeTower, arguments, batch_size=batch_size, gpus_per_actor=gpus_per_actor)
    rows = ImageRows("features", len(names), progress)
    fill_rows(folder / "features.npy", len(names), source, rows.collect, shape=shape)
    order = sorted(rows.kept)
    pq.write_table(
        pa.table({"content_hash": [names[row] for row in order], "row": np.array(order, dtype=np.int64)}),
        folder / "index.parquet",
    )
    rows.write_quarantine(folder)
    return {"images": rows.counts()}


def in_actors(
    frame: pd.DataFrame,
    actor: type,
    arguments: dict[str, Any],
    *,
    batch_size: int,
    gpus_per_actor: float = 0.0,
    most: int | None = None,
    blocks: int | None = None,
) -> ray.data.Dataset:
    """`actor` over the rows of `frame` in a pool of at most `most` (default: one per processor or GPU share).

    blocks: how many pieces are handed out, and give their results, one by one; default: a few per actor.
    """
    per_actor, resource = (gpus_per_actor, "GPU") if gpus_per_actor else (1.0, "CPU")
    most = most or max(1, int(ray.cluster_resources().get(resource, 1) / per_actor))
    pieces = blocks or max(1, min(len(frame) // batch_size, 4 * most))
    # Cut here and not by `repartition`, whose tasks wait for ever where the first actor holds the only processor.
    cuts = np.linspace(0, len(frame), min(pieces, len(frame)) + 1).astype(int)
    source = ray.data.from_pandas([frame.iloc[start:end] for start, end in itertools.pairwise(cuts)])
    # Restarts are for lost nodes; on one node they only make Ray print an error about its own arguments.
    restarts: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0} if len(ray.nodes()) == 1 else {}
    with warnings.catch_warnings():
        # Ray 2.60 deprecates free remote arguments for named ones, but has no named one for restarts yet.
        warnings.simplefilter("ignore", category=RayDeprecationWarning)
        return source.map_batches(
            actor,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            batch_size=batch_size,
            zero_copy_batch=False,
            num_gpus=gpus_per_actor or None,
            **restarts,
        )


def fill_rows(
    path: Path,
    rows: int,
    source: ray.data.Dataset,
    collect: Callable[[Batch], None] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Write the `embedding` column into a memory-mapped array, each at its own `row`, in whatever order batches arrive.

    `shape` of one row; default: flat, as wide as the column.
    """
    target: np.memmap | None = None
    batches: Any = source.iter_batches(batch_size=None, batch_format="numpy")
    for batch in batches:
        vectors = np.stack([np.asarray(row, dtype=np.float32) for row in batch["embedding"]])
        vectors = vectors.reshape(len(vectors), *(shape or vectors.shape[1:]))
        if target is None:
            target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, *vectors.shape[1:]))
        target[np.asarray(batch["row"], dtype=np.int64)] = vectors
        if collect:
            collect(batch)
    assert target is not None, f"{path.name}: nothing to embed"
    target.flush()
