"""Simulate a marketplace whose truth is known and write it as an ad platform would export it.

python jobs/make_marketplace.py --marketplace.level=real-noise --out=runs/noisy/export
"""

from dataclasses import dataclass, field
from pathlib import Path

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig


@dataclass(kw_only=True)
class Config:
    """Simulate a marketplace: tables, images and the true click probabilities."""

    out: str = "runs/demo/export"
    """Folder to publish: products.csv, creatives.csv, observations.csv, images/, truth.parquet, designs.jsonl."""
    marketplace: MarketplaceConfig = field(default_factory=MarketplaceConfig)
    """What to simulate."""


def main(config: Config) -> Artifact:
    artifact = current(config.out, kind="export", config=config.marketplace.shaping())
    if artifact:
        print(f"marketplace: {config.out} is up to date")
        return artifact
    from countryreward.data.marketplace.export import write_export
    from countryreward.progress import bar

    with (
        publish(config.out, kind="export", config=config.marketplace.shaping()) as draft,
        bar("pictures drawn") as progress,
    ):
        draft.counts |= write_export(draft.path, config.marketplace, progress=progress)
    counts = ", ".join(f"{name} {count:,}" for name, count in draft.counts.items())
    print(f"marketplace: {counts} -> {config.out}")
    return open_artifact(Path(config.out), kind="export")


if __name__ == "__main__":
    run(Config, main)
