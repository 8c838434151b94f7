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
from countryreward.models.reward_config import LoraOptions
from countryreward.on_ray.ray_config import RayConfig, WorkersConfig
from countryreward.training.writer_training_config import WriterLoop, WriterTraining


@dataclass(kw_only=True)
class Config:
    """Train on the designs of the train split, or on pairs."""

    designs: str = "runs/demo/designs"
    """Published designs (jobs/import_designs.py)."""
    dataset: str = "runs/demo/dataset"
    """The published dataset of their products."""
    pairs: str = ""
    """Published preference pairs (jobs/generate_pairs.py) to learn from instead of designs."""
    writer: str = ""
    """Published design writer to go on from, with pairs the reference of Eq. 14; empty: the backbone."""
    out: str = "runs/demo/designer"
    """Design writer to publish."""
    runs: str = ""
    """Where the run folder (log, checkpoints) is made; empty: `training` beside the writer."""
    run_name: str = ""
    """Name of the run folder; empty: made from inputs and options."""
    preset: str = "tiny"
    """tiny, qwen2-vl-2b or qwen2-vl-7b: backbone, picture size, rates, batch."""
    backbone: str = ""
    """Another backbone than the preset's: a Hugging Face id or folder of a Qwen2-VL."""
    image_px: int = 0
    """Side of the square that pictures are resized to; 0: the preset's."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank updates of the language model; rank 0: it is trained in full."""
    loop: WriterLoop = field(default_factory=WriterLoop)
    """The optimisation."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """The processes."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    if config.pairs and not config.writer:
        raise UserError("writer: pairs are learned against a reference; give the design writer that wrote them")
    same = {name: getattr(config, name) for name in ("writer", "preset", "backbone", "image_px", "lora", "loop")}
    if config.pairs:
        job = WriterTraining(stage="preference", rows=config.pairs, pictures=config.pairs, **same)
        inputs = {"pairs": open_artifact(config.pairs, kind="pairs")}
    else:
        job = WriterTraining(
            stage="supervised", rows=config.designs, pictures=config.dataset, dataset=config.dataset, **same
        )
        inputs = {
            "designs": open_artifact(config.designs, kind="designs"),
            "dataset": open_artifact(config.dataset, kind="dataset"),
        }
    inputs |= {"writer": open_artifact(config.writer, kind="design_writer")} if config.writer else {}
    from countryreward.training.writer_folder import publish_writer, writer_options

    options = writer_options(job) | {"workers": config.workers.workers}
    found = current(config.out, kind="design_writer", inputs=inputs, config=options)
    if found:
        print(f"designer: {config.out} is up to date")
        return found
    from countryreward.on_ray.job_metrics import JobMetrics, metered
    from countryreward.on_ray.session import session
    from countryreward.on_ray.writer_training import train_writer_on_ray
    from countryreward.training.console import watching
    from countryreward.training.reward_run import fingerprint

    identity = {"inputs": {name: made.manifest.version for name, made in inputs.items()}, "options": options}
    folder = Path(config.runs or Path(config.out).parent / "training") / (config.run_name or fingerprint(identity))
    with session(config.ray), watching() as watch:
        heard = metered(watch, JobMetrics("train_designer"), folder.name, config.workers.workers)
        train_writer_on_ray(job, folder, config.workers, identity, watch=heard)
    made = publish_writer(config.out, folder, inputs, options)
    print(f"designer: version {made.manifest.version}, log in {folder} -> {config.out}")
    return made


if __name__ == "__main__":
    run(Config, main)
