"""SDXL with its ControlNet on a GPU: its real shape with random weights, few steps, in BF16.

    python -m pytest tests/gpu/test_sdxl.py -q -s

Needs about 20 GB of GPU memory. Skips, with that reason, where there is no GPU.
"""

import time

import numpy as np
import pytest
import torch

from countryreward.generation.ad_contracts import RenderJob
from countryreward.generation.generation_config import RendererConfig
from countryreward.generation.sdxl import DiffusionRenderer
from countryreward.generation.sdxl_pipeline import SDXL, random_pipeline
from countryreward.generation.templates import TEMPLATES
from countryreward.scoring.contracts import Product
from tests.unit.photo_like import bottle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_the_full_shape_renders_the_same_bytes_twice_and_shares_a_batch() -> None:
    pipeline = random_pipeline(SDXL, device="cuda", dtype=torch.bfloat16)
    parameters = sum(value.numel() for part in ("unet", "controlnet") for value in getattr(pipeline, part).parameters())
    assert 3.7e9 < parameters < 3.9e9
    renderer = DiffusionRenderer(pipeline, RendererConfig(kind="sdxl", batch=2, channels_last=True, fuse_qkv=True))
    jobs = [
        RenderJob(
            design=TEMPLATES[number].design,
            product=Product(title="Olive oil"),
            image=bottle(),
            image_hash="p",
            seed=number,
            steps=3,
        )
        for number in range(2)
    ]
    renderer.render(jobs)
    torch.cuda.synchronize()
    begun = time.perf_counter()
    first, second = renderer.render(jobs), renderer.render(jobs)
    seconds = (time.perf_counter() - begun) / 2
    print(f"\n2 ads of 1024 px, 3 steps: {seconds:.2f} s, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    for one, other in zip(first, second, strict=True):
        assert one.pixels.shape == (1024, 1024, 3)
        assert one.pixels.tobytes() == other.pixels.tobytes()
    alone = renderer.render(jobs[1:])[0]
    apart = np.abs(alone.pixels.astype(int) - first[1].pixels).mean()
    of_others = np.abs(first[0].pixels.astype(int) - first[1].pixels).mean()
    assert apart < 0.2 * of_others  # bfloat16 rounds otherwise in another batch


def test_the_full_shape_compiles() -> None:
    pipeline = random_pipeline(SDXL, device="cuda", dtype=torch.bfloat16)
    renderer = DiffusionRenderer(
        pipeline, RendererConfig(kind="sdxl", batch=2, compile=True, scheduler="lcm", channels_last=True, px=512)
    )
    job = RenderJob(design=TEMPLATES[0].design, product=Product(title="Olive oil"), image=bottle(), image_hash="p")
    assert renderer.render([job])[0].pixels.shape == (512, 512, 3)
