"""A published design writer, opened to write, and how likely its designs are to it and to a reference."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.data.design import LABELS, Design
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignRequest, Written
from countryreward.models.design_prompt import read_design
from countryreward.models.design_writer import DesignWriterModel
from countryreward.models.reward_config import SamplingConfig
from countryreward.scoring.contracts import Product

KIND = "design_writer"
"""Kind of the artifact that jobs/train_designer.py and jobs/align_designs.py publish."""
ABOUT = "writer.json"


class ModelWriter:
    """A `DesignWriter`: Qwen2-VL, as trained."""

    def __init__(self, model: DesignWriterModel, sampling: SamplingConfig, *, trained: str) -> None:
        """trained: version of the weights."""
        self.model, self.sampling = model, sampling
        options = {name: value for name, value in asdict(sampling).items() if name != "batch_size"}
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
        self._version = f"{trained}-{digest[:8]}"

    @classmethod
    def open(
        cls, folder: str | Path, *, device: torch.device | str = "cpu", sampling: SamplingConfig | None = None
    ) -> "ModelWriter":
        """Every file is checked against its hash. Raises `UserError` naming the one that is missing or altered."""
        artifact = open_writer(folder)
        about = json.loads((artifact.path / ABOUT).read_text(encoding="utf-8"))
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        model = DesignWriterModel.load(artifact.path, px=about["image_px"], device=device, dtype=dtype)
        return cls(model, sampling or SamplingConfig(), trained=artifact.manifest.version)

    @property
    def version(self) -> str:
        """Of weights and sampling."""
        return self._version

    def write(self, requests: Sequence[DesignRequest], /) -> list[Written]:
        """One answer per request, in order. Raises `UserError`, naming the field, for a product that cannot be asked about."""
        prompts = []
        for request in requests:
            product = request.product
            fields = self.model.fields(
                product.title, product.category, product.attributes, request.market, request.image_hash
            )
            prompts.append(self.model.prompt.splice(fields))
        images = {request.image_hash: request.image for request in requests}
        answers = self.model.generate(prompts, images, [request.seed for request in requests], self.sampling)
        readings = [read_design(text) for text in answers]
        return [
            Written(text=text, design=reading.design, repaired=reading.repaired, reason=reading.reason)
            for text, reading in zip(answers, readings, strict=True)
        ]


def open_writer(folder: str | Path) -> Artifact:
    """A published writer's folder, checked. Raises `UserError`."""
    artifact = open_artifact(folder, kind=KIND)
    if not (artifact.path / ABOUT).is_file():
        raise UserError(f"writer: {folder} has no {ABOUT}; run jobs/train_designer.py again")
    return artifact


LOG_PROBS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the case
        pa.field("log_prob", pa.float64(), nullable=False),  # natural log, summed over the design's tokens
        pa.field("log_prob_reference", pa.float64(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)
"""log_probs.parquet of a cases artifact. The probabilities are those of temperature 1."""


def write_log_probs(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    products: Mapping[str, Product],
    pictures: Mapping[str, np.ndarray],
    *,
    writer: str,
    reference: str,
    device: torch.device | str = "cpu",
) -> None:
    """Writes log_probs.parquet into `folder`: of every case's design, its log-probability to the writer and to the reference.

    rows: of CASES. products: by id. pictures: RGB uint8 [height, width, 3] by content hash. writer, reference: folders."""
    designs = [Design(**{name: row[name] for name in LABELS}) for row in rows]
    log_probs, tokens = {}, np.zeros(len(rows), np.int64)
    for name in {writer, reference}:
        model = ModelWriter.open(name, device=device).model
        prompts = []
        for row in rows:
            product = products[row["product_id"]]
            fields = model.fields(product.title, product.category, product.attributes, row["market"], row["image_hash"])
            prompts.append(model.prompt.splice(fields))
        log_probs[name], tokens = model.log_probs(prompts, designs, pictures)
    table = {
        "key": [row["key"] for row in rows],
        "log_prob": log_probs[writer],
        "log_prob_reference": log_probs[reference],
        "tokens": tokens.astype(np.int32),
    }
    pq.write_table(pa.table(table, schema=LOG_PROBS), folder / "log_probs.parquet")
