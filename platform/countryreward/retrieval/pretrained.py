"""Pretrained encoders by name or folder: sentence-transformers, CLIP, SigLIP. Imported only when one is asked for."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from countryreward.errors import UserError
from countryreward.retrieval.encoders import Vectors, revision, unit_rows


class SentenceEncoder:
    """A sentence-transformers model."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError(
                "encoders.text: sentence-transformers is not installed; pip install 'countryreward[encoders]'"
            ) from None
        where = packaged(name)
        self.model = _load(lambda: SentenceTransformer(where, device=_device()), name)
        self.fingerprint = f"sentence-transformers:{revision(where)}"
        self.dimension = int(self.encode(["dimension"]).shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`."""
        return unit_rows(self.model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False))


class _Contrastive:
    """What CLIP's and SigLIP's two towers share: one model, two processors."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModel

        self.model = _load(lambda: AutoModel.from_pretrained(name), name).to(_device()).eval()
        if not hasattr(self.model, "get_image_features"):
            raise UserError(f"encoders: {name!r} is a {type(self.model).__name__}, not a CLIP or SigLIP model")
        commit = getattr(self.model.config, "_commit_hash", None)  # set for a model that came from a hub
        self.fingerprint = f"{self.model.config.model_type}:{revision(name)}" + (f"@{commit[:12]}" if commit else "")

    def _features(self, output: Any) -> Vectors:
        pooled = output if isinstance(output, torch.Tensor) else output.pooler_output
        return unit_rows(pooled.float().cpu().numpy())


class ContrastiveTextEncoder(_Contrastive):
    """The text tower of a CLIP or SigLIP model."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        from transformers import AutoTokenizer

        self.tokenizer = _load(lambda: AutoTokenizer.from_pretrained(name), name)
        self.dimension = int(self.encode(["dimension"]).shape[1])

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `TextEncoder.encode`. Texts are cut at the tower's own length limit."""
        limit = self.model.config.text_config.max_position_embeddings
        # SigLIP was trained with padding to the full length.
        padding = "max_length" if "siglip" in self.model.config.model_type else True
        batch = self.tokenizer(list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt")
        return self._features(self.model.get_text_features(**batch.to(self.model.device)))


class ContrastiveImageEncoder(_Contrastive):
    """The image tower of a CLIP or SigLIP model."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        from transformers import AutoImageProcessor

        self.processor = _load(lambda: AutoImageProcessor.from_pretrained(name, backend="pil"), name)
        self.dimension = int(self.encode([Image.new("RGB", (32, 32))]).shape[1])

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """See `ImageEncoder.encode`."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.model.device)
        return self._features(self.model.get_image_features(pixel_values=pixels))


def packaged(name: str) -> str:
    """The folder `model` inside an installed Python package called `name`: weights that came by pip need no network, and their
    name means the same on every machine. Any other name as it is; a folder of that name comes first."""
    if not name.isidentifier() or Path(name).is_dir():
        return name
    found = find_spec(name)  # a top-level name: nothing is imported
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / "model" / "config.json").is_file():
            return str(Path(place) / "model")
    return name


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(loader: Any, name: str) -> Any:
    try:
        return loader()
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"encoders: {name!r} cannot be loaded ({first_line}); give a model folder or a name that can be reached"
        ) from None
