"""The tiny backbone: Qwen2-VL's own classes at two million parameters, taught by `jobs/pretrain_tiny.py` to describe pictures.

Legend: I images, N patches of all images, P values of a patch, T tokens, V visual tokens of an image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from countryreward.errors import UserError
from countryreward.models.captions import DESCRIBE
from countryreward.models.processor import PairProcessor, Picture, load_processor, pixels
from countryreward.models.tokenizer import CHAT_TEMPLATE
from countryreward.progress import quiet_loading

SHIPPED = Path(__file__).parent / "tiny"
"""The weights that come with the package, and beside them pretext.json: how they were made and what they can see."""
PX = 112
"""The picture size the shipped weights know."""


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """Qwen2-VL with a tower of 4 blocks of width 128 and a language model of 3 layers of width 128."""

    def id_of(token: str) -> int:
        token_id = tokenizer.convert_tokens_to_ids(token)
        assert isinstance(token_id, int)
        return token_id

    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4_096,
            "initializer_range": 0.04,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "embed_dim": 128,
            "hidden_size": 128,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.04,
        },
        image_token_id=id_of("<|image_pad|>"),
        video_token_id=id_of("<|video_pad|>"),
        vision_start_token_id=id_of("<|vision_start|>"),
        vision_end_token_id=id_of("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def new_tiny(tokenizer: PreTrainedTokenizerFast, seed: int) -> tuple[Qwen2VLForConditionalGeneration, PairProcessor]:
    """Random weights and the processor that goes with them. The caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(tiny_config(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, PairProcessor(Qwen2VLImageProcessorPil(), tokenizer, CHAT_TEMPLATE)


def widen(model: Qwen2VLForConditionalGeneration, processor: PairProcessor, phrases: Sequence[str], seed: int) -> int:
    """Give the tokenizer a token for each phrase and the model an embedding for it, where they lack them; returns how many.

    The tokens are not special, and users cannot write them (`ProductText.users`). The caller's random state is left as it was.
    """
    tokens: Any = [AddedToken(text, normalized=False, special=False) for text in phrases]
    added = processor.tokenizer.add_tokens(tokens)
    if added:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    return added


@torch.no_grad()
def refresh_unused(model: Qwen2VLForConditionalGeneration, used: set[int], seed: int) -> int:
    """New random embeddings, half as long as the used ones, for tokens that the pretext never met; returns how many.

    Longer ones would be said by mistake in a caption, since the output layer is the same matrix.

    Training pushes the embeddings of all words that are never right in one common direction: countries' adjectives come
    out of it with a cosine of .99 between them. Real backbones tell words apart; an adapter driven by them must be able to.
    """
    weight_VD: Any = model.get_input_embeddings().weight
    unused = torch.tensor([token not in used for token in range(len(weight_VD))])
    draws = torch.Generator().manual_seed(seed)
    size = 0.5 * weight_VD[~unused].pow(2).mean().sqrt()
    weight_VD[unused] = size * torch.randn(int(unused.sum()), weight_VD.shape[1], generator=draws)
    return int(unused.sum())


def load_tiny(folder: str | Path | None = None) -> tuple[Qwen2VLForConditionalGeneration, PairProcessor]:
    """The backbone (float32, evaluation mode) and its processor, from a folder or, by default, from the package.

    Raises `UserError` for a folder without weights.
    """
    place = Path(folder or SHIPPED)
    if not (place / "model.safetensors").is_file():
        raise UserError(f"backbone: no model.safetensors in {place}; run jobs/pretrain_tiny.py, or correct the path")
    with quiet_loading():
        model = Qwen2VLForConditionalGeneration.from_pretrained(place, dtype=torch.float32)
    return model.eval(), load_processor(place)


def save_tiny(model: Qwen2VLForConditionalGeneration, processor: PairProcessor, folder: Path) -> None:
    """Write weights, tokenizer and image processor into `folder`, as `load_tiny` reads them."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def describe_ids(processor: PairProcessor, visual_tokens: int) -> list[int]:
    """`<|vision_start|><|image_pad|>...<|vision_end|>Describe:` as ids."""
    words = processor.tokenizer.encode(DESCRIBE, add_special_tokens=False)
    start, end = processor.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    return [start, *[processor.image_token_id] * visual_tokens, end, *words]


@torch.no_grad()
def describe(
    model: Qwen2VLForConditionalGeneration,
    processor: PairProcessor,
    images: Sequence[Picture],
    *,
    px: int = PX,
    max_new_tokens: int = 48,
) -> list[str]:
    """Greedy captions of pictures, read back by `captions.parse_caption`."""
    pixel_values_NP, grid_I3 = pixels(processor, images, px)
    ids = describe_ids(processor, int(grid_I3[0].prod()) // 4)
    ids_IT: Tensor = torch.tensor([ids] * len(images), device=model.device)
    writer: Any = model  # pyright misreads transformers' generate
    answer_IT = writer.generate(
        input_ids=ids_IT,
        attention_mask=torch.ones_like(ids_IT),
        mm_token_type_ids=(ids_IT == processor.image_token_id).int(),
        pixel_values=pixel_values_NP.to(model.device, model.dtype),
        image_grid_thw=grid_I3.to(model.device),
        do_sample=False,
        max_new_tokens=max_new_tokens,
    )
    return processor.tokenizer.batch_decode(answer_IT[:, len(ids) :], skip_special_tokens=True)
