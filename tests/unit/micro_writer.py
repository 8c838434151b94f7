"""A design writer of a few thousand parameters with random weights."""

import numpy as np
import torch
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from countryreward.data.design import Design
from countryreward.models.design_prompt import SplicedPrompt
from countryreward.models.design_writer import DesignWriterModel
from countryreward.models.processor import PairProcessor
from countryreward.models.tokenizer import CHAT_TEMPLATE
from tests.unit.micro_qwen import TOKENIZER, backbone_config

PX = 56
BEACH = Design(foreground="Alone.", background="A beach.", color_tone="Teal.", lighting="Golden.")
CITY = Design(foreground="A ribbon.", background="A city street at night.", color_tone="Neon.", lighting="Moody.")
PICTURES = {name: np.full((40, 50, 3), shade, np.uint8) for name, shade in (("one", 30), ("two", 200))}


def micro_writer(seed: int = 0) -> DesignWriterModel:
    """Weights larger than the default ones, so that what is read matters."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(backbone_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.generation_config.pad_token_id = TOKENIZER.pad_token_id
    return DesignWriterModel(model, PairProcessor(Qwen2VLImageProcessorPil(), TOKENIZER, CHAT_TEMPLATE), px=PX)


def prompt(writer: DesignWriterModel, title: str = "Red bag", market: str = "KR", image: str = "one") -> SplicedPrompt:
    """Of a bag."""
    return writer.prompt.splice(writer.fields(title, "Bags", {"Material": "leather"}, market, image))
