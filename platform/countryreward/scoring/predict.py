"""Records to prompts with their targets, to batches with their images, and to logits: for training and evaluation.

Legend: B pairs, M different images, P patches of all of them, W the tower's width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from countryreward.data.creative_identity import copies_of
from countryreward.data.decoding import decode
from countryreward.data.feature_store import FeatureStore
from countryreward.data.images import ImageTable
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.models.pair_batch import Batch, collate
from countryreward.models.processor import PairProcessor, pixels
from countryreward.models.reward_model import CountryRewardModel
from countryreward.models.reward_prompts import SPANS, Example, Grid, PairFields, PromptBuilder
from countryreward.models.tower import tower_hash


@dataclass(frozen=True)
class Examples:
    """Prompts of records in the order of `records`, which lacks those that were refused."""

    prompts: list[Example]
    records: pd.DataFrame
    copy: bool = False
    """Whether any of the prompts holds the words of an ad."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every prompt, for bucketing."""
        return np.array([len(prompt.ids) for prompt in self.prompts], dtype=np.int64)

    @property
    def targets(self) -> NDArray[np.float32]:
        """What training learns from (`records.label_kind`)."""
        return self.records["target"].to_numpy(np.float32)


def build_examples(
    records: pd.DataFrame,
    products: pd.DataFrame,
    priors: pd.DataFrame | None,
    builder: PromptBuilder,
    *,
    grid: Grid,
    quarantine: Quarantine,
    creatives: pd.DataFrame | None = None,
    mask_country: bool = False,
    mask_prior: bool = False,
    mask_images: bool = False,
    swap: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Examples:
    """One prompt per record. A record whose prompt is refused (too long, another market in its text) is quarantined.

    priors: log_odds and letter by record_id; None: no record has a prior. creatives: `tables.CREATIVES`, whose words stand in the
    prompts; None: they do not. `mask_*`: the masked variants of the evaluation.
    swap: ask about (B, A) instead, prior and all.
    """
    of_product = {row["product_id"]: row for row in products.to_dict("records")}
    of_record = {}
    if priors is not None and not mask_prior:
        of_record = {row["record_id"]: row for row in priors[["record_id", "log_odds", "letter"]].to_dict("records")}
    copies = {} if creatives is None else copies_of(creatives)
    prompts, kept = [], []
    for position, row in enumerate(records.to_dict("records")):
        product, prior = of_product[row["product_id"]], of_record.get(row["record_id"], {})
        letter = prior.get("letter")
        try:
            fields = PairFields(
                title=product["title"],
                category=product["category"] if isinstance(product["category"], str) else None,
                attributes=dict(product["attributes"]) if product["attributes"] is not None else {},
                tags=list(product["tags"]) if product["tags"] is not None else [],
                market=row["market"],
                images=(row["hash_a"], row["hash_b"]),
                grids=(grid, grid),
                copies=(copies.get(row["creative_a"]), copies.get(row["creative_b"])) if copies else (None, None),
                log_odds=float(prior.get("log_odds", 0.0)),
                letter=letter if isinstance(letter, str) else None,
                mask_country=mask_country,
                mask_images=mask_images,
            )
            prompts.append(builder.example(fields.swapped() if swap else fields))
            kept.append(position)
        except UserError as error:
            quarantine.add(
                table="records",
                row=position,
                key=row["record_id"],
                reason="refused_prompt",
                field="prompt",
                value=str(error),
            )
        if progress and position % 500 == 0:
            progress(position, len(records))
    words = any(prompt.spans[SPANS.index("copy_a") :].any() for prompt in prompts)
    return Examples(prompts=prompts, records=records.iloc[kept].reset_index(drop=True), copy=words)


class ImageInputs(Protocol):
    """Images by content hash, as keyword arguments of the model."""

    def __contains__(self, content_hash: object) -> bool:
        """Whether it can be read."""
        ...

    def read(self, content_hashes: Sequence[str]) -> dict[str, Tensor]:
        """`features` or `pixel_values` of these images, in order; nothing for no image."""
        ...


class StoredFeatures:
    """Features of a store."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __contains__(self, content_hash: object) -> bool:
        """See `ImageInputs`."""
        return content_hash in self.store

    def read(self, content_hashes: Sequence[str]) -> dict[str, Tensor]:
        """{"features": float32 [M, P, W]}."""
        if not content_hashes:
            return {}
        return {"features": torch.from_numpy(self.store.read(list(content_hashes)).astype(np.float32, copy=False))}


class DecodedPictures:
    """Pictures decoded at every call, for the model's own tower to encode: what a trained tower needs."""

    def __init__(self, table: ImageTable, processor: PairProcessor, *, px: int) -> None:
        self.table, self.processor, self.px = table, processor, px

    def __contains__(self, content_hash: object) -> bool:
        """See `ImageInputs`."""
        return content_hash in self.table

    def read(self, content_hashes: Sequence[str]) -> dict[str, Tensor]:
        """{"pixel_values": float32 [M P, values of a patch]}."""
        if not content_hashes:
            return {}
        limits = {"max_bytes": 2**30, "max_pixels": 2**40}  # the importer has checked them against its own
        pictures = [decode(self.table.bytes_of(name), **limits) for name in content_hashes]
        values, _ = pixels(self.processor, pictures, self.px)
        return {"pixel_values": values}


def with_images(records: pd.DataFrame, images: ImageInputs, quarantine: Quarantine) -> pd.DataFrame:
    """The records both of whose images can be read; the others go to quarantine."""
    known = records["hash_a"].map(images.__contains__) & records["hash_b"].map(images.__contains__)
    for position in (~known).to_numpy().nonzero()[0]:
        row = records.iloc[position]
        lost = row["hash_a"] if row["hash_a"] not in images else row["hash_b"]
        quarantine.add(
            table="records",
            row=int(position),
            key=row["record_id"],
            reason="undecodable_image",
            field="image",
            value=lost,
        )
    return records[known].reset_index(drop=True)


def image_inputs(
    features: str, dataset: Path, model: CountryRewardModel, processor: PairProcessor, *, px: int
) -> ImageInputs:
    """Stored features of exactly this tower, or pictures that are decoded at every read."""
    if features:
        fingerprint = f"{tower_hash(model.backbone.visual)}/{px}px"
        return StoredFeatures(FeatureStore.open(features, tower=fingerprint))
    return DecodedPictures(ImageTable(dataset), processor, px=px)


@dataclass(frozen=True)
class Loader:
    """Batches of examples by their positions."""

    examples: Examples
    images: ImageInputs
    pad_id: int

    def load(
        self,
        positions: NDArray[np.int64],
        device: torch.device | str = "cpu",
        *,
        swap: NDArray[np.bool_] | None = None,
    ) -> tuple[Batch, dict[str, Tensor], Tensor]:
        """The batch, its images as keyword arguments of the model, and the targets [B]. swap: see `models.batch.collate`."""
        batch = collate([self.examples.prompts[position] for position in positions], self.pad_id, swap=swap)
        images = {name: value.to(device) for name, value in self.images.read(batch.images).items()}
        return batch.to(device), images, torch.from_numpy(self.examples.targets[positions]).to(device)


@torch.inference_mode()
def judge(
    model: nn.Module,
    loader: Loader,
    *,
    positions: NDArray[np.int64] | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Logits of the examples at `positions` (all: None), in that order. Scores do not depend on the batching, by length."""
    device = next(model.parameters()).device
    positions = np.arange(len(loader.examples.prompts)) if positions is None else positions
    order = np.argsort(loader.examples.lengths[positions], kind="stable")
    logits = np.zeros(len(order))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch, images, _ = loader.load(positions[chosen], device)
        logits[chosen] = model(batch, **images).logit.float().cpu().numpy()
        if progress:
            progress(min(start + batch_size, len(order)), len(order))
    return logits
