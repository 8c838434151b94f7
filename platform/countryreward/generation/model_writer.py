"""A published design writer, opened to write."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignRequest, Written
from countryreward.models.design_prompt import read_design
from countryreward.models.design_writer import DesignWriterModel
from countryreward.models.reward_config import SamplingConfig

KIND = "design_writer"
"""Kind of the artifact that jobs/train_designer.py and jobs/align_designs.py publish."""
ABOUT = "writer.json"


class ModelWriter:
    """A `DesignWriter`: Qwen2-VL, as trained."""

    def __init__(self, model: DesignWriterModel, sampling: SamplingConfig, *, trained: str) -> None:
        """trained: version of the weights."""
        self.model, self.sampling = model, sampling
        options = {name: value for name, value in asdict(sampling).items() if name != "batch_size"}
        told = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
        self._version = f"{trained}-{told[:8]}"

    @classmethod
    def open(
        cls, folder: str | Path, *, device: torch.device | str = "cpu", sampling: SamplingConfig | None = None
    ) -> "ModelWriter":
        """Every file is checked against its hash. Raises `UserError` naming the one that is missing or altered."""
        found = open_writer(folder)
        about = json.loads((found.path / ABOUT).read_text(encoding="utf-8"))
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        model = DesignWriterModel.load(found.path, px=about["image_px"], device=device, dtype=dtype)
        return cls(model, sampling or SamplingConfig(), trained=found.manifest.version)

    @property
    def version(self) -> str:
        """Of weights and sampling."""
        return self._version

    def write(self, requests: Sequence[DesignRequest], /) -> list[Written]:
        """See `DesignWriter`."""
        prompts = []
        for request in requests:
            product = request.product
            fields = self.model.fields(
                product.title, product.category, product.attributes, request.market, request.image_hash
            )
            prompts.append(self.model.prompt.splice(fields))
        images = {request.image_hash: request.image for request in requests}
        answers = self.model.generate(prompts, images, [request.seed for request in requests], self.sampling)
        found = [(text, read_design(text)) for text in answers]
        return [
            Written(text=text, design=read.design, repaired=read.repaired, reason=read.reason) for text, read in found
        ]


def open_writer(folder: str | Path) -> Artifact:
    """A published writer's folder, checked. Raises `UserError`."""
    found = open_artifact(folder, kind=KIND)
    if not (found.path / ABOUT).is_file():
        raise UserError(f"writer: {folder} has no {ABOUT}; run jobs/train_designer.py again")
    return found
