"""Text and image encoders of CLIP and SigLIP: two towers trained to agree."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from countryreward.errors import UserError
from countryreward.retrieval.encoders.base import Vectors, composed, unit_rows
from countryreward.retrieval.encoders.pretrained_weights import best_device, load_pretrained, revision


class _Contrastive:
    """What CLIP's and SigLIP's two towers share: one model, two processors."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModel

        self.model = load_pretrained(lambda: AutoModel.from_pretrained(name), name).to(best_device()).eval()
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

        self.tokenizer = load_pretrained(lambda: AutoTokenizer.from_pretrained(name), name)
        self.dimension = int(self.encode(["dimension"]).shape[1])

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Vectors:
        """[n] texts -> [n, D] float32 unit rows. Texts are cut at the tower's own length limit."""
        limit = self.model.config.text_config.max_position_embeddings
        # SigLIP was trained with padding to the full length.
        padding = "max_length" if "siglip" in self.model.config.model_type else True
        batch = self.tokenizer(composed(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt")
        return self._features(self.model.get_text_features(**batch.to(self.model.device)))


class ContrastiveImageEncoder(_Contrastive):
    """The image tower of a CLIP or SigLIP model."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        from transformers import AutoImageProcessor

        self.processor = load_pretrained(lambda: AutoImageProcessor.from_pretrained(name, backend="pil"), name)
        self.dimension = int(self.encode([Image.new("RGB", (32, 32))]).shape[1])

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> Vectors:
        """[n] RGB images of any size -> [n, D] float32 unit rows."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.model.device)
        return self._features(self.model.get_image_features(pixel_values=pixels))
