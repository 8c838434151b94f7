"""Build the knowledge base from the observations of the training units, one FAISS index per market.

python jobs/build_knowledge_base.py --dataset=runs/bass/dataset --records=runs/bass/records ...
"""

from dataclasses import dataclass, field

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.data.data_config import SplitConfig
from countryreward.on_ray.ray_config import RayConfig


@dataclass(kw_only=True)
class Config:
    """Build the knowledge base."""

    dataset: str = "runs/demo/dataset"
    """A published dataset."""
    records: str = "runs/demo/records"
    """Its records: only for which products, images or periods are in training."""
    embeddings: str = "runs/demo/embeddings"
    """Its embeddings."""
    out: str = "runs/demo/knowledge_base"
    """Folder to publish."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    from countryreward.retrieval.embedding_table import Embeddings
    from countryreward.retrieval.knowledge_base import KIND

    dataset, records = open_artifact(config.dataset, kind="dataset"), open_artifact(config.records, kind="records")
    source = Embeddings.open(config.embeddings)
    inputs = {"dataset": dataset, "records": records, "embeddings": source.artifact}
    split = SplitConfig(**records.manifest.config["split"])
    options = {**source.artifact.manifest.config, "split": records.manifest.config["split"]}
    found = current(config.out, kind=KIND, inputs=inputs, config=options)
    if found:
        print(f"knowledge base: {config.out} is up to date")
        return found
    import pandas as pd

    from countryreward.data.dataset import Dataset
    from countryreward.on_ray.build_knowledge_base import build_knowledge_base
    from countryreward.on_ray.session import session
    from countryreward.progress import bar

    units = pd.read_parquet(records.path / "units.parquet")
    with (
        session(config.ray),
        publish(config.out, kind=KIND, inputs=inputs, config=options) as draft,
        bar("markets") as progress,
    ):
        draft.counts |= build_knowledge_base(
            Dataset.read(dataset.path), units, split, source, draft.path, progress=progress
        )
    entries = draft.counts["entries"]
    print(f"knowledge base: {sum(entries.values()):,} past ads in {len(entries)} markets -> {config.out}")
    return open_artifact(config.out, kind=KIND)


if __name__ == "__main__":
    run(Config, main)
