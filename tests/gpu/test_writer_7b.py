"""The design writer in the 7B shape on a GPU: fewer layers, random weights, BF16; a preference step in both layouts, and writing.

    python -m pytest tests/gpu/test_writer_7b.py -q -s

Needs about 40 GB of GPU memory. Skips, with that reason, where there is no GPU.
"""

import time
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from countryreward.equations.ad_generation import dpo_loss
from countryreward.models.attention import attention_implementation
from countryreward.models.design_batch import answer_row, pictures_of, shared_row, stack
from countryreward.models.design_writer import DesignWriterModel, token_log_probs
from countryreward.models.processor import PairProcessor
from countryreward.models.reward_config import RewardOptions, SamplingConfig
from countryreward.models.reward_model import preset_config
from countryreward.models.tokenizer import CHAT_TEMPLATE
from tests.unit.micro_qwen import PAD, TOKENIZER
from tests.unit.micro_writer import BEACH, CITY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
LAYERS, PAIRS, PX = 7, 4, 448


def writer() -> DesignWriterModel:
    config: Any = preset_config("qwen2-vl-7b", RewardOptions(), num_hidden_layers=LAYERS).backbone
    implementation = attention_implementation("cuda", torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2VLForConditionalGeneration._from_config(
            config, dtype=torch.bfloat16, attn_implementation=implementation
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual." not in name or "merger" in name)
    return DesignWriterModel(model, PairProcessor(Qwen2VLImageProcessorPil(), TOKENIZER, CHAT_TEMPLATE), px=PX)


def test_a_preference_step_and_writing() -> None:
    made = writer()
    pictures = {str(n): np.random.default_rng(n).integers(0, 255, (PX, PX, 3), np.uint8) for n in range(PAIRS)}
    prompts = [made.prompt.splice(made.fields("Oak lamp", "Lighting", {}, "KR", str(n))) for n in range(PAIRS)]
    answers = [made.prompt.answer(BEACH), made.prompt.answer(CITY)]
    flash = made.model.config._attn_implementation == "flash_attention_2"
    layouts = {"two rows": stack([answer_row(p, a) for a in answers for p in prompts], PAD, made.prompt.image_id)}
    layouts["two rows"] |= pictures_of([*prompts, *prompts], pictures, made.processor, PX)
    if not flash:
        layouts["one row"] = stack([shared_row(p, *answers) for p in prompts], PAD, made.prompt.image_id)
        layouts["one row"] |= pictures_of(prompts, pictures, made.processor, PX)
    optimizer = torch.optim.AdamW([p for p in made.model.parameters() if p.requires_grad], lr=1e-6)
    found = {}
    for name, batch in layouts.items():
        for _ in range(3):
            torch.cuda.synchronize()
            began = time.perf_counter()
            each = token_log_probs(made.model, batch)
            if name == "one row":
                part = batch["part"].cuda()
                chosen, rejected = ((each * (part == side)).sum(1) for side in (0, 1))
            else:
                chosen, rejected = each.sum(1).chunk(2)
            loss = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1).mean()
            loss.backward()
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        found[name] = chosen.detach().float().cpu()
        print(f"\n{LAYERS} layers, {PAIRS} pairs, {name}: {seconds:.3f} s, loss {loss.item():.4f}")
    if not flash:
        torch.testing.assert_close(found["one row"], found["two rows"], rtol=0.02, atol=2.0)
    began = time.perf_counter()
    texts = made.generate(prompts, pictures, range(PAIRS), SamplingConfig(max_new_tokens=32))
    print(
        f"{PAIRS} answers of 32 tokens in {time.perf_counter() - began:.2f} s, {made.model.config._attn_implementation}"
    )
    assert len(texts) == PAIRS
    print(f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
