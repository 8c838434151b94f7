"""Train the CountryReward model with Ray Train, by DeepSpeed or plain torch, and publish its model folder.

    python jobs/train_reward.py
    python jobs/train_reward.py --preset=qwen2-vl-7b --workers.workers=8 --workers.gpus_per_worker=1 --loop.zero_stage=3

A run that was killed goes on from its newest checkpoint when the same command is given again; Ctrl-C and SIGTERM write one first.

The second is the paper's training (Appendix G). Build the features first (jobs/build_features.py, same preset), or pass
--features='' to decode and encode in every step.
"""

from dataclasses import dataclass, field
from pathlib import Path

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.job_options import contained
from countryreward.on_ray.ray_config import ElasticWorkersConfig, RayConfig
from countryreward.training.training_config import RewardTraining


@dataclass(kw_only=True)
class Config:
    """Train on the train split, choose on validation."""

    training: RewardTraining = contained(
        lambda: RewardTraining(
            dataset="runs/demo/dataset",
            records="runs/demo/records",
            priors="runs/demo/priors",
            features="runs/demo/features",
        )
    )
    """What is trained on what."""
    knowledge_base: str = "runs/demo/knowledge_base"
    """The knowledge base of the priors: the model will ask it."""
    out: str = "runs/demo/model"
    """Model folder to publish."""
    runs: str = ""
    """Where the run folder (log, TensorBoard, checkpoints, best, last) is made; empty: `training` beside the model."""
    run_name: str = ""
    """Name of the run folder: the same name goes on where it was. Empty: made from inputs and options, so that the same command
    goes on and another one starts anew."""
    embed_knowledge_base: bool = True
    """Copy the knowledge base into the model folder, so that the folder works wherever it is taken; else its path is noted."""
    allow_collapsed: str = ""
    """Publish although the probe finds that the model has collapsed (one side, or one verdict for all markets); write why: the
    reason is kept in the model card and in probe.json."""
    simulated: bool = False
    """Say in the model card that the clicks were simulated."""
    workers: ElasticWorkersConfig = field(default_factory=ElasticWorkersConfig)
    """The processes."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    job = config.training
    from countryreward.retrieval.knowledge_base import KnowledgeBase
    from countryreward.scoring.model_folder import Sources, fill
    from countryreward.training.trackers import check_trackers, console

    dataset, records = open_artifact(job.dataset, kind="dataset"), open_artifact(job.records, kind="records")
    priors = open_artifact(job.priors, kind="priors") if job.priors else None
    sources = Sources(dataset, records, priors, KnowledgeBase.open(config.knowledge_base))
    sources.check()
    inputs = {"dataset": dataset, "records": records, "knowledge_base": sources.base.artifact}
    inputs |= {"priors": priors} if priors else {}
    inputs |= {"features": open_artifact(job.features, kind="features")} if job.features else {}
    versions = {name: artifact.manifest.version for name, artifact in inputs.items()}
    identity = job.identity(versions, config.workers.workers)
    options = identity.options | {"embed": config.embed_knowledge_base}
    model = current(config.out, kind="model", inputs=inputs, config=options)
    if model:
        print(f"train: {config.out} is up to date")
        return model
    from countryreward.on_ray.job_metrics import JobMetrics, metered
    from countryreward.on_ray.session import session
    from countryreward.on_ray.training import train_on_ray
    from countryreward.scoring.model_card import card_facts, model_card
    from countryreward.scoring.probe import check_draft

    folder = Path(config.runs or Path(config.out).parent / "training") / (config.run_name or identity.fingerprint())
    check_trackers(job.trackers)
    with publish(config.out, kind="model", inputs=inputs, config=options) as draft:
        with session(config.ray), console() as watch:
            watch = metered(watch, JobMetrics("train_reward"), folder.name, config.workers.workers)
            train_on_ray(job, folder, config.workers, identity, watch=watch)
        fill(
            draft.path, open_artifact(folder / "best", kind="weights").path, sources, embed=config.embed_knowledge_base
        )
        probe = check_draft(draft, allowed=config.allow_collapsed, kept=folder)
        card = model_card(card_facts(draft.path, options, sources.dataset, simulated=config.simulated))
        (draft.path / "README.md").write_text(card, encoding="utf-8")
    model = open_artifact(config.out, kind="model")
    print(
        f"train: probe: A to {probe.share_a:.0%} of {len(probe.rows)} questions; the verdict changes with the market on "
        f"{probe.changing} of {len(probe.shared)} pairs"
    )
    if collapsed := probe.collapsed():
        print(f"train: published although the model has collapsed: {collapsed}")
    print(f"train: version {model.manifest.version}, log and TensorBoard in {folder} -> {config.out}")
    return model


if __name__ == "__main__":
    run(Config, main)
