"""How much faster is a preference update (Eq. 14) that has its reference computed once and reads each prompt once?

    python benchmarks/dpo_update.py

A is what jobs/align_designs.py does: reference log-probabilities from before the training, one row for both designs of a pair.
B runs policy and reference forwards in every step, one row per design. Trainer, model, pairs and batches are the same; data
loading, forward, backward and optimizer step are in it. A/B/A/B...; prints the ratio of each pair of rounds, their median and
spread, also with the one pass that A makes before a training of one epoch, how far the losses are apart, and the machine.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps per round")
    parser.add_argument("--batch", type=int, default=16, help="pairs per step")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    parser.add_argument("--preset", default="tiny", help="tiny, qwen2-vl-2b, qwen2-vl-7b")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()

    import torch

    from countryreward.machine import describe_machine

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, examples = _trainers(Path(folder), options)
        optimizers = {
            name: torch.optim.AdamW([p for p in one.model.parameters() if p.requires_grad], lr=0.0)
            for name, one in (("ours", ours), ("theirs", theirs))
        }

        def updates(name: str, trainer: Any) -> tuple[float, list[float]]:
            losses, began = [], time.perf_counter()
            for step in range(options.steps):
                chosen = examples(trainer, step)
                batch = trainer._prepare_inputs(trainer.data_collator(chosen))
                loss = trainer.compute_loss(trainer.model, batch)
                loss.backward()
                optimizers[name].step()
                optimizers[name].zero_grad(set_to_none=True)
                losses.append(loss.item())
            return (time.perf_counter() - began) / options.steps, losses

        def reference_pass() -> float:
            began = time.perf_counter()
            for step in range(options.steps):
                batch = ours._prepare_inputs(ours.data_collator(examples(ours, step)))
                ours.compute_ref_log_probs(ours.model, batch)
            return (time.perf_counter() - began) / options.steps

        losses = [updates("ours", ours)[1], updates("theirs", theirs)[1]]  # warm up both
        apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
        rounds = []
        for _ in range(options.rounds):
            a, before, b = updates("ours", ours)[0], reference_pass(), updates("theirs", theirs)[0]
            rounds.append((b / a, b / (a + before)))
            print(f"ours {a * 1e3:7.1f} ms/step   both forwards {b * 1e3:7.1f} ms/step   ratio {b / a:.2f}")
    ratios, whole = ([one[n] for one in rounds] for n in (0, 1))
    print(
        json.dumps(
            {
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "with_the_pass_before_one_epoch": round(statistics.median(whole), 3),
                "largest_difference_of_losses": apart,
                "rounds": options.rounds,
                "steps": options.steps,
                "batch": options.batch,
                "preset": options.preset,
                "device": options.device,
                "machine": describe_machine(),
            }
        )
    )


def _trainers(folder: Path, options: Any) -> tuple[Any, Any, Any]:
    """Ours, the rival, and what gives a step's examples."""
    import copy

    import numpy as np
    import torch
    from datasets import Dataset
    from trl import DPOConfig  # pyright: ignore[reportPrivateImportUsage]

    from countryreward.data.marketplace.export import draw_creative
    from countryreward.data.marketplace.marketplace_config import MarketplaceConfig
    from countryreward.data.marketplace.simulate import simulate
    from countryreward.generation.templates import TEMPLATES
    from countryreward.models.design_writer import DesignWriterModel
    from countryreward.models.reward_config import preset
    from countryreward.training.writer_rows import WriterRow
    from countryreward.training.writer_trainers import PairCollator, PreferenceTrainer, TwoRows

    count = options.steps * options.batch
    px = preset(options.preset).image_px
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    writer = DesignWriterModel.load(options.preset, px=px, device=options.device, dtype=dtype)
    for name, parameter in writer.model.named_parameters():
        if name.startswith("model.visual.") and not name.startswith("model.visual.merger."):
            parameter.requires_grad_(False)
    market = simulate(MarketplaceConfig(products=count, creatives_per_product=1, markets=["KR"], periods=1, seed=3))

    class Drawn(dict):
        """Pictures by name, at the writer's size."""

    pictures: Any = Drawn()
    pictures.px = px
    rng, rows = np.random.default_rng(0), []
    for product, spec in zip(market.products.to_dict("records"), market.specs.to_dict("records"), strict=True):
        pictures[product["product_id"]] = draw_creative({str(name): value for name, value in spec.items()}, px=px)
        fields = writer.fields(
            product["title"], product["category"], product["attributes"], "KR", product["product_id"]
        )
        first, second = rng.choice(len(TEMPLATES), 2, replace=False)
        answers = tuple(writer.prompt.answer(TEMPLATES[n].design) for n in (first, second))
        rows.append(WriterRow(writer.prompt.splice(fields), answers, "KR"))
    shared: dict[str, Any] = {
        "output_dir": str(folder), "max_length": None, "report_to": [], "remove_unused_columns": False,
        "use_cpu": options.device == "cpu", "bf16": options.device == "cuda", "gradient_checkpointing": False,
    }  # fmt: skip
    made = []
    for precomputed in (True, False):
        numbers = folder / f"rows-{precomputed}"
        Dataset.from_dict({"row": list(range(count))}).save_to_disk(str(numbers))
        model = copy.deepcopy(writer.model)
        made.append(
            PreferenceTrainer(
                model=model,
                ref_model=None if precomputed else copy.deepcopy(writer.model),
                args=DPOConfig(**shared, precompute_ref_log_probs=precomputed),
                train_dataset=Dataset.load_from_disk(str(numbers)),
                data_collator=PairCollator(rows, pictures, writer.processor, shared_prefix=precomputed),
                processing_class=writer.processor,
            )
        )

    made[1].ref_model = TwoRows(made[1].ref_model)

    def examples(trainer: Any, step: int) -> list[dict[str, Any]]:
        return [trainer.train_dataset[step * options.batch + n] for n in range(options.batch)]

    return made[0], made[1], examples


if __name__ == "__main__":
    main()
