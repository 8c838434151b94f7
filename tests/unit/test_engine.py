"""Plain torch and DeepSpeed ZeRO 0-3 step alike: same losses, same rates, on one process."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
    import json, math, os, sys
    import torch
    from torch import nn
    from countryreward.training.engine import DeepSpeedEngine, TorchEngine

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)

    def losses(kind, stage=0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        groups = [
            {"params": list(model[0].parameters()), "lr": 1e-2, "weight_decay": 0.01},
            {"params": list(model[2].parameters()), "lr": 1e-3, "weight_decay": 0.01},
        ]
        factor = lambda step: 1 / (1 + step)
        shared = {"accumulation": 2, "max_grad_norm": 1.0}
        if kind == "torch":
            engine = TorchEngine(model, groups, factor, **shared)
        else:
            engine = DeepSpeedEngine(model, groups, factor, **shared, batch_size=4, zero_stage=stage)
        draws, found, steps, norms = torch.Generator().manual_seed(1), [], [], []
        for _ in range(8):
            x = torch.randn(4, 8, generator=draws)
            loss = (engine.model(x) - x.sum(1, keepdim=True)).pow(2).mean()
            engine.backward(loss)
            steps.append(engine.step())
            norms.append(engine.gradient_norm() if steps[-1] else 0.0)
            found.append(loss.item())
        told = {"losses": found, "steps": steps, "norms": norms, "learning_rates": engine.learning_rates()}
        for _ in range(2):
            engine.backward(engine.model(torch.full((4, 8), float("inf"))).mean())
            engine.step()
        return told | {"finite": math.isfinite(engine.gradient_norm())}

    found = {"torch": losses("torch"), **{str(stage): losses("deepspeed", stage) for stage in range(4)}}
    print("FOUND" + json.dumps(found))
"""


def test_deepspeed_of_every_stage_equals_plain_torch():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env=os.environ | here,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("FOUND")[1].splitlines()[0])
    plain = found.pop("torch")
    assert plain["steps"] == [False, True] * 4
    assert plain["learning_rates"] == [1e-2 / 5, 1e-3 / 5]
    norms = plain.pop("norms")
    assert norms[1] > 1  # measured before clipping
    assert not plain["finite"]
    for stage, other in found.items():
        assert other.pop("norms") == pytest.approx(norms, rel=1e-5), f"ZeRO-{stage}"
        assert other == plain, f"ZeRO-{stage}"
