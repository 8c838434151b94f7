"""The chain with training: everything of prior_chain.py, then features -> model -> report of the model.

    COUNTRYREWARD_DATA=/path/to/data python jobs/reward_chain.py --config my.yaml

Each stage is a job of its own and is skipped when its result is up to date.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import build_features
import evaluate_reward
import prior_chain
import train_reward
from countryreward.command import run
from countryreward.job_options import contained
from countryreward.on_ray.ray_config import ElasticWorkersConfig
from countryreward.training.training_config import RewardTraining


def chain_training(**options: Any) -> RewardTraining:
    """A training whose inputs the chain names when it has made them."""
    return RewardTraining(dataset="", records="", priors="", features="", **options)


@dataclass(kw_only=True)
class Config(prior_chain.Config):
    """From an export to a trained model and its report."""

    training: RewardTraining = contained(chain_training, hidden=RewardTraining.PATHS)
    """What is trained; on what, the chain says."""
    run_name: str = ""
    """Name of the training's run folder: the same name goes on where it was. Empty: made from inputs and options."""
    allow_collapsed: str = ""
    """Publish although the probe finds that the model has collapsed; write why."""
    workers: ElasticWorkersConfig = field(default_factory=ElasticWorkersConfig)
    """The training's processes."""


def main(config: Config, *, report: bool = True) -> None:
    """report: whether to end with the report of jobs/evaluate_reward.py."""
    from countryreward.on_ray.session import session

    at = {name: f"{config.out}/{name}" for name in (*prior_chain.STAGES, "features", "model")}
    job = replace(config.training, **{name: at[name] for name in RewardTraining.PATHS})
    with session(config.ray):  # one Ray for all stages
        prior_chain.main(config, report=False)
        features = build_features.main(
            build_features.Config(
                dataset=at["dataset"],
                out=at["features"],
                preset=job.preset,
                backbone=job.backbone,
                image_px=job.image_px,
                gpus_per_actor=min(1.0, config.workers.gpus_per_worker),
                ray=config.ray,
            )
        )
        model = train_reward.main(
            train_reward.Config(
                training=job,
                knowledge_base=at["knowledge_base"],
                run_name=config.run_name,
                allow_collapsed=config.allow_collapsed,
                workers=config.workers,
                ray=config.ray,
                out=at["model"],
                simulated=bool(config.truth),
            )
        )
    if not report:
        return
    evaluate_reward.main(
        evaluate_reward.Config(
            dataset=at["dataset"],
            records=at["records"],
            knowledge_base=at["knowledge_base"],
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
    run(Config, main, reading=True)
