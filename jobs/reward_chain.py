"""The chain with training: everything of prior_chain.py, then features -> model -> report of the model.

    COUNTRYREWARD_DATA=/path/to/data python jobs/reward_chain.py --config my.yaml

Each stage is a job of its own and is skipped when its result is up to date.
"""

from dataclasses import dataclass, field
from typing import Any

import build_features
import evaluate_reward
import prior_chain
import train_reward
from countryreward.command import run
from countryreward.models.reward_config import LoraOptions, RewardOptions
from countryreward.on_ray.ray_config import ElasticWorkersConfig
from countryreward.training.training_config import LoopConfig


@dataclass(kw_only=True)
class Config(prior_chain.Config):
    """From an export to a trained model and its report."""

    preset: str = "tiny"
    """tiny, qwen2-vl-2b or qwen2-vl-7b: backbone, picture size, rates, batch."""
    backbone: str = ""
    """Another backbone than the preset's: a Hugging Face id or folder of a Qwen2-VL."""
    image_px: int = 0
    """Side of the square that images are resized to; 0: the preset's."""
    reward: RewardOptions = field(default_factory=RewardOptions)
    """What the model computes."""
    rates: dict[str, float] = field(default_factory=dict)
    """Peak learning rates by group; what is not named is the preset's."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates of the language model."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The optimisation."""
    trackers: list[str] = field(default_factory=list)
    """Where the numbers go beside log and TensorBoard: mlflow, wandb (extras of the same names)."""
    run_name: str = ""
    """Name of the training's run folder: the same name goes on where it was. Empty: made from inputs and options."""
    allow_collapsed: str = ""
    """Publish although the probe finds that the model has collapsed; write why."""
    workers: ElasticWorkersConfig = field(default_factory=ElasticWorkersConfig)
    """The training's processes."""


def main(config: Config, *, report: bool = True) -> None:
    """report: whether to end with the report of jobs/evaluate_reward.py."""
    from countryreward.on_ray.session import session

    def same(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    at = {name: f"{config.out}/{name}" for name in (*prior_chain.STAGES, "features", "model")}
    tables: dict[str, Any] = {name: at[name] for name in ("dataset", "records", "knowledge_base")}
    picture = same(("preset", "backbone", "image_px"))
    with session(config.ray):  # one Ray for all stages
        prior_chain.main(config, report=False)
        features = build_features.main(
            build_features.Config(
                dataset=at["dataset"],
                out=at["features"],
                **picture,
                gpus_per_actor=min(1.0, config.workers.gpus_per_worker),
                ray=config.ray,
            )
        )
        model = train_reward.main(
            train_reward.Config(
                **tables,
                **picture,
                **same(
                    ("reward", "rates", "lora", "loop", "trackers", "run_name", "allow_collapsed", "workers", "ray")
                ),
                priors=at["priors"],
                features=at["features"],
                out=at["model"],
                simulated=bool(config.truth),
            )
        )
    if not report:
        return
    evaluate_reward.main(
        evaluate_reward.Config(
            **tables,
            model=at["model"],
            embeddings=at["embeddings"],
            features=at["features"],
            priors={"prior_only": at["priors"], "prior_only_paper": at["priors_paper"]},
            choose_k=at["choose_k"],
            truth=config.truth,
            out=at["report"],
            draws=config.draws,
            stages=config.stages | {"features": features.manifest.seconds, "model": model.manifest.seconds},
        )
    )


if __name__ == "__main__":
    run(Config, main)
