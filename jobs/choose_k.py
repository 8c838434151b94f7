"""Appendix F: how many products and images to retrieve, from the decay of similarity by rank.

python jobs/choose_k.py --text_list=200 --threshold=0.8
"""

from dataclasses import dataclass
from pathlib import Path

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish


@dataclass(kw_only=True)
class Config:
    """Choose k of both retrieval stages."""

    records: str = "runs/demo/records"
    """Published records; the training ones are the queries."""
    embeddings: str = "runs/demo/embeddings"
    """Embeddings of the same dataset."""
    knowledge_base: str = "runs/demo/knowledge_base"
    """Where to search."""
    out: str = "runs/demo/choose_k"
    """Folder to publish: curves.json, curves.png."""
    text_list: int = 200
    """K of the text stage: the list length that the decay is measured over; k depends on it."""
    image_list: int = 100
    """K of the image stage."""
    threshold: float = 0.8
    """Share of the cumulative decay at which to stop (the paper's 80 %)."""
    most_queries: int = 300
    """Product x market queries to average over, drawn at random."""


def main(config: Config) -> Artifact:
    import json
    from dataclasses import asdict

    import pandas as pd

    from countryreward.evaluation.plots import choose_k_curves
    from countryreward.retrieval.choose_k import decay_curves
    from countryreward.retrieval.embedding_table import Embeddings
    from countryreward.retrieval.knowledge_base import KnowledgeBase

    records, source = open_artifact(config.records, kind="records"), Embeddings.open(config.embeddings)
    base = KnowledgeBase.open(config.knowledge_base)
    inputs = {"records": records, "embeddings": source.artifact, "knowledge_base": base.artifact}
    options = {name: value for name, value in asdict(config).items() if isinstance(value, (int, float))}
    published = current(config.out, kind="choose_k", inputs=inputs, config=options)
    if published:
        print(f"choose k: {config.out} is up to date")
        return published
    frame = pd.read_parquet(records.path / "records.parquet")
    with publish(config.out, kind="choose_k", inputs=inputs, config=options) as draft:
        decays = decay_curves(
            frame[frame["split"] == "train"], source, base, text_list=config.text_list, image_list=config.image_list,
            threshold=config.threshold, most_queries=config.most_queries,
        )  # fmt: skip
        curves = {stage: curve.as_dict() for stage, curve in decays.items()}
        (draft.path / "curves.json").write_text(json.dumps(curves, indent=1))
        (draft.path / "curves.png").write_bytes(choose_k_curves(curves))
    for stage, curve in curves.items():
        print(
            f"choose k: {stage} k = {curve['k']} of K = {curve['K']}"
            f" ({config.threshold:.0%} of the decay, {curve['queries']} lists)"
        )
    return open_artifact(Path(config.out), kind="choose_k")


if __name__ == "__main__":
    run(Config, main)
