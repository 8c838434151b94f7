"""The frozen vision tower by itself, for the feature store."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from countryreward.models.processor import PairProcessor, Picture, pixels
from countryreward.models.reward_config import PRESETS
from countryreward.models.tiny_backbone import SHIPPED
from countryreward.progress import quiet_loading


def backbone_folder(name: str) -> str:
    """What `from_pretrained` understands: the package's folder for `tiny`, a preset's id, or the name itself."""
    source = PRESETS[name].backbone if name in PRESETS else name
    return str(SHIPPED) if source == "tiny" else source


class VisionTower:
    """Qwen2-VL's vision tower up to the merger. `fingerprint` names its weights and the picture size."""

    def __init__(self, backbone: str, *, px: int, device: torch.device | str = "cpu") -> None:
        from transformers import Qwen2VLModel

        folder = backbone_folder(backbone)
        with quiet_loading():
            self.visual = Qwen2VLModel.from_pretrained(folder, use_safetensors=True).visual.eval()
        self.processor = PairProcessor.from_pretrained(folder)
        self.px = px
        self.fingerprint = f"{tower_hash(self.visual)}/{px}px"
        torch.nn.Module.to(self.visual, device)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of one image's features: (patches, width)."""
        config = self.visual.config
        side = self.px // int(config.patch_size)  # pyright: ignore[reportArgumentType]
        return side * side, int(config.embed_dim)  # pyright: ignore[reportArgumentType]

    @torch.inference_mode()
    def encode(self, images: Sequence[Picture]) -> NDArray[np.float32]:
        """Pictures of any size -> [n, patches, width] float32."""
        pixel_values, grid = pixels(self.processor, images, self.px)
        output = self.visual(
            pixel_values.to(self.visual.device, self.visual.dtype), grid_thw=grid.to(self.visual.device)
        )
        return output.last_hidden_state.float().cpu().numpy().reshape(len(images), *self.shape)


def tower_hash(visual: torch.nn.Module) -> str:
    """16 hex digits over the weights before the merger: a trained merger does not make stored features stale."""
    digest = hashlib.sha256()
    for name, weight in sorted(visual.state_dict().items()):
        if not name.startswith("merger."):
            digest.update(name.encode())
            digest.update(weight.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
