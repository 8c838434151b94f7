"""One process of a small reward training, which tests start as `training_process.py ENGINE OPTIONS` with torch's variables.

OPTIONS is JSON: planned (workers), folder (of checkpoints; empty: none), stop (step to stop at; 0: the end), records, epochs,
planted (number of the record whose target is no number; -1: none). The first rank prints FOUND and what it found; where the
training diverges every rank prints DIVERGED and what is said.
"""

import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from countryreward.models.learning_rate_groups import parameter_groups
from countryreward.models.reward_config import LearningRates
from countryreward.models.reward_prompts import PromptBuilder
from countryreward.scoring.predict import Examples, Loader, judge
from countryreward.training.checkpoints import CheckpointStore
from countryreward.training.data_order import microbatches
from countryreward.training.distributed import ProcessGroup
from countryreward.training.divergence import Diverged
from countryreward.training.engine import DeepSpeedEngine, TorchEngine, cosine_with_warmup
from countryreward.training.reward_loop import Progress, total_steps, train_reward
from countryreward.training.training_config import LoopConfig
from tests.unit import micro_qwen

ACCUMULATION = 2


class Images:
    """Features drawn by name."""

    def __contains__(self, content_hash: object) -> bool:
        return True

    def read(self, content_hashes: Sequence[str]) -> dict[str, torch.Tensor]:
        """A picture for each name."""
        rows = [np.random.default_rng(list(name.encode())).normal(size=(16, 16)) for name in content_hashes]
        return {"features": torch.tensor(np.array(rows), dtype=torch.float32)}


class RememberingLoader(Loader):
    """A loader that keeps which records were loaded, call by call."""

    calls: list[list[int]]

    def load(self, positions: NDArray[np.int64], *args: Any, **options: Any) -> Any:
        """As the loader does."""
        self.__dict__.setdefault("calls", []).append([int(one) for one in positions])
        return super().load(positions, *args, **options)


def main(kind: str, planned: int, folder: str, stop: int, records: int, epochs: float, planted: int) -> None:
    """Train from the newest checkpoint in `folder`, where there is one, to `stop`. planted: the record whose target is NaN."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=os.environ["MEET"], rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"])
    )
    ranks = ProcessGroup.current()
    planned = planned or ranks.world
    model = micro_qwen.model(layers=2, focus_weight=0.1).train()
    builder = PromptBuilder(micro_qwen.TOKENIZER, model.options)
    rows, prompts = [], []
    for n in range(records):
        market = ("KR", "BR")[n % 2]
        images = (f"a{n // 2}", f"b{n // 2}")
        prompts.append(builder.example(micro_qwen.fields(images=images, market=market, title=f"Bag {n}")))
        target = float("nan") if n == planted else float((n // 2 + n) % 2)
        rows.append({"record_id": f"r{n}", "target": target, "label": (n // 2 + n) % 2})
    loader = RememberingLoader(Examples(prompts, pd.DataFrame(rows)), Images(), micro_qwen.PAD)
    size = 8 // planned
    loop = LoopConfig(
        epochs=epochs, batch_size=size, accumulation=ACCUMULATION, precision="fp32", orders="one", log_every=1,
        validations=1, checkpoint_every=0,
    )  # fmt: skip
    steps = total_steps(records, loop, planned)
    factor = functools.partial(cosine_with_warmup, total=steps, warmup_share=0.1)
    groups = parameter_groups(model, LearningRates(merger=1e-3, llm=5e-4, adapter=2e-3, classifier=1e-3))
    mine = microbatches(planned, ACCUMULATION, ranks)
    store = CheckpointStore(Path(folder or "nowhere"), {"planned": planned}, ranks)
    found = store.newest(print) if folder else None
    shared: dict[str, Any] = {"accumulation": len(mine), "max_grad_norm": 1.0}
    if kind == "torch":
        engine = TorchEngine(model, groups, factor, **shared)
    else:
        resized = found is not None and len(found[1]) != ranks.world
        engine = DeepSpeedEngine(
            model, groups, factor, **shared, batch_size=size, zero_stage=int(kind), resized=resized
        )
    start = Progress()
    if found:
        engine.load(found[0])
        start = Progress.shared([state["progress"] for state in found[1]], ranks.world)
    rates = engine.learning_rates()
    lines: list[dict[str, Any]] = []
    done = [start.step]

    def checkpoint(progress: Progress) -> None:
        state = {"progress": {"step": progress.step, "window": progress.window}}
        store.save(progress.step, state, engine.save, size=engine.state_bytes())

    try:
        train_reward(
            engine, model, loader, loop, steps=steps, log=lines.append, validate=lambda step: None, ranks=ranks,
            workers=planned, start=start, checkpoint=checkpoint if folder else None,
            progress=lambda step, total: done.append(step), stop=lambda: done[-1] == stop,
        )  # fmt: skip
    except Diverged as error:
        print(f"DIVERGED{error}")
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        return
    seen = [call for number, call in enumerate(loader.__dict__.get("calls", [])) if mine[number % len(mine)].weight]
    everyone: list[Any] = [None] * ranks.world
    torch.distributed.all_gather_object(everyone, seen)
    engine.bare.eval()
    judged = judge(engine.bare, loader, positions=ranks.share(records))
    logits = np.zeros(records)
    for rank, values in enumerate(ranks.gather(judged)):
        logits[ProcessGroup(rank, ranks.world).share(records)] = values
    saved = engine.state_dict()
    torch.distributed.barrier()  # who is done first must not leave while another still waits for it
    torch.distributed.destroy_process_group()
    if ranks.first:
        total = sum(float(value.double().abs().sum()) for value in saved.values())
        print(
            "FOUND"
            + json.dumps(
                {
                    "lines": lines, "logits": logits.tolist(), "total": total, "learning_rates": rates,
                    "seen": [one for calls in everyone for one in calls], "step": done[-1],
                }
            )
        )  # fmt: skip


if __name__ == "__main__":
    assert "WORLD_SIZE" in os.environ
    main(sys.argv[1], **json.loads(sys.argv[2]))
