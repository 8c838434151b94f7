"""How much faster is a training step that reads stored features than one that decodes and encodes its images?

    python benchmarks/stored_features.py --run=runs/demo

The same loop, the same batches, one process: A reads features, B decodes the files and runs the frozen tower in every step.
A/B/A/B...; prints the ratio of each pair of rounds, their median and spread, and the machine.
"""

import argparse
import json
import statistics
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo", help="a run folder with dataset, records, priors, features")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps per round")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    options = parser.parse_args()

    import dataclasses

    import torch

    from countryreward.data.artifacts import open_artifact
    from countryreward.data.quarantine import Quarantine
    from countryreward.machine import describe_machine
    from countryreward.models.reward_config import preset
    from countryreward.scoring.predict import image_inputs
    from countryreward.training import reward_run as training
    from countryreward.training.reward_loop import train_reward
    from countryreward.training.training_config import LoopConfig, RewardTraining

    torch.set_num_threads(options.threads)
    folder = Path(options.run)
    job = RewardTraining(
        dataset=f"{folder}/dataset",
        records=f"{folder}/records",
        priors=f"{folder}/priors",
        features=f"{folder}/features",
        loop=LoopConfig(engine="torch", validations=1, log_every=10**6),
    )
    loop = training.settled(job.loop.resolved(preset(job.preset)), training.ProcessGroup(), "cpu")
    model, processor = training.load_model(job, loop, "cpu")
    stored, _ = training.load_examples(job, model, processor, Quarantine("benchmark"), loop, lambda _: None)
    dataset = open_artifact(job.dataset, kind="dataset").path
    decoded = dataclasses.replace(stored, images=image_inputs("", dataset, model, processor, px=job.px()))
    engine = training.make_engine(model, job, loop, steps=10**6)

    def pairs_per_second(loader: training.Loader) -> float:
        started = time.perf_counter()
        train_reward(engine, model, loader, loop, steps=options.steps, log=lambda _: None, validate=lambda _: None)
        return options.steps * loop.value("batch_size") * loop.value("accumulation") / (time.perf_counter() - started)

    for loader in (stored, decoded):  # warm up both
        pairs_per_second(loader)
    rounds = [(pairs_per_second(stored), pairs_per_second(decoded)) for _ in range(options.rounds)]
    ratios = [a / b for a, b in rounds]
    for a, b in rounds:
        print(f"stored {a:7.1f} pairs/s   decoded and encoded {b:7.1f} pairs/s   ratio {a / b:.2f}")
    print(
        json.dumps(
            {
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "rounds": options.rounds,
                "steps": options.steps,
                "batch": loop.value("batch_size"),
                "image_px": job.px(),
                "orders": loop.orders,
                "machine": describe_machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
