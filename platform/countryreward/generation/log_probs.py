"""How likely a writer's own designs are, to it and to the reference: what the distance between the two is read from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from countryreward.data.design import LABELS, Design
from countryreward.generation.model_writer import ModelWriter
from countryreward.scoring.contracts import Product

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
    """rows: of CASES. products: by id. pictures: RGB uint8 [height, width, 3] by content hash. writer, reference: folders."""
    designs = [Design(**{name: row[name] for name in LABELS}) for row in rows]
    found, tokens = {}, np.zeros(len(rows), np.int64)
    for name in {writer, reference}:
        model = ModelWriter.open(name, device=device).model
        prompts = []
        for row in rows:
            product = products[row["product_id"]]
            fields = model.fields(product.title, product.category, product.attributes, row["market"], row["image_hash"])
            prompts.append(model.prompt.splice(fields))
        found[name], tokens = model.log_probs(prompts, designs, pictures)
    table = {
        "key": [row["key"] for row in rows],
        "log_prob": found[writer],
        "log_prob_reference": found[reference],
        "tokens": tokens.astype(np.int32),
    }
    pq.write_table(pa.table(table, schema=LOG_PROBS), folder / "log_probs.parquet")
