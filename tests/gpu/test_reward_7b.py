"""The 7B preset on a GPU: its real shape with fewer layers and random weights, three training steps in BF16.

    python -m pytest tests/gpu -q -s

Needs about 30 GB of GPU memory. Skips, with that reason, where there is no GPU.
"""

import time

import pytest
import torch

from countryreward.equations import focus as equations
from countryreward.models.attention import attention_implementation
from countryreward.models.learning_rate_groups import parameter_groups
from countryreward.models.pair_batch import collate
from countryreward.models.reward_config import PRESETS, RewardOptions
from countryreward.models.reward_model import CountryRewardModel, preset_config
from countryreward.models.reward_prompts import PromptBuilder
from tests.unit.micro_qwen import PAD, TOKENIZER, fields

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
LAYERS, BATCH, PX = 7, 8, 448


def test_three_steps_of_the_7b_shape_in_bf16() -> None:
    options = RewardOptions(max_length=2_048)
    config = preset_config("qwen2-vl-7b", options, num_hidden_layers=LAYERS)
    implementation = attention_implementation("cuda", torch.bfloat16)
    with torch.device("cuda"):
        model = CountryRewardModel._from_config(config, dtype=torch.bfloat16, attn_implementation=implementation)
    optimizer = torch.optim.AdamW(parameter_groups(model, PRESETS["qwen2-vl-7b"].learning_rates))
    side = PX // 14
    builder = PromptBuilder(TOKENIZER, model.options)
    pairs = [
        fields(images=(f"a{n}", f"b{n}"), grids=((1, side, side),) * 2, market=("KR", "BR")[n % 2])
        for n in range(BATCH)
    ]
    batch = collate([builder.example(pair) for pair in pairs], PAD).to("cuda")
    draws = torch.Generator("cuda").manual_seed(0)
    pixels = torch.randn(batch.patches, 3 * 2 * 14 * 14, device="cuda", dtype=torch.bfloat16, generator=draws)
    target = torch.tensor([float(n % 2) for n in range(BATCH)], device="cuda")
    losses, seconds = [], []
    for _ in range(3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        output = model(batch, pixel_values=pixels, focus=True)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(output.logit, target)
        wrong = equations.wrong_predictions(output.logit.detach(), target)
        loss = equations.objective(bce, equations.penalty(output.focus, wrong), options.focus_weight)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    print(
        f"\n{LAYERS} layers, {batch.input_ids.shape[1]} tokens, {BATCH} pairs in both orders, {implementation}: "
        f"losses {losses}, seconds {seconds}, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    )
    assert all(loss == loss and loss < 20 for loss in losses)
    assert losses[-1] != losses[0]
