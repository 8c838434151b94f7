"""How many ads a second: the drawer, and SDXL with its ControlNet against diffusers as it comes.

    python benchmarks/generation.py                 # on a CPU: the drawer, and the tiny SDXL as a smoke test; about 2 minutes
    python benchmarks/generation.py --sdxl=true     # on a GPU with 40 GB: weights of SDXL's shape, 1024 px; about 10 minutes
    python benchmarks/generation.py --quick=true    # that it runs at all; its figures mean nothing

Whatever is compared takes turns in one run (A/B/A/B); printed are the ratio of each round's pair, their median and range. The
baseline is diffusers' own pipeline in eager mode, bfloat16 on a GPU, one ad at a time, its own prompts and edges given.
Random weights make no pictures worth looking at, and as much work as trained ones.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from countryreward.command import run


@dataclass(kw_only=True)
class Config:
    """Measure the renderers."""

    rounds: int = 3
    """Rounds of each comparison."""
    drawn: int = 480
    """Ads of one measurement of the drawer."""
    px: int = 224
    """Side of a drawn ad."""
    threads: int = 2
    """Threads of the drawer."""
    sdxl: bool = False
    """Measure the full shape too; needs a GPU."""
    batch: int = 8
    """Ads at once in our full shape."""
    steps: int = 30
    """Denoising steps of the full shape."""
    few: int = 4
    """Steps of the few-step scheduler."""
    compile: bool = True
    """Compile our full shape."""
    guidance_until: float = 1.0
    """Share of our steps that is guided; below 1 it is no longer the same picture as the baseline's."""
    quick: bool = False
    """As short as possible."""


def main(config: Config) -> None:
    import torch

    from countryreward.machine import describe_machine

    if config.quick:
        config.rounds, config.drawn = 1, 24
    report: dict[str, Any] = drawer(config) | tiny(config)
    if config.sdxl:
        report |= full(config)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    print(json.dumps(report | {"machine": describe_machine() | {"gpu": gpu}}, indent=1))


def drawer(config: Config) -> dict[str, Any]:
    """Ads a second of every template in turn, with fidelity as the renderer gives them and without, and a product's first ad."""
    from concurrent.futures import ThreadPoolExecutor

    import cv2

    from countryreward.data.marketplace.drawer import draw
    from countryreward.generation.renderers import DrawerRenderer

    cv2.setNumThreads(1)  # the threads are the renderer's
    jobs = _jobs(config.drawn)
    renderer = DrawerRenderer(px=config.px, threads=config.threads)
    begun = time.perf_counter()
    subjects = [renderer._subjects.of(job) for job in (jobs[0], jobs[1])]
    first = (time.perf_counter() - begun) / 2
    renderer.render(jobs[:48])  # templates of the product and other things that are made once

    work: list[float] = []  # what other programs on the machine take does not count here

    def with_fidelity() -> float:
        begun, worked = time.perf_counter(), time.process_time()
        renderer.render(jobs)
        work.append((time.process_time() - worked) / len(jobs) * 1e3)
        return len(jobs) / (time.perf_counter() - begun)

    def without() -> float:
        def one(job: Any) -> None:
            subject = subjects[0] if job.image_hash == jobs[0].image_hash else subjects[1]
            draw(job.design, subject.look or subject.tile, px=config.px, seed=job.seed)

        begun = time.perf_counter()
        with ThreadPoolExecutor(config.threads) as pool:
            list(pool.map(one, jobs))
        return len(jobs) / (time.perf_counter() - begun)

    report = _side_by_side("drawer, with fidelity / without", config.rounds, with_fidelity, without)
    return report | {
        "drawer: processor milliseconds an ad": round(statistics.median(work), 2),
        "drawer: a new product, seconds": round(first, 3),
        "drawer: px, threads": [config.px, config.threads],
    }


def tiny(config: Config) -> dict[str, Any]:
    """The tiny SDXL: batches against diffusers one by one, on the CPU."""
    from countryreward.generation.generation_config import RendererConfig
    from countryreward.generation.sdxl import DiffusionRenderer
    from countryreward.generation.sdxl_pipeline import TINY, random_pipeline

    renderer = DiffusionRenderer.load(RendererConfig(kind="tiny", device="cpu"))
    count = 4 if config.quick else 16
    ours = partial(_rate, renderer, _jobs(count), 3)
    theirs = partial(_plain_rate, random_pipeline(TINY), max(2, count // 4), 64, 3)
    return _side_by_side("tiny, batches / diffusers one by one", config.rounds, ours, theirs)


def full(config: Config) -> dict[str, Any]:
    """Random weights of SDXL's shape. Baseline: eager, bfloat16, one at a time, the same steps and guidance."""
    import torch

    from countryreward.generation.generation_config import RendererConfig
    from countryreward.generation.sdxl import DiffusionRenderer
    from countryreward.generation.sdxl_pipeline import SDXL, random_pipeline

    if not torch.cuda.is_available():
        raise SystemExit("sdxl: there is no CUDA device here; leave it off")
    plain = random_pipeline(SDXL, device="cuda", dtype=torch.bfloat16)
    report: dict[str, Any] = {}
    shared: dict[str, Any] = {
        "kind": "sdxl",
        "batch": config.batch,
        "compile": config.compile,
        "channels_last": True,
        "fuse_qkv": True,
    }
    slow = partial(_plain_rate, plain, 1 if config.quick else 2, 1024, config.steps)
    variants: list[tuple[str, dict[str, Any], int]] = [
        ("sdxl", {"guidance_until": config.guidance_until}, config.steps),
        ("sdxl, few steps", {"scheduler": "lcm"}, config.few),
    ]
    for title, options, steps in variants:
        begun = time.perf_counter()
        weights = random_pipeline(SDXL, device="cuda", dtype=torch.bfloat16)
        renderer = DiffusionRenderer(weights, RendererConfig(**shared | options))
        jobs = _jobs(config.batch)
        renderer.render(jobs)  # compiles
        report[f"{title}: seconds until ready"] = round(time.perf_counter() - begun, 1)
        ours = partial(_rate, renderer, jobs, steps)
        name = f"{title} {steps} steps / eager bf16 batch 1, {config.steps} steps"
        report |= _side_by_side(name, config.rounds, ours, slow)
        del renderer, weights
        torch.cuda.empty_cache()
    return report | {"peak GPU memory, GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1)}


def _jobs(count: int) -> list[Any]:
    """Two drawn products and every template in turn."""
    from countryreward.data.marketplace.drawer import ProductLook, draw
    from countryreward.data.marketplace.vocabulary import Spec
    from countryreward.generation.ad_contracts import RenderJob
    from countryreward.generation.templates import TEMPLATES
    from countryreward.scoring.contracts import Product

    looks = (ProductLook(category="mug", colour="RED", pattern="dots"), ProductLook(category="chair", colour="BLUE"))
    words = (
        Product(title="Stoneware coffee cup", category="Tableware", attributes={"colour": "red"}),
        Product(title="Velvet armchair", category="Furniture", attributes={"colour": "blue"}),
    )
    pictures = [draw(Spec(), look) for look in looks]
    return [
        RenderJob(
            design=TEMPLATES[number % len(TEMPLATES)].design,
            product=words[number % 2],
            image=pictures[number % 2],
            image_hash=str(number % 2),
            seed=number,
        )
        for number in range(count)
    ]


def _rate(renderer: Any, jobs: list[Any], steps: int) -> float:
    """Ads a second; pixels are on the host and judged when it is over."""
    from dataclasses import replace

    begun = time.perf_counter()
    renderer.render([replace(job, steps=steps) for job in jobs])
    return len(jobs) / (time.perf_counter() - begun)


def _plain_rate(pipeline: Any, count: int, px: int, steps: int) -> float:
    """diffusers as it comes: one prompt, one edge image, one PIL picture at a time. The first ad does not count."""
    import torch

    from countryreward.generation.diffusion_inputs import canny_image, prompt_of
    from countryreward.generation.generation_config import NEGATIVE_PROMPT
    from countryreward.generation.subject import Subjects

    pipeline.set_progress_bar_config(disable=True)
    subjects = Subjects()

    def one(job: Any, steps: int) -> None:
        edges = canny_image(job.image, subjects.of(job), px)
        pipeline(
            prompt_of(job.design, job.product),
            negative_prompt=NEGATIVE_PROMPT,
            image=torch.from_numpy(edges).permute(2, 0, 1)[None].float() / 255,
            height=px,
            width=px,
            num_inference_steps=steps,
            guidance_scale=5.0,
            controlnet_conditioning_scale=0.6,
            generator=torch.Generator("cpu").manual_seed(job.seed),
        )

    jobs = _jobs(count + 1)
    one(jobs[-1], 2)
    begun = time.perf_counter()
    for job in jobs[:-1]:
        one(job, steps)
    return count / (time.perf_counter() - begun)


def _side_by_side(title: str, rounds: int, a: Callable[[], float], b: Callable[[], float]) -> dict[str, Any]:
    """A/B/A/B..."""
    found = [(a(), b()) for _ in range(rounds)]
    for x, y in found:
        print(f"{title}: {x:.2f} / {y:.2f} ads/s = {x / y:.2f}", flush=True)
    ratios = [x / y for x, y in found]
    told = {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "ads_per_second": [round(statistics.median(side), 2) for side in zip(*found, strict=True)],
        "ads_per_second_range": [[round(min(side), 2), round(max(side), 2)] for side in zip(*found, strict=True)],
    }
    return {title: told}


if __name__ == "__main__":
    run(Config, main)
