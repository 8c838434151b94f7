"""Priors of records from a knowledge base (Eq. 1-3), keyed by record, knowledge-base version and retrieval configuration.

python jobs/build_priors.py --retrieval.prior.reading=paper --out=runs/demo/priors_paper
"""

from dataclasses import dataclass, field
from typing import Literal

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.retrieval.retrieval_config import RetrievalConfig


@dataclass(kw_only=True)
class Config:
    """Retrieve a prior for every record."""

    records: str = "runs/demo/records"
    """Published records."""
    embeddings: str = "runs/demo/embeddings"
    """Embeddings of the same dataset."""
    knowledge_base: str = "runs/demo/knowledge_base"
    """Where to search."""
    out: str = "runs/demo/priors"
    """Folder to publish: priors.parquet, quarantine.jsonl."""
    split: Literal["all", "train", "validation", "test"] = "all"
    """Which records."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Search, guards and vote."""


def main(config: Config) -> Artifact:
    import pandas as pd

    from countryreward.progress import bar
    from countryreward.retrieval.bulk_priors import build_priors
    from countryreward.retrieval.embedding_table import Embeddings
    from countryreward.retrieval.knowledge_base import KnowledgeBase
    from countryreward.retrieval.prior import PriorRetriever

    records, source = open_artifact(config.records, kind="records"), Embeddings.open(config.embeddings)
    base = KnowledgeBase.open(config.knowledge_base)
    inputs = {"records": records, "embeddings": source.artifact, "knowledge_base": base.artifact}
    options = {"retrieval": config.retrieval, "split": config.split}
    found = current(config.out, kind="priors", inputs=inputs, config=options)
    if found:
        print(f"priors: {config.out} is up to date")
        return found
    frame = pd.read_parquet(records.path / "records.parquet")
    if config.split != "all":
        frame = frame[frame["split"] == config.split]
    with publish(config.out, kind="priors", inputs=inputs, config=options) as draft, bar("priors") as progress:
        table = build_priors(frame, source, PriorRetriever(base, config.retrieval), progress=progress)
        table.write(draft.path)
        draft.counts |= table.counts
    counts = draft.counts["records"]
    print(
        f"priors: {counts['input']:,} records = {counts['kept']:,} kept + {counts['quarantined']:,} quarantined,"
        f" {draft.counts['without_evidence']:,} without evidence -> {config.out}"
    )
    return open_artifact(config.out, kind="priors")


if __name__ == "__main__":
    run(Config, main)
