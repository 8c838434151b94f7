"""Two workers under ZeRO-2 train the model that one process trains: same losses, same judgements."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
    import functools, json, os, sys
    import numpy as np, pandas as pd, torch
    import micro_qwen
    from countryreward.models.rate_groups import rate_groups
    from countryreward.models.prompts import PromptBuilder
    from countryreward.models.reward_config import Rates
    from countryreward.scoring.examples import Examples
    from countryreward.scoring.judging import Loader, judge
    from countryreward.training.config import LoopConfig
    from countryreward.training.engine import DeepSpeedEngine, TorchEngine
    from countryreward.training.ranks import Ranks
    from countryreward.training.reward import total_steps, train_reward
    from countryreward.training.schedule import cosine_with_warmup

    torch.set_num_threads(1)
    engine_name, world = sys.argv[1], int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    ranks = Ranks.current()

    class Images:
        def __contains__(self, name):
            return True

        def read(self, names):
            rows = [np.random.default_rng(list(name.encode())).normal(size=(16, 16)) for name in names]
            return {"features": torch.tensor(np.array(rows), dtype=torch.float32)}

    model = micro_qwen.model(layers=2, focus_weight=0.1).train()
    builder = PromptBuilder(micro_qwen.TOKENIZER, model.options)
    rows, prompts = [], []
    for n in range(32):
        market = ("KR", "BR")[n % 2]
        prompts.append(builder.example(micro_qwen.fields(images=(f"a{n // 2}", f"b{n // 2}"), market=market, title=f"Bag {n}")))
        rows.append({"target": float((n // 2 + n) % 2), "label": (n // 2 + n) % 2})
    loader = Loader(Examples(prompts, pd.DataFrame(rows)), Images(), micro_qwen.PAD)
    loop = LoopConfig(
        epochs=1, batch_size=8 // world, accumulation=2, precision="fp32", orders="one", log_every=1, validations=1
    )
    steps = total_steps(32, loop, world)
    factor = functools.partial(cosine_with_warmup, total=steps, warmup_share=0.1)
    groups = rate_groups(model, Rates(merger=1e-3, llm=1e-3, adapter=1e-3, classifier=1e-3))
    shared = {"accumulation": 2, "max_grad_norm": 1.0}
    if engine_name == "torch":
        engine = TorchEngine(model, groups, factor, **shared)
    else:
        engine = DeepSpeedEngine(model, groups, factor, **shared, batch_size=8 // world, zero_stage=int(engine_name))
    lines = []
    train_reward(engine, model, loader, loop, steps=steps, log=lines.append, validate=lambda step: None, ranks=ranks)
    engine.bare.eval()
    mine = judge(engine.bare, loader, positions=ranks.share(32))
    logits = np.zeros(32)
    for rank, found in enumerate(ranks.gather(mine)):
        logits[Ranks(rank, world).share(32)] = found
    saved = engine.state_dict()
    if ranks.first:
        total = sum(float(value.double().abs().sum()) for value in saved.values())
        print("FOUND" + json.dumps({"lines": lines, "logits": logits.tolist(), "total": total}))
"""


def train(engine: str, world: int) -> dict:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = Path(__file__).parent
    workers = []
    for rank in range(world):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        place |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        place["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parents[1] / "platform")])
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), engine]
        workers.append(
            subprocess.Popen(command, env=os.environ | place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    done = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * world, done[0][1][-3000:]
    return json.loads(done[0][0].split("FOUND")[1].splitlines()[0])


@pytest.fixture(scope="module")
def alone() -> dict:
    return train("torch", 1)


@pytest.mark.parametrize("engine", ["torch", "2", "3"])
def test_two_workers_train_what_one_process_trains(alone: dict, engine: str):
    found = train(engine, 2)
    assert len(found["lines"]) == len(alone["lines"]) == 2
    for one, other in zip(alone["lines"], found["lines"], strict=True):
        for name in ("loss", "bce", "penalty", "wrong_share"):
            assert other[name] == pytest.approx(one[name], abs=1e-5), (engine, name)
        assert other["rates"] == pytest.approx(one["rates"])
    assert np.abs(np.array(found["logits"]) - np.array(alone["logits"])).max() < 1e-5
    assert found["total"] == pytest.approx(alone["total"], rel=1e-5)  # ZeRO-3's shards come back whole


def test_the_penaltys_gradient_is_logged(alone: dict):
    assert all(line["penalty_to_bce_gradient"] > 0 for line in alone["lines"])
