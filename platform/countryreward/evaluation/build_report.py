"""The reward report from opened artifacts to published files: which records, whose logits, report.json, report.html.

Subject is a trained model where there is one, else the first prior; beside it stand judges that ignore the country.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.artifacts import Artifact, open_artifact, publish
from countryreward.data.dataset import Dataset
from countryreward.data.file_primitives import write_atomically
from countryreward.data.images import ImageTable
from countryreward.data.quarantine import Quarantine
from countryreward.data.tables import COMPARABLE
from countryreward.equations.ceilings import label_probability
from countryreward.errors import UserError
from countryreward.evaluation.evaluation_config import ReportConfig
from countryreward.evaluation.flip_cards import FlipCard, flip_cards, flip_figure, telling_items
from countryreward.evaluation.judge_metrics import CeilingSource, evaluate
from countryreward.evaluation.judge_rows import JUDGE_ROWS, Logits, RecordInputs
from countryreward.evaluation.report_page import write_report_page
from countryreward.evaluation.report_text import headline, in_brackets
from countryreward.evaluation.statistics import Unit
from countryreward.machine import describe_machine
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.retrieval.prior import PriorRetriever
from countryreward.retrieval.retrieval_config import PriorConfig, RetrievalConfig, SearchConfig
from countryreward.scoring.verdicts import delivery_of

PRINTED = ("accuracy", "discordant_ordering", "discordant_sensitivity")
"""Metrics of the summary on the terminal."""


@dataclass(frozen=True)
class ReportInputs:
    """Opened inputs of a report."""

    dataset: Artifact
    records: Artifact
    embeddings: Embeddings
    base: KnowledgeBase
    priors: dict[str, Artifact]
    curves: dict[str, Any]
    """Of jobs/choose_k.py by search stage; empty: none."""
    lineage: dict[str, Artifact]
    started: float
    """`time.monotonic()` when opening began: the report's own seconds count from here."""


@dataclass(frozen=True, kw_only=True)
class JudgedRecords:
    """The evaluated records, and what trained models say of them where there are any."""

    test: pd.DataFrame
    left_out: dict[str, int]
    """Reason -> records of the split that are not evaluated."""
    logits: dict[str, Logits] = field(default_factory=dict)
    """Of rows that come before the priors'; the first of all is the report's subject."""
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Row -> what report.json says of it beyond the metrics."""
    quarantine: Quarantine | None = None
    """Of records that the subject refused; None: no model was asked."""
    lineage: dict[str, Artifact] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """Of the models, for the report's manifest."""


def open_inputs(config: ReportConfig) -> ReportInputs:
    """Open and verify every artifact. Raises `UserError` for what is missing, or for priors of other records or bases."""
    started = time.monotonic()
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
    return ReportInputs(dataset, records, embeddings, base, priors, curves, lineage, started)


def evaluated_records(inputs: ReportInputs, split: str) -> JudgedRecords:
    """The records of a split, less those that the prior stage refused. Raises `UserError` where none is left."""
    frame = pd.read_parquet(inputs.records.path / "records.parquet")
    test = frame[frame["split"] == split].sort_values("record_id").reset_index(drop=True)
    refused = set().union(*(_quarantined(artifact) for artifact in inputs.priors.values()))
    left_out = {"quarantined_by_priors": int(test["record_id"].isin(refused).sum())}
    test = test[~test["record_id"].isin(refused)].reset_index(drop=True)
    if test.empty:
        raise UserError(f"split: there are no {split} records; jobs/build_records.py sets the shares")
    return JudgedRecords(test=test, left_out=left_out)


def publish_report(config: ReportConfig, inputs: ReportInputs, judged: JudgedRecords) -> Artifact:
    """Publish report.json, report.html and the picture of the first flip; copies beside the folder, a summary on the terminal."""
    options: dict[str, Any] = {name: getattr(config, name) for name in ("split", "draws", "seed", "truth")}
    lineage = inputs.lineage | judged.lineage
    with publish(config.out, kind="report", inputs=lineage, config=options | judged.options) as draft:
        report, cards = build_report(inputs, config, judged)
        report |= {
            "seconds": config.stages | report["seconds"] | {"report": round(time.monotonic() - inputs.started, 3)},
            "machine": describe_machine(),
            "command": shlex.join(["python", *sys.argv]),
        }
        if judged.quarantine is not None:
            judged.quarantine.write(draft.path)
        text = json.dumps(report, indent=1, ensure_ascii=False)
        (draft.path / "report.json").write_text(text, encoding="utf-8")
        write_report_page(report, cards, inputs.curves, draft.path / "report.html")
        if cards:
            flip_figure(cards[0], draft.path / "flip.png", note="simulated clicks" if report["simulated"] else "")
        draft.counts |= report["counts"]
    artifact = open_artifact(config.out, kind="report")
    for name in ("report.json", "report.html"):
        write_atomically(Path(config.out).parent / name, (artifact.path / name).read_bytes())
    for name, metrics in report["variants"].items():
        parts = [f"{metric.replace('_', ' ')} {in_brackets(metrics[metric])}" for metric in PRINTED]
        print(f"report: {name:<20} {'  '.join(parts)}")
    print(f"report: {report['headline']}")
    print(f"report: -> {Path(config.out).parent / 'report.html'}")
    return artifact


def build_report(
    inputs: ReportInputs, config: ReportConfig, judged: JudgedRecords
) -> tuple[dict[str, Any], list[FlipCard]]:
    """The numbers of report.json (contract in README) and the gallery."""
    frame, test = pd.read_parquet(inputs.records.path / "records.parquet"), judged.test
    priors = {name: _log_odds(artifact, test, name) for name, artifact in inputs.priors.items()}
    logits: dict[str, Logits] = judged.logits | priors
    subject, prior = next(iter(logits)), next(iter(priors))
    train = frame[frame["split"] == "train"]
    judge_inputs = RecordInputs(
        train=train, test=test, prior=priors[prior], embeddings=inputs.embeddings, seed=config.seed
    )
    logits |= {key: row.from_records(judge_inputs) for key, row in JUDGE_ROWS.items() if row.from_records}
    q, source = _label_probabilities(test, config.truth)
    compared = [(subject, other) for other in logits if other != subject]
    compared += [(prior, "prior_shuffled")] if prior != subject else []  # each judge against its own countries mixed up
    unit = split_unit(inputs.records)
    report: dict[str, Any] = {"simulated": bool(config.truth), "left_out": judged.left_out}
    report |= evaluate(
        test, logits, unit=unit, q=q, ceiling_source=source, draws=config.draws, seed=config.seed, compare=compared
    )
    report["comparable"] = on_comparable(test, logits, unit=unit, draws=config.draws, seed=config.seed)
    for key, details in judged.details.items():
        report["variants"][key] |= details
    report["counts"] = {
        **{name: _plain(part) for name, part in inputs.dataset.manifest.counts.items()},
        "pairs": inputs.records.manifest.counts["pairs"],
        "priors": inputs.priors[prior].manifest.counts["records"],
    }
    if judged.quarantine is not None:
        refused = len(judged.quarantine.refusals)
        counts = {"input": len(test) + refused, "kept": len(test), "dropped": 0, "quarantined": refused}
        report["counts"]["judged"] = counts
    report["data"] = inputs.records.manifest.counts["facts"]
    report["choose_k"] = {
        stage: {key: curve[key] for key in ("k", "K", "threshold", "queries")} for stage, curve in inputs.curves.items()
    }
    report["seconds"] = {name: artifact.manifest.seconds for name, artifact in inputs.lineage.items()}
    report["versions"] = inputs.base.manifest.versions | {"knowledge_base": inputs.base.version} | judged.versions
    report["delivery"] = delivery_of(test)
    report["headline"] = headline(report, subject)
    return report, _gallery(inputs, test, logits[subject], inputs.priors[prior], config.gallery)


def on_comparable(
    test: pd.DataFrame, logits: Mapping[str, Logits], *, unit: Unit, draws: int, seed: int
) -> dict[str, Any] | None:
    """Metrics of every judge on the randomised and rotated records alone; None where all or none are."""
    comparable = test["delivery"].isin(COMPARABLE).to_numpy() if "delivery" in test else np.ones(len(test), bool)
    if comparable.all() or not comparable.any():
        return None
    alone = {name: values[..., comparable] for name, values in logits.items()}
    report = evaluate(test[comparable].reset_index(drop=True), alone, unit=unit, draws=draws, seed=seed, compare=[])
    kept = {name: {metric: judge[metric] for metric in PRINTED} for name, judge in report["variants"].items()}
    return {"n": report["n"], "variants": kept}


def split_unit(records: Artifact) -> Unit:
    """What records were split by and what the bootstrap therefore resamples."""
    return "image" if records.manifest.config["split"]["by"] == "image" else "product"


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    """What the report tells of a stage's counts."""
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


def _gallery(inputs: ReportInputs, test: pd.DataFrame, logits: Logits, priors: Artifact, most: int) -> list[FlipCard]:
    """Cards of at most so many products; their past ads are searched for as the priors were."""
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
