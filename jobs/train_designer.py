"""Teach a design writer by example, or by what was preferred (Ray Train, DeepSpeed).

    python jobs/train_designer.py
    python jobs/train_designer.py --preset=qwen2-vl-7b --workers.workers=8 --workers.gpus_per_worker=1 --lora.rank=64
    python jobs/train_designer.py --pairs=runs/demo/pairs --writer=runs/demo/designer --out=runs/demo/aligned

The first two are supervised fine-tuning on designs by product and market; the third is DPO (Eq. 14) on preference pairs, against
the writer it starts from. A run that was killed goes on from its newest checkpoint when the same command is given again.
"""

from dataclasses import dataclass, field
from pathlib import Path

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact
from countryreward.errors import UserError
from countryreward.job_options import contained
from countryreward.on_ray.ray_config import RayConfig, WorkersConfig
from countryreward.training.training_config import WriterTraining


@dataclass(kw_only=True)
class Config:
    """Train on the designs of the train split, or on pairs."""

    training: WriterTraining = contained(
        lambda: WriterTraining(designs="runs/demo/designs", dataset="runs/demo/dataset")
    )
    """What is trained on what."""
    out: str = "runs/demo/designer"
    """Design writer to publish."""
    runs: str = ""
    """Where the run folder (log, checkpoints) is made; empty: `training` beside the writer."""
    run_name: str = ""
    """Name of the run folder; empty: made from inputs and options."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """The processes."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    job = config.training
    if job.pairs and not job.writer:
        raise UserError("writer: pairs are learned against a reference; give the design writer that wrote them")
    if job.pairs:
        inputs = {"pairs": open_artifact(job.pairs, kind="pairs")}
    else:
        inputs = {
            "designs": open_artifact(job.designs, kind="designs"),
            "dataset": open_artifact(job.dataset, kind="dataset"),
        }
    inputs |= {"writer": open_artifact(job.writer, kind="design_writer")} if job.writer else {}
    versions = {name: artifact.manifest.version for name, artifact in inputs.items()}
    identity = job.identity(versions, config.workers.workers)
    writer = current(config.out, kind="design_writer", inputs=inputs, config=identity.options)
    if writer:
        print(f"designer: {config.out} is up to date")
        return writer
    from countryreward.on_ray.job_metrics import JobMetrics, metered
    from countryreward.on_ray.session import session
    from countryreward.on_ray.training import train_on_ray
    from countryreward.training.trackers import console
    from countryreward.training.writer_folder import publish_writer

    folder = Path(config.runs or Path(config.out).parent / "training") / (config.run_name or identity.fingerprint())
    with session(config.ray), console() as watch:
        watch = metered(watch, JobMetrics("train_designer"), folder.name, config.workers.workers)
        train_on_ray(job, folder, config.workers, identity, watch=watch)
    writer = publish_writer(config.out, folder, inputs, identity.options)
    print(f"designer: version {writer.manifest.version}, log in {folder} -> {config.out}")
    return writer


if __name__ == "__main__":
    run(Config, main)
