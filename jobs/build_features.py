"""Frozen vision-tower outputs of every image of a dataset, once, with Ray Data (contract 5).

python jobs/build_features.py --preset=qwen2-vl-7b --gpus_per_actor=1
"""

from dataclasses import dataclass, field

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.on_ray.ray_config import RayConfig


@dataclass(kw_only=True)
class Config:
    """Encode every unique image."""

    dataset: str = "runs/demo/dataset"
    """A published dataset."""
    out: str = "runs/demo/features"
    """Folder to publish: features.npy, index.parquet, quarantine.jsonl."""
    preset: str = "tiny"
    """tiny, qwen2-vl-2b or qwen2-vl-7b: whose tower, and the picture size."""
    backbone: str = ""
    """Another backbone than the preset's: a Hugging Face id or folder of a Qwen2-VL."""
    image_px: int = 0
    """Side of the square that images are resized to; 0: the preset's."""
    batch_size: int = 64
    """Images per call of the tower."""
    gpus_per_actor: float = 0.0
    """GPUs of each encoding actor, fractions allowed; 0: processors only."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    from countryreward.models.reward_config import preset
    from countryreward.models.tower import VisionTower
    from countryreward.progress import bar

    dataset = open_artifact(config.dataset, kind="dataset")
    source, px = config.backbone or config.preset, config.image_px or preset(config.preset).image_px
    options = {"backbone": source, "tower": VisionTower(source, px=px).fingerprint, "px": px}
    found = current(config.out, kind="features", inputs={"dataset": dataset}, config=options)
    if found:
        print(f"features: {config.out} is up to date")
        return found
    from countryreward.on_ray.encode_dataset import build_features
    from countryreward.on_ray.session import session

    with (
        session(config.ray),
        publish(config.out, kind="features", inputs={"dataset": dataset}, config=options) as draft,
        bar("images seen") as progress,
    ):
        draft.counts |= build_features(
            dataset.path,
            draft.path,
            backbone=source,
            px=px,
            batch_size=config.batch_size,
            gpus_per_actor=config.gpus_per_actor,
            progress=progress,
        )
    made = open_artifact(config.out, kind="features")
    counts = made.manifest.counts["images"]
    print(
        f"features: {counts['input']:,} images = {counts['kept']:,} kept + {counts['quarantined']:,} quarantined,"
        f" {made.manifest.files['features.npy']['bytes'] / 2**20:,.0f} MiB -> {config.out}"
    )
    return made


if __name__ == "__main__":
    run(Config, main)
