"""The chain without training: import -> records -> embeddings -> knowledge base -> priors of both readings -> report.

    COUNTRYREWARD_DATA=/path/to/data python jobs/prior_chain.py --config jobs/configs/bass.yaml

Each stage is a job of its own (jobs/import_data.py, ...) and is skipped when its result is up to date.
"""

from dataclasses import dataclass, field, replace

import build_knowledge_base
import build_priors
import build_records
import choose_k
import embed
import evaluate_prior
import import_data
from countryreward.command import run
from countryreward.data.data_config import ImportConfig, RecordsConfig
from countryreward.on_ray.ray_config import RayConfig
from countryreward.retrieval.retrieval_config import EncodersConfig, PriorConfig, RetrievalConfig

STAGES = ("dataset", "records", "embeddings", "knowledge_base", "priors", "priors_paper", "choose_k", "report")


@dataclass(kw_only=True)
class Config:
    """From an export to a report of what retrieval alone is worth."""

    out: str = "runs/demo"
    """Run folder; every stage publishes a folder in it."""
    source: ImportConfig = field(default_factory=ImportConfig)
    """What to import."""
    records: RecordsConfig = field(default_factory=RecordsConfig)
    """How to label and split."""
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    """Which encoders."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Search and vote; the paper's reading is always reported beside it."""
    truth: str = ""
    """True click probabilities of a simulation; empty for real data."""
    draws: int = 2000
    """Bootstrap draws of the report."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of stages before this chain, for the report."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config, *, report: bool = True) -> None:
    """report: whether to end with the report of jobs/evaluate_prior.py."""
    from countryreward.on_ray.session import session

    at = {name: f"{config.out}/{name}" for name in STAGES}
    dataset, records, embeddings, base = (at[name] for name in STAGES[:4])
    import_data.main(import_data.Config(out=dataset, source=config.source))
    build_records.main(build_records.Config(dataset=dataset, out=records, records=config.records))
    with session(config.ray):
        embed.main(embed.Config(dataset=dataset, out=embeddings, encoders=config.encoders))
        build_knowledge_base.main(
            build_knowledge_base.Config(dataset=dataset, records=records, embeddings=embeddings, out=base)
        )
    inputs = build_priors.Config(records=records, embeddings=embeddings, knowledge_base=base)
    build_priors.main(replace(inputs, out=at["priors"], retrieval=config.retrieval))
    paper = RetrievalConfig(search=config.retrieval.search, prior=PriorConfig(reading="paper"))
    build_priors.main(replace(inputs, out=at["priors_paper"], split="test", retrieval=paper))
    choose_k.main(choose_k.Config(records=records, embeddings=embeddings, knowledge_base=base, out=at["choose_k"]))
    if not report:
        return
    evaluate_prior.main(
        evaluate_prior.Config(
            dataset=dataset,
            records=records,
            embeddings=embeddings,
            knowledge_base=base,
            priors={"prior_only": at["priors"], "prior_only_paper": at["priors_paper"]},
            choose_k=at["choose_k"],
            truth=config.truth,
            out=at["report"],
            draws=config.draws,
            stages=config.stages,
        )
    )


if __name__ == "__main__":
    run(Config, main, reading=True)
