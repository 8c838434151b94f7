"""Does the plan hold at the 7B shape? 7 of 28 layers with random weights, the real loop and DeepSpeed, on one GPU.

    python -m pytest tests/gpu/test_plan.py -q -s

Needs about 60 GB of GPU memory. Skips, with that reason, where there is no GPU.
"""

import statistics

import pytest
import torch

from countryreward.models.reward_config import RewardOptions
from countryreward.training.planning.memory import memory
from countryreward.training.planning.options import DEVICES, PlanOptions
from countryreward.training.planning.plan import paper_efficiency, seconds_per_step, setting_of
from countryreward.training.planning.rehearsal import alone, measure, rehearse
from countryreward.training.planning.shape import config_of, shape_of, with_layers
from countryreward.training.training_config import LoopConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
LAYERS, NEEDED = 7, 60 * 10**9


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_and_step_time_of_the_7b_shape(checkpointing: bool) -> None:
    if torch.cuda.mem_get_info()[0] < NEEDED:
        pytest.skip("under 60 GB of GPU memory are free")
    loop = LoopConfig(batch_size=4, accumulation=2, gradient_checkpointing=checkpointing, zero_stage=2)
    options = PlanOptions(preset="qwen2-vl-7b", gpus="here", text_tokens=200, loop=loop)
    config = with_layers(config_of("qwen2-vl-7b", RewardOptions()), LAYERS)
    shape, setting = shape_of(config), setting_of(options, 1, cuda=True)
    with alone(options):
        timing = measure(config, options, "cuda", rounds=3)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        whole = rehearse(config, options, "cuda")
        whole.run(2)
        # without the plan's device overhead: that is outside what PyTorch allocates
        peak = torch.cuda.max_memory_allocated() - before
        seconds = statistics.median(whole.run(6)[:-1])
    found = memory(shape, options, setting)
    planned = found.peak - found.overhead
    sheet = {
        name: round(seconds_per_step(shape, options, setting, device, paper_efficiency()), 3)
        for name, device in DEVICES.items()
    }
    print(
        f"\n{LAYERS} layers, checkpointing {checkpointing}: memory planned {planned / 2**30:.1f} GiB ({found.moment}), measured "
        f"{peak / 2**30:.1f}, ratio {planned / peak:.3f}; step planned {timing.seconds:.3f} s, measured {seconds:.3f} s, ratio "
        f"{timing.seconds / seconds:.3f}; by datasheet {sheet}"
    )
    assert planned == pytest.approx(peak, rel=0.2)
    assert timing.seconds == pytest.approx(seconds, rel=0.2)
