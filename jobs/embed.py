"""Embed every product text and image of a dataset once, with Ray Data.

python jobs/embed.py --encoders.image=clip:openai/clip-vit-base-patch32
"""

from dataclasses import dataclass, field

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.on_ray.ray_config import RayConfig
from countryreward.retrieval.retrieval_config import EncodersConfig


@dataclass(kw_only=True)
class Config:
    """Embed texts and images."""

    dataset: str = "runs/demo/dataset"
    """A published dataset."""
    out: str = "runs/demo/embeddings"
    """Folder to publish."""
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    """Which encoders."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    from countryreward.progress import bar
    from countryreward.retrieval.encoders import load_image_encoder, load_text_encoder

    dataset = open_artifact(config.dataset, kind="dataset")
    options = {
        "encoder_names": {"text": config.encoders.text, "image": config.encoders.image},
        "encoders": {
            "text": load_text_encoder(config.encoders.text).fingerprint,
            "image": load_image_encoder(config.encoders.image).fingerprint,
        },
    }
    found = current(config.out, kind="embeddings", inputs={"dataset": dataset}, config=options)
    if found:
        print(f"embed: {config.out} is up to date")
        return found
    from countryreward.on_ray.encode_dataset import embed_dataset
    from countryreward.on_ray.session import session

    with (
        session(config.ray),
        publish(config.out, kind="embeddings", inputs={"dataset": dataset}, config=options) as draft,
        bar("images embedded") as progress,
    ):
        draft.counts |= embed_dataset(dataset.path, draft.path, config.encoders, progress=progress)
    print(f"embed: {draft.counts['texts']['kept']:,} texts, {draft.counts['images']['kept']:,} images -> {config.out}")
    return open_artifact(config.out, kind="embeddings")


if __name__ == "__main__":
    run(Config, main)
