"""The report: priors of both readings, and a trained model where there is one, against judges that ignore the country."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.data.dataset import Dataset
from countryreward.data.images import ImageTable
from countryreward.equations.ceilings import label_probability
from countryreward.errors import UserError
from countryreward.evaluation import report_text as words
from countryreward.evaluation.flips import flip_cards, telling_items
from countryreward.evaluation.gallery import FlipCard
from countryreward.evaluation.report import CeilingSource, evaluate
from countryreward.evaluation.simple_judges import constant_letter, market_blind_oracle, shuffled
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.retrieval.prior import PriorRetriever
from countryreward.retrieval.retrieval_config import PriorConfig, RetrievalConfig, SearchConfig


class ReportConfig(Protocol):
    """What a report job is told."""

    dataset: str
    records: str
    embeddings: str
    knowledge_base: str
    priors: dict[str, str]
    choose_k: str
    truth: str
    split: Any
    gallery: int
    draws: int
    seed: int


@dataclass(frozen=True)
class Inputs:
    """Opened inputs of a report."""

    dataset: Artifact
    records: Artifact
    embeddings: Embeddings
    base: KnowledgeBase
    priors: dict[str, Artifact]
    curves: dict[str, Any]
    lineage: dict[str, Artifact]


def open_inputs(config: ReportConfig) -> Inputs:
    """Open and verify every artifact. Raises `UserError` for what is missing, or for priors of other records or bases."""
    dataset, records = open_artifact(config.dataset, kind="dataset"), open_artifact(config.records, kind="records")
    embeddings, base = Embeddings.open(config.embeddings), KnowledgeBase.open(config.knowledge_base)
    priors = {name: open_artifact(path, kind="priors") for name, path in config.priors.items()}
    if not priors:
        raise UserError("priors: none is given; write at least prior_only: PATH")
    for name, artifact in priors.items():
        for kind, wanted in (("records", records.manifest.version), ("knowledge_base", base.version)):
            if artifact.manifest.inputs[kind]["version"] != wanted:
                raise UserError(f"priors.{name}: made from other {kind}; run jobs/build_priors.py again")
    lineage = {
        "dataset": dataset,
        "records": records,
        "embeddings": embeddings.artifact,
        "knowledge_base": base.artifact,
        **priors,
    }
    curves: dict[str, Any] = {}
    if config.choose_k:
        chosen = open_artifact(config.choose_k, kind="choose_k")
        curves = json.loads((chosen.path / "curves.json").read_text(encoding="utf-8"))
        lineage["choose_k"] = chosen
    return Inputs(dataset, records, embeddings, base, priors, curves, lineage)


@dataclass(frozen=True)
class Rows:
    """The evaluated records, and what a trained model says of them when there is one."""

    test: pd.DataFrame
    left_out: dict[str, int]
    logits: dict[str, NDArray[np.float64]]
    """Of variants that come before the prior; the first of all is the report's subject."""


def test_rows(inputs: Inputs, split: str) -> Rows:
    """The records of a split, less those that the prior stage refused."""
    frame = pd.read_parquet(inputs.records.path / "records.parquet")
    test = frame[frame["split"] == split].sort_values("record_id").reset_index(drop=True)
    refused = set().union(*(_quarantined(artifact) for artifact in inputs.priors.values()))
    left_out = {"quarantined_by_priors": int(test["record_id"].isin(refused).sum())}
    test = test[~test["record_id"].isin(refused)].reset_index(drop=True)
    if test.empty:
        raise UserError(f"split: there are no {split} records; jobs/build_records.py sets the shares")
    return Rows(test, left_out, {})


def build_report(inputs: Inputs, config: ReportConfig, rows: Rows) -> tuple[dict[str, Any], list[FlipCard]]:
    """The numbers of report.json (contract in README) and the gallery."""
    frame = pd.read_parquet(inputs.records.path / "records.parquet")
    test = rows.test
    logits = dict(rows.logits)
    of_priors = {name: _log_odds(artifact, test, name) for name, artifact in inputs.priors.items()}
    logits |= of_priors
    subject, prior = next(iter(logits)), next(iter(of_priors))
    logits["prior_shuffled"] = shuffled(logits[prior], test, seed=config.seed)
    logits["constant_letter"] = constant_letter(frame[frame["split"] == "train"], test)
    logits["market_blind_oracle"] = market_blind_oracle(test)
    q, source = _label_probabilities(test, config.truth)
    unit = split_unit(inputs.records)
    report: dict[str, Any] = {"simulated": bool(config.truth)}
    report["left_out"] = rows.left_out
    compared = [(subject, other) for other in logits if other != subject]
    compared += [(prior, "prior_shuffled")] if prior != subject else []  # each judge against its own countries mixed up
    report |= evaluate(
        test, logits, unit=unit, q=q, ceiling_source=source, draws=config.draws, seed=config.seed, compare=compared
    )
    report["counts"] = {
        **{name: _plain(part) for name, part in inputs.dataset.manifest.counts.items()},
        "pairs": inputs.records.manifest.counts["pairs"],
        "priors": inputs.priors[prior].manifest.counts["records"],
    }
    report["data"] = inputs.records.manifest.counts["facts"]
    report["choose_k"] = {
        stage: {key: curve[key] for key in ("k", "K", "threshold", "queries")} for stage, curve in inputs.curves.items()
    }
    report["seconds"] = {name: artifact.manifest.seconds for name, artifact in inputs.lineage.items()}
    report["versions"] = inputs.base.manifest.versions | {"knowledge_base": inputs.base.version}
    report["headline"] = words.headline(report, subject)
    return report, _gallery(inputs, test, logits[subject], inputs.priors[prior], config.gallery)


def split_unit(records: Artifact) -> Literal["product", "image"]:
    """What records were split by and what the bootstrap therefore resamples."""
    return "image" if records.manifest.config["split"]["by"] == "image" else "product"


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in part.items()
        if name in ("input", "kept", "dropped", "quarantined", "quarantined_by_reason")
    }


def _quarantined(artifact: Artifact) -> set[str]:
    """Records that the prior stage refused (an image was lost): they are left out of the evaluation, and counted."""
    with open(artifact.path / "quarantine.jsonl", encoding="utf-8") as lines:
        return {json.loads(line)["key"] for line in lines}


def _log_odds(artifact: Artifact, test: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Log-odds of the evaluated records. Eq. 3's letter of a tie counts (paper: B): log-odds 0 with letter B is just below 0."""
    priors = pd.read_parquet(artifact.path / "priors.parquet", columns=["record_id", "log_odds", "letter"])
    tied_b = (priors["log_odds"] == 0) & (priors["letter"] == "B")
    priors = priors.assign(log_odds=priors["log_odds"].mask(tied_b, -1e-12)).set_index("record_id")["log_odds"]
    missing = ~test["record_id"].isin(priors.index)
    if missing.any():
        reason = f"{int(missing.sum())} of {len(test)} evaluated records have none"
        raise UserError(f"priors.{name}: {reason}; build them for this split, and look into their quarantine.jsonl")
    return priors.loc[test["record_id"]].to_numpy(float)


def _label_probabilities(test: pd.DataFrame, truth: str) -> tuple[NDArray[np.float64] | None, CeilingSource | None]:
    """P(observed label is A): from the simulator's truth, else the soft labels, else nobody knows."""
    if truth:
        if not Path(truth).is_file():
            raise UserError(f"truth: no file {truth}; give the simulation's truth.parquet, or '' for real data")
        ctr = pd.read_parquet(truth).set_index(["creative_id", "market"])["ctr"]
        a = ctr.reindex(pd.MultiIndex.from_frame(test[["creative_a", "market"]])).to_numpy(float)
        b = ctr.reindex(pd.MultiIndex.from_frame(test[["creative_b", "market"]])).to_numpy(float)
        if np.isnan(a).any() or np.isnan(b).any():
            raise UserError(f"truth: {truth} lacks some evaluated creatives; it belongs to another simulation")
        counts = [test[name].to_numpy(np.int64) for name in ("impressions_a", "impressions_b")]
        return label_probability(a, b, *counts), "simulator truth"
    soft = test["soft_label"]
    if soft.isna().any():
        return None, None
    return soft.to_numpy(float), "estimated by empirical Bayes"


def _gallery(
    inputs: Inputs, test: pd.DataFrame, logits: NDArray[np.float64], priors: Artifact, most: int
) -> list[FlipCard]:
    options = priors.manifest.config["retrieval"]
    retrieval = RetrievalConfig(search=SearchConfig(**options["search"]), prior=PriorConfig(**options["prior"]))
    return flip_cards(
        test,
        telling_items(test, logits, most=most),
        logits,
        products=Dataset.read(inputs.dataset.path).products,
        source=inputs.embeddings,
        retriever=PriorRetriever(inputs.base, retrieval),
        image_bytes=ImageTable(inputs.dataset.path).bytes_of,
    )
