"""The model folder (contract 7): what training publishes and `CountryReward.from_pretrained` loads.

config.json, model.safetensors   the CountryRewardModel, every option with it
processor files                  tokenizer and image processor
markets.json                     markets of the training, with their adjectives and record counts
knowledge_base.json              which knowledge base, with which encoders and search; its uri is relative when embedded
knowledge_base/                  the embedded knowledge base
calibration.json                 temperature fitted on validation
probe.parquet                    a few validation pairs with their images and the logits they got
probe.json                       the same asked of this folder before it was published: logits, shares, whether it has collapsed
adapter/                         with LoRA: what stock PEFT loads onto the stock backbone (the weights above are merged)
training.json, README.md         how it was made, measured on validation; the model card
manifest.json                    SHA-256 of every file
"""

import collections
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward import markets
from countryreward.data.artifacts import MANIFEST, MANIFEST_HASH, Artifact, open_artifact
from countryreward.data.creative_identity import COPY_TYPE, copies_of
from countryreward.data.dataset import Dataset
from countryreward.data.images import ImageTable
from countryreward.data.records import item_keys
from countryreward.errors import UserError
from countryreward.retrieval.knowledge_base import KnowledgeBase
from countryreward.retrieval.retrieval_config import PriorConfig, RetrievalConfig, SearchConfig

KIND = "model"
PROBES = 16
PROBE_RESULT = "probe.json"
PROBE = pa.schema(
    [
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("market", pa.string(), nullable=False),
        pa.field("image_a", pa.binary(), nullable=False),
        pa.field("image_b", pa.binary(), nullable=False),
        pa.field("copy_a", COPY_TYPE),  # the words of A; null: none
        pa.field("copy_b", COPY_TYPE),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("log_odds", pa.float64(), nullable=False),  # the prior's
        pa.field("letter", pa.string()),
        pa.field("logit", pa.float64(), nullable=False),  # the model's, not calibrated
    ]
)
"""probe.parquet."""


@dataclass(frozen=True)
class Sources:
    """Where a model came from."""

    dataset: Artifact
    records: Artifact
    priors: Artifact | None
    base: KnowledgeBase

    def check(self) -> None:
        """Raises `UserError` where one was not made from the others."""
        made_from = [(self.records, "records", "dataset", self.dataset.manifest.version)]
        if self.priors:
            made_from += [(self.priors, "priors", "records", self.records.manifest.version)]
            made_from += [(self.priors, "priors", "knowledge_base", self.base.version)]
        for artifact, name, source, version in made_from:
            if artifact.manifest.inputs[source]["version"] != version:
                raise UserError(
                    f"{name}: {artifact.path} was made from another {source}; run the job that makes it again"
                )


def fill(folder: Path, weights: Path, sources: Sources, *, embed: bool) -> None:
    """Write everything but the probe's result and the model card into `folder`. weights: best/ or last/ of a run folder."""
    assert list(weights.glob("model*.safetensors")), f"{weights} holds no weights"
    for path in sorted(weights.iterdir()):
        if path.name not in ("validation.parquet", MANIFEST, MANIFEST_HASH):
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / path.name)
    facts = json.loads((weights / "training.json").read_text(encoding="utf-8"))
    _json(
        folder / "calibration.json",
        {"temperature": facts["temperature"], "fitted_on": "validation", "records": facts["records"]},
    )
    frame = pd.read_parquet(sources.records.path / "records.parquet")
    trained = sorted(collections.Counter(frame.loc[frame["split"] == "train", "market"].tolist()).items())
    known = [
        {"code": code, "name": markets.name(code), "adjective": markets.adjective(code), "records": count}
        for code, count in trained
    ]
    _json(folder / "markets.json", {"trained": known})
    if embed:
        shutil.copytree(sources.base.artifact.path, folder / "knowledge_base")
    _json(folder / "knowledge_base.json", _reference(sources, embed))
    validated = pd.read_parquet(weights / "validation.parquet")
    pq.write_table(_probe(validated, frame, sources), folder / "probe.parquet")


def _reference(sources: Sources, embed: bool) -> dict[str, Any]:
    base = sources.base
    found = base.artifact.reference()
    retrieval = sources.priors.manifest.config["retrieval"] if sources.priors else None
    return {
        "uri": "knowledge_base" if embed else str(base.artifact.path),
        "version": base.version,
        "manifest_sha256": found["manifest_sha256"],
        "schema_version": base.manifest.schema_version,
        "encoder_names": base.manifest.config["encoder_names"],
        "encoders": base.manifest.config["encoders"],
        "retrieval": retrieval,
    }


def _probe(validated: pd.DataFrame, records: pd.DataFrame, sources: Sources) -> pa.Table:
    """The first PROBES items of validation in the order of their keys, each with all its markets that had a winner."""
    rows = validated[["record_id", "logit"]].merge(records, on="record_id", validate="one_to_one")
    rows = rows[rows["label"] != 0.5].astype({"label": "int8"}).reset_index(drop=True)
    keys = item_keys(rows)
    rows = rows[keys.isin(sorted(keys.unique())[:PROBES])].sort_values("record_id")
    dataset = Dataset.read(sources.dataset.path)
    products = dataset.products.drop(columns=["seller"], errors="ignore")
    rows = rows.merge(products, on="product_id", validate="many_to_one")
    if sources.priors:
        priors = pd.read_parquet(sources.priors.path / "priors.parquet", columns=["record_id", "log_odds", "letter"])
        rows = rows.merge(priors, on="record_id", validate="one_to_one", how="left")
        rows["log_odds"] = rows["log_odds"].fillna(0.0)
    else:
        rows = rows.assign(log_odds=0.0, letter=None)
    images, copies = ImageTable(sources.dataset.path), copies_of(dataset.creatives)
    for side in ("a", "b"):
        words = [copies.get(creative) for creative in rows[f"creative_{side}"]]
        cells: list[Any] = [asdict(copy) if copy else None for copy in words]
        rows[f"copy_{side}"] = pd.Series(cells, index=rows.index, dtype=object)
        rows[f"image_{side}"] = [images.bytes_of(name) for name in rows[f"hash_{side}"]]
    return pa.Table.from_pandas(rows[PROBE.names].reset_index(drop=True), schema=PROBE, preserve_index=False)


def _json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder, every file checked against its hash."""

    artifact: Artifact
    trained_markets: tuple[str, ...]
    temperature: float
    base: KnowledgeBase
    retrieval: RetrievalConfig | None
    """None: the model was trained without priors and gets none."""
    delivery: str
    """Who chose what customers saw of the least comparable records of its training: one of `tables.DELIVERIES`."""
    reads_copy: bool
    """Whether ads of its training had words; otherwise it gets none."""

    @classmethod
    def open(cls, path: str | Path, knowledge_base: str | Path | None = None) -> "ModelFolder":
        """knowledge_base: a newer one, accepted when encoders and schema are the same. Raises `UserError` otherwise."""
        artifact = open_artifact(path, kind=KIND)
        told = json.loads((artifact.path / "knowledge_base.json").read_text(encoding="utf-8"))
        base = _open_base(artifact.path, told, knowledge_base)
        retrieval, trained = told["retrieval"], _read(artifact, "training.json")
        return cls(
            artifact=artifact,
            trained_markets=tuple(entry["code"] for entry in _read(artifact, "markets.json")["trained"]),
            temperature=float(_read(artifact, "calibration.json")["temperature"]),
            base=base,
            retrieval=retrieval
            and RetrievalConfig(search=SearchConfig(**retrieval["search"]), prior=PriorConfig(**retrieval["prior"])),
            delivery=trained.get("delivery", "unknown"),  # not told by earlier releases, as is the next
            reads_copy=trained.get("copy", False),
        )


def _read(artifact: Artifact, name: str) -> dict[str, Any]:
    return json.loads((artifact.path / name).read_text(encoding="utf-8"))


def _open_base(folder: Path, told: dict[str, Any], given: str | Path | None) -> KnowledgeBase:
    place = Path(given) if given is not None else folder / told["uri"]  # an absolute uri replaces the folder
    if given is None and not os.path.lexists(place):
        raise UserError(f"knowledge_base: {place} is gone; give the knowledge base's folder as knowledge_base=")
    base = KnowledgeBase.open(place)
    for name, mine in (
        ("encoders", base.manifest.config["encoders"]),
        ("schema_version", base.manifest.schema_version),
    ):
        if mine != told[name]:
            raise UserError(
                f"knowledge_base: {place} has {name} {mine}, the model was trained with {told[name]}; rebuild it with those"
            )
    if given is None and base.version != told["version"]:
        raise UserError(
            f"knowledge_base: {place} has version {base.version}, the model was trained with {told['version']}; "
            "to take the newer one, give it as knowledge_base="
        )
    return base
