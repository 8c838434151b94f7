"""Qwen2-VL's processor without torchvision: its image processor (the Pillow one) and a tokenizer, no videos.

Legend: I images, N patches of all images, P values of a patch (3 colours x 2 frames x 14 x 14 = 1176).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from countryreward.errors import UserError

Picture = Image.Image | np.ndarray


class PairProcessor(ProcessorMixin):
    """An image processor and a tokenizer, called as transformers' `Qwen2VLProcessor` is: `(images=..., text=...)`.

    Every `<|image_pad|>` in the text is replaced by as many as the image has visual tokens. Never put a user's words into
    that text: tokenise them by themselves with `split_special_tokens=True` and join the ids.
    """

    return_mm_token_type_ids = True  # the model cannot place image tokens without them

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that are saved and loaded."""
        return ["image_processor", "tokenizer"]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **_: Any) -> str:
        """The visual tokens of one image, as text."""
        patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return self.image_token * (patches // self.image_processor.merge_size**2)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **_: Any) -> "PairProcessor":
        """From a local folder or a hub name; never asks for torchvision, whatever class the folder names."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path)
        template = getattr(tokenizer, "chat_template", None)
        return cls(Qwen2VLImageProcessorPil.from_pretrained(pretrained_model_name_or_path), tokenizer, template)


def load_processor(folder: str | Path) -> PairProcessor:
    """The processor that `save_pretrained` wrote into a folder. Raises `UserError` when there is none."""
    if not (Path(folder) / "tokenizer.json").is_file():
        raise UserError(f"processor: no tokenizer.json in {folder}; give a folder that save_pretrained wrote")
    return PairProcessor.from_pretrained(str(folder))


def squared(image: Picture, px: int) -> Image.Image:
    """RGB, px wide and high, by bicubic interpolation: a picture that is not square is squeezed, never cut."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    return picture if picture.size == (px, px) else picture.resize((px, px), Image.Resampling.BICUBIC)


def pixels(processor: PairProcessor, images: Sequence[Picture], px: int) -> tuple[Tensor, Tensor]:
    """Pillow images or uint8 RGB arrays, all made px x px -> pixel_values float32 [N, P], image_grid_thw int64 [I, 3].

    An image gives (px / 28)**2 visual tokens. Raises `UserError` where px is not a multiple of 28.
    """
    if px < 28 or px % 28:
        raise UserError(f"px: {px} is not a multiple of 28; write 56, 84, 112, ...")
    inputs = processor.image_processor([squared(image, px) for image in images], do_resize=False, return_tensors="pt")
    return inputs["pixel_values"].float(), inputs["image_grid_thw"].long()


def patches(images_IHWC: np.ndarray, processor: PairProcessor) -> Tensor:
    """The pixel_values [N, P] that `pixels` gives, from uint8 RGB [I, px, px, 3] all at once: what a training step can afford."""
    settings = processor.image_processor
    mean, std = (torch.tensor(value) * 255 for value in (settings.image_mean, settings.image_std))
    count, px, size, merge = len(images_IHWC), images_IHWC.shape[1], settings.patch_size, settings.merge_size
    side = px // size // merge
    values = (torch.from_numpy(images_IHWC).float() - mean) / std
    values = values.view(count, side, merge, size, side, merge, size, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    frames = values.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, settings.temporal_patch_size, -1, -1)
    return frames.reshape(count * (side * merge) ** 2, -1)
