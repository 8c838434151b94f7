"""Does `countryreward plan` tell the truth? Planned against measured memory and step time, at two small sizes on this machine.

    python benchmarks/plan_agreement.py

Memory: each size trains in a fresh process, with the real loop (its log line included), and the peak of the resident set above
the state before the model is built is compared with the plan's. Two readings, both of which can only miss some of it: the
kernel's high-water mark, which loses library pages that the system takes back meanwhile, and anonymous memory looked at every
2 ms; the larger counts. glibc gives memory back at once (MALLOC_MMAP_THRESHOLD_), or freed activations would count as used.

Time: the plan measures models of 1 and 3 layers and draws a line; the full depth is measured in the same process, in turn with
it, so that a busy neighbour meets both. Prints ratios and the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "width 256, 6 layers": {"width": 256, "layers": 6, "ffn": 768, "heads": 4, "kv": 4, "vocabulary": 2000},
    "width 512, 4 layers": {"width": 512, "layers": 4, "ffn": 2048, "heads": 8, "kv": 2, "vocabulary": 8000},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--batch", type=int, default=16, help="pairs per step")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each depth, taken in turn")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--engine", choices=("torch", "deepspeed"), default="torch")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--only", choices=("memory", "time"), help="one of the two comparisons")
    parser.add_argument("--child", choices=SIZES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("FOUND" + json.dumps(_measured_memory(options, SIZES[options.child])))
        return
    from countryreward.machine import describe_machine

    found: dict[str, Any] = {"machine": describe_machine(), "threads": options.threads, "batch": options.batch}
    found |= {name: getattr(options, name) for name in ("precision", "engine", "gradient_checkpointing")}
    for name, size in SIZES.items():
        line: dict[str, Any] = {}
        if options.only != "time":
            line |= _memory(options, name)
            print(
                f"{name}: memory planned {line['planned_mib']} MiB, measured {line['measured_mib']} MiB, "
                f"ratio {line['memory_ratio']}",
                flush=True,
            )
        if options.only != "memory":
            line |= _time(options, size)
            print(
                f"{name}: step planned {line['planned_ms']} ms, measured {line['measured_ms']} ms, "
                f"ratio {line['time_ratio']}",
                flush=True,
            )
        found[name] = line
    print(json.dumps(found))


def _plan_options(options: argparse.Namespace) -> Any:
    from countryreward.training.planning.options import PlanOptions
    from countryreward.training.training_config import LoopConfig

    loop = LoopConfig(
        engine=options.engine,
        precision=options.precision,
        batch_size=options.batch,
        accumulation=1,
        gradient_checkpointing=options.gradient_checkpointing,
        orders="both",
    )
    return PlanOptions(preset="tiny", gpus="here", image_px=112, text_tokens=96, loop=loop)


def _config(options: Any, size: dict[str, int]) -> Any:
    from dataclasses import asdict

    from transformers import Qwen2VLConfig

    from countryreward.models.reward_model import CountryRewardConfig

    half = size["width"] // size["heads"] // 2  # of a head: what the three rotary sections share
    backbone = Qwen2VLConfig(
        text_config={
            "vocab_size": size["vocabulary"],
            "hidden_size": size["width"],
            "intermediate_size": size["ffn"],
            "num_hidden_layers": size["layers"],
            "num_attention_heads": size["heads"],
            "num_key_value_heads": size["kv"],
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [half // 2, half // 4, half // 4]
            },
        },
        vision_config={"depth": 2, "embed_dim": 128, "num_heads": 4, "mlp_ratio": 4, "hidden_size": size["width"],
                       "patch_size": 14},
        image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
    )  # fmt: skip
    return CountryRewardConfig(qwen2_vl=backbone, options=asdict(options.reward))


def _memory(options: argparse.Namespace, name: str) -> dict[str, Any]:
    arguments = [sys.executable, __file__, "--child", name, "--threads", str(options.threads)]
    arguments += ["--batch", str(options.batch), "--precision", options.precision, "--engine", options.engine]
    arguments += ["--gradient-checkpointing"] if options.gradient_checkpointing else []
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.split("FOUND")[1])


def _measured_memory(options: argparse.Namespace, size: dict[str, int]) -> dict[str, Any]:
    import gc
    import threading

    import torch

    from countryreward.training.planning.memory import memory
    from countryreward.training.planning.plan import setting_of
    from countryreward.training.planning.rehearsal import alone, rehearse
    from countryreward.training.planning.shape import shape_of, with_layers

    torch.set_num_threads(options.threads)
    planned = _plan_options(options)
    config = _config(planned, size)
    with alone(planned):
        # libraries load and allocate on first use: a first step of a model of one narrow layer takes that out of the difference
        rehearse(with_layers(_config(planned, size | SMALL), 1), planned.with_loop(batch_size=1), "cpu").run(1)
        gc.collect()
        before, done, seen = _status(), threading.Event(), [0.0]

        def watch() -> None:
            while not done.wait(0.002):
                seen[0] = max(seen[0], _status()["RssAnon"])

        watching = threading.Thread(target=watch)
        watching.start()
        rehearse(config, planned, "cpu").run(3)
        done.set()
        watching.join()
    grown = max(seen[0] - before["RssAnon"], _status()["VmHWM"] - before["VmRSS"])
    found = memory(shape_of(config), planned, setting_of(planned, 1, cuda=False))
    return {
        "planned_mib": round(found.peak / 2**20),
        "measured_mib": round(grown / 2**20),
        "memory_ratio": round(found.peak / grown, 3),
        "moment": found.moment,
    }


def _status() -> dict[str, float]:
    """This process's memory in bytes, as Linux tells it."""
    with open("/proc/self/status", encoding="utf-8") as lines:
        pairs = [line.split() for line in lines if line.startswith(("Rss", "Vm"))]
    return {name.rstrip(":"): 1024.0 * float(value) for name, value, *_ in pairs}


SMALL = {"width": 64, "ffn": 64, "heads": 4, "kv": 4, "vocabulary": 64}


def _time(options: argparse.Namespace, size: dict[str, int]) -> dict[str, Any]:
    import torch

    from countryreward.training.planning.rehearsal import alone, measure, rehearse

    torch.set_num_threads(options.threads)
    planned = _plan_options(options)
    config = _config(planned, size)
    with alone(planned):
        whole = rehearse(config, planned, "cpu")
        whole.run(2)
        rounds = []
        for _ in range(3):  # plan and truth in turn
            timing = measure(config, planned, "cpu", rounds=max(2, options.rounds // 3))
            rounds.append((timing.seconds, statistics.median(whole.run(6)[:-1])))
    ratios = [plan / real for plan, real in rounds]
    return {
        "planned_ms": round(1000 * statistics.median(plan for plan, _ in rounds), 1),
        "measured_ms": round(1000 * statistics.median(real for _, real in rounds), 1),
        "time_ratio": round(statistics.median(ratios), 3),
        "time_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


if __name__ == "__main__":
    main()
