"""Teach the tiny Qwen2-VL to describe drawn creatives; --ship makes the result the package's backbone.

python jobs/pretrain_tiny.py --minutes=8 --out=runs/backbone
"""

import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from countryreward.command import run
from countryreward.data.artifacts import Artifact, open_artifact, publish
from countryreward.models.pretrain_config import HELD_OUT_SEED, PRETEXT_SEED, PretrainConfig


def main(config: PretrainConfig) -> Artifact:
    import torch

    from countryreward.machine import describe_machine
    from countryreward.models import captions, pretrain, tokenizer
    from countryreward.models import tiny_backbone as backbone
    from countryreward.progress import bar

    torch.set_num_threads(config.threads)
    first, held = PRETEXT_SEED + 100_000 * config.seed, HELD_OUT_SEED + 100_000 * config.seed
    with publish(config.out, kind="backbone", config=config) as draft:
        with bar("pretext pictures") as progress:
            seen = captions.pretext_set(first, config.images, px=config.px, workers=config.threads, progress=progress)
        unseen = captions.pretext_set(held, config.held_out, px=config.px, workers=config.threads)
        before = None
        if config.start:
            folder = backbone.SHIPPED if config.start == "shipped" else Path(config.start)
            model, processor = backbone.load_tiny(folder)
            before = json.loads((folder / "pretext.json").read_text(encoding="utf-8"))
        else:
            words = tokenizer.train_tokenizer(tokenizer.tokenizer_texts(PRETEXT_SEED), config.vocab_size)
            model, processor = backbone.new_tiny(words, config.seed)
        backbone.widen(model, processor, tokenizer.PHRASES, config.seed)
        started, smooth = time.monotonic(), 0.0
        with bar("pretraining seconds") as progress:

            def log(step: int, seconds: float, loss: float) -> None:
                nonlocal smooth
                smooth = loss if step == 1 else 0.98 * smooth + 0.02 * loss
                progress(int(seconds), int(60 * config.minutes))
                if step % 100 == 0:
                    print(f"  step {step:>6,}  {seconds:6.0f} s  loss {smooth:.4f}")

            steps = pretrain.train(model, processor, seen, config, log)
        seconds = time.monotonic() - started
        fresh = backbone.refresh_unused(model, pretrain.used_tokens(processor), config.seed)
        right = pretrain.accuracies(model, processor, unseen)
        backbone.save_tiny(model, processor, draft.path)
        draft.counts |= {"pictures": config.images, "held_out": config.held_out, "steps": steps}
        story = {
            "command": "python " + " ".join(sys.argv),
            "config": asdict(config),
            "seeds": {"pretext": [first, first + config.images - 1], "held_out": [held, held + config.held_out - 1]},
            "machine": describe_machine(),
            "torch": torch.__version__,
            "parameters": sum(value.numel() for value in model.parameters()),
            "steps": steps,
            "training_seconds": round(seconds, 1),
            "pictures_per_second": round(steps * min(config.batch, config.images) / max(seconds, 1e-3), 1),
            "last_loss": round(smooth, 4),
            "held_out_accuracy": right,
            "tokens_the_pretext_never_met": fresh,
            "started_from": before,
        }
        (draft.path / "pretext.json").write_text(json.dumps(story, indent=2) + "\n", encoding="utf-8")
    print(f"backbone: {steps:,} steps in {seconds:.0f} s, loss {smooth:.3f} -> {config.out}")
    print("held out: " + ", ".join(f"{name} {value:.3f}" for name, value in right.items()))
    made = open_artifact(Path(config.out), kind="backbone")
    if config.ship:
        backbone.SHIPPED.mkdir(exist_ok=True)
        for name in made.manifest.files:
            shutil.copyfile(made.path / name, backbone.SHIPPED / name)
        print(
            f"shipped: {sum(entry['bytes'] for entry in made.manifest.files.values()) / 1e6:.1f} MB -> {backbone.SHIPPED}"
        )
    return made


if __name__ == "__main__":
    run(PretrainConfig, main)
