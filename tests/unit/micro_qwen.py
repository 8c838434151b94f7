"""A Qwen2-VL of a few thousand parameters and a byte-level tokenizer, for the tests of the reward model."""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig

from countryreward.models.pair_batch import Batch, collate
from countryreward.models.reward_config import RewardOptions
from countryreward.models.reward_model import CountryRewardConfig, CountryRewardModel
from countryreward.models.reward_prompts import INSTRUCTION, SENTENCE, PairFields, PromptBuilder

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PAD = 0
SMALL, TALL = (1, 4, 4), (1, 6, 4)  # 4 and 6 visual tokens


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows the template's words, so that prompts are short."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    made.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = (
        f"{INSTRUCTION} {SENTENCE} Image A: Image B: Product Title: Product Category: Product Tags: For this user"
    )
    made.train_from_iterator([template] * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=[token for token in SPECIAL if token not in ("<|endoftext|>", "<|im_end|>")],
    )


TOKENIZER = tokenizer()
WORDS = TOKENIZER.get_vocab()


def backbone_config(*, width: int = 32, layers: int = 4, vocabulary: int | None = None) -> Qwen2VLConfig:
    """Two query heads per key head; a tower of one block."""
    return Qwen2VLConfig(
        text_config={
            "vocab_size": vocabulary or len(TOKENIZER),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": PAD,
            "eos_token_id": WORDS["<|im_end|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
            if width == 32
            else {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [width // 16, width // 32, width // 32]},
        },
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "hidden_size": width,
            "patch_size": 14,
        },
        image_token_id=WORDS["<|image_pad|>"],
        video_token_id=WORDS["<|video_pad|>"],
        vision_start_token_id=WORDS["<|vision_start|>"],
        vision_end_token_id=WORDS["<|vision_end|>"],
    )


def model(seed: int = 0, *, width: int = 32, layers: int = 4, **options: Any) -> CountryRewardModel:
    """Random weights, larger than the default ones, so that what is read matters."""
    torch.manual_seed(seed)
    config = CountryRewardConfig(
        qwen2_vl=backbone_config(width=width, layers=layers), options={"max_length": 4_096} | options
    )
    made = CountryRewardModel(config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim > 1 and not name.startswith("adapter"):
                parameter.mul_(6)
    return made


def trained_adapter(made: CountryRewardModel) -> CountryRewardModel:
    """As if the adapter had learned something: it moves the tokens by country."""
    assert made.adapter is not None
    with torch.no_grad():
        made.adapter.up.weight.normal_(std=2.0)
        made.adapter.down.weight.normal_(std=1.0)
    return made


def fields(**changes: Any) -> PairFields:
    """A small pair."""
    base: dict[str, Any] = {
        "title": "Red bag",
        "category": "Bags",
        "attributes": {"Material": "leather"},
        "tags": ["gift"],
        "market": "KR",
        "images": ("a", "b"),
        "grids": (SMALL, SMALL),
        "log_odds": 0.8,
        "letter": "A",
    }
    return PairFields(**base | changes)


def builder(**options: Any) -> PromptBuilder:
    """With room for byte-level prompts."""
    chosen: dict[str, Any] = {"max_length": 4_096} | options
    return PromptBuilder(TOKENIZER, RewardOptions(**chosen))


def batch_for(made: CountryRewardModel, *pairs: PairFields) -> Batch:
    """A batch built with the model's options."""
    prompts = PromptBuilder(TOKENIZER, made.options)
    return collate([prompts.example(pair) for pair in pairs], PAD)


def pixels(batch: Batch) -> torch.Tensor:
    """Patches of the batch's images, random but the same for the same name."""
    patches = []
    for name, grid in zip(batch.images, batch.image_grid_thw.tolist(), strict=True):
        rng = np.random.default_rng(list(name.encode()))
        patches.append(rng.normal(size=(int(np.prod(grid)), 3 * 2 * 14 * 14)).astype(np.float32))
    return torch.from_numpy(np.concatenate(patches))
