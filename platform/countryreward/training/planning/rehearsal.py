"""How long a step takes on this machine: the real loop, engine and model at two small depths, carried on in a straight line.

A datasheet says nothing of a processor at these sizes. Everything outside the decoder layers (embeddings, merger, adapter, tower
where features are decoded) is in both measurements, so the line's start holds it and its slope is one layer.
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from countryreward.models.attention import attention_implementation
from countryreward.models.reward_model import CountryRewardConfig, CountryRewardModel
from countryreward.models.reward_prompts import Example, PromptWriter
from countryreward.scoring.predict import Examples, Loader
from countryreward.training.engine import Engine
from countryreward.training.planning.memory import row_tokens
from countryreward.training.planning.options import PlanOptions
from countryreward.training.planning.shape import Shape, shape_of_model, with_layers
from countryreward.training.reward_loop import train_reward
from countryreward.training.reward_run import bf16_weights, make_engine
from countryreward.training.training_config import RewardTraining

_FIRST_DEPTHS = (1, 3)


@dataclass(frozen=True)
class DrawnImages:
    """Images of the right shape without content, as the loader takes images (`scoring.image_inputs.ImageInputs`)."""

    patches: int
    values: int
    features: bool

    def __contains__(self, content_hash: object) -> bool:
        return True

    def read(self, content_hashes: Sequence[str]) -> dict[str, Tensor]:
        """Random features or patches; the same for the same name."""
        shape = (len(content_hashes), self.patches, self.values)
        draws = torch.Generator().manual_seed(len(content_hashes))
        drawn = torch.randn(shape, generator=draws)
        return {"features": drawn} if self.features else {"pixel_values": drawn.flatten(0, 1)}


@dataclass
class Rehearsal:
    """A training of random weights on drawn records: `run(steps)` is the real loop."""

    model: CountryRewardModel
    engine: Engine
    loader: Loader
    options: PlanOptions

    def run(self, steps: int) -> list[float]:
        """Seconds of each optimizer step. The last one also logs, which is a second forward and backward pass."""
        times = [time.perf_counter()]
        cuda = self.model.device.type == "cuda"

        def progress(_: int, __: int) -> None:
            if cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        train_reward(
            self.engine,
            self.model,
            self.loader,
            replace(self.options.loop, log_every=10**9, validations=1),
            steps=steps,
            log=lambda _: None,
            validate=lambda _: None,
            progress=progress,
        )
        return [after - before for before, after in itertools.pairwise(times)]


def drawn_loader(config: CountryRewardConfig, shape: Shape, options: PlanOptions, records: int) -> Loader:
    """Records whose prompts have exactly `row_tokens` tokens and whose images are all different."""
    image: Any = config.backbone.image_token_id
    side = options.px // shape.patch
    both = options.reward.option("antisymmetric") == "on"
    text = options.text_tokens
    country, product = max(1, text // 20), text // 3

    def example(names: tuple[str, str], log_odds: float) -> Example:
        writer = PromptWriter(merge=shape.merge)
        writer.text([1] * country, "country")
        for _ in names:
            writer.image(image, (1, side, side))
        writer.text([2] * product, "product")
        writer.text([3] * (text - country - product))
        ids, spans, positions = writer.arrays()
        assert len(ids) == row_tokens(shape, options), "prompts of another length than planned"
        return Example(
            ids=ids,
            spans=spans,
            positions=positions,
            country=[1] * country,
            augmentation=[],
            log_odds=log_odds,
            images=names,
            grids=((1, side, side),) * 2,
        )

    prompts = []
    for n in range(records):
        names = (f"a{n}", f"b{n}")
        swapped = example((names[1], names[0]), -0.5) if both else None
        prompts.append(replace(example(names, 0.5), swapped=swapped))
    frame = pd.DataFrame({"target": np.arange(records, dtype=np.float32) % 2})
    stored = options.features == "stored"
    values = shape.tower_width if stored else 3 * 2 * shape.patch**2
    return Loader(Examples(prompts, frame), DrawnImages(shape.patches(options.px), values, stored), 0)


def rehearse(config: CountryRewardConfig, options: PlanOptions, device: torch.device | str) -> Rehearsal:
    """Model, engine and records of a training with random weights. `options.text_tokens` and precision must be settled."""
    loop = options.loop
    compute = torch.bfloat16 if loop.precision == "bf16" else torch.float32
    dtype = torch.bfloat16 if bf16_weights(loop, device) else torch.float32
    with torch.device(device):
        model = CountryRewardModel._from_config(
            config, dtype=dtype, attn_implementation=attention_implementation(device, compute)
        )
    if loop.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    job = RewardTraining(dataset="", records="", priors="", features="", preset=options.preset, loop=loop)
    engine = make_engine(model, job, loop, 10**6)
    records = loop.value("batch_size") * loop.value("accumulation")
    return Rehearsal(model, engine, drawn_loader(config, shape_of_model(model), options, records), options)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What the probes said, in seconds per optimizer step."""

    seconds: float
    """Of the full depth."""
    per_layer: float
    """Slope."""
    measured: dict[int, float]
    """Depth -> median."""
    rounds: int
    """How often each was measured, in turn."""


def measure(
    config: CountryRewardConfig, options: PlanOptions, device: torch.device | str, *, rounds: int = 5
) -> Timing:
    """Median step times of a model of 1 and of 3 layers, taken in turn, and the line through them at the full depth."""
    depth = config.backbone.text_config.num_hidden_layers  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    depths = _FIRST_DEPTHS if depth > 1 else (1,)
    depths = tuple(min(d, depth) for d in depths)
    with alone(options):
        rehearsals = [rehearse(with_layers(config, d), options, device) for d in depths]
        for rehearsal in rehearsals:
            rehearsal.run(2)
        times = [[statistics.median(rehearsal.run(3)[:-1]) for rehearsal in rehearsals] for _ in range(rounds)]
    medians = {d: statistics.median(row[i] for row in times) for i, d in enumerate(depths)}
    if len(depths) == 1:
        return Timing(seconds=medians[1], per_layer=0.0, measured=medians, rounds=rounds)
    low, high = depths
    slope = statistics.median((row[1] - row[0]) / (high - low) for row in times)
    return Timing(seconds=medians[high] + slope * (depth - high), per_layer=slope, measured=medians, rounds=rounds)


@contextlib.contextmanager
def alone(options: PlanOptions) -> Iterator[None]:
    """A process group of one for DeepSpeed, where there is none yet."""
    if options.loop.engine != "deepspeed" or torch.distributed.is_initialized():
        yield
        return
    import os
    import tempfile

    before = {name: os.environ.get(name) for name in _ALONE}
    os.environ.update(_ALONE)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
