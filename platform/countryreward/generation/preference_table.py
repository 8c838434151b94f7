"""A pairs artifact: pairs.parquet with its quarantine and the products' own pictures. Written by a run, read by DPO."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.data.decoding import inspect
from countryreward.data.images import ImageTable, ImageWriter
from countryreward.data.quarantine import Quarantine
from countryreward.data.tables import CASES, PREFERENCE_PAIRS
from countryreward.generation.ad_maker import MAX_BYTES, MAX_PIXELS
from countryreward.generation.outcomes import Outcome, fill_quarantine

if TYPE_CHECKING:
    from datasets import Dataset

PAIRS, CASE_TABLE = "pairs", "cases"
"""Kinds of artifacts, and the names of their tables."""
_SCHEMAS = {PAIRS: PREFERENCE_PAIRS, CASE_TABLE: CASES}


def rows_as_table(rows: Iterable[dict[str, Any]], kind: str) -> pa.Table:
    """Rows of outcomes as Arrow. kind: pairs or cases."""
    schema = _SCHEMAS[kind]
    maps = [field.name for field in schema if pa.types.is_map(field.type)]
    plain = [{**row, **{name: sorted(row[name].items()) for name in maps}} for row in rows]
    return pa.Table.from_pylist(plain, schema=schema)


def write_outcomes(folder: Path, kind: str, outcomes: Sequence[Outcome]) -> None:
    """KIND.parquet and quarantine.jsonl. outcomes: of all tasks, in their order."""
    rows = [row for outcome in outcomes for row in ([outcome.row] if outcome.row else []) + outcome.elsewhere]
    pq.write_table(rows_as_table(rows, kind), folder / f"{kind}.parquet", compression="zstd")
    quarantine = Quarantine(kind)
    fill_quarantine(enumerate(outcomes), quarantine)
    quarantine.write(folder)


def write_pictures(folder: Path, hashes: Iterable[str], images: ImageTable) -> None:
    """The products' own pictures, each once: the artifact needs no dataset beside it."""
    with ImageWriter(folder, embed=True) as writer:
        for name in sorted(set(hashes)):
            data = images.bytes_of(name)
            writer.add(inspect(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS), data=data, uri=None)


class PreferencePairs:
    """A published pairs artifact."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.table = pq.read_table(artifact.path / f"{PAIRS}.parquet", schema=PREFERENCE_PAIRS)
        self.images = ImageTable(artifact.path)

    @classmethod
    def open(cls, folder: str | Path) -> "PreferencePairs":
        """Every file checked against its hash. Raises `UserError` naming what is missing or altered."""
        return cls(open_artifact(folder, kind=PAIRS))

    def __len__(self) -> int:
        return self.table.num_rows

    def as_trl(self, rows: Sequence[int] | None = None) -> "Dataset":
        """In TRL's vision format: a conversational `prompt` with its picture and words, `chosen`, `rejected`, and `images`,
        a list of PIL images that are decoded when a row is read. rows: positions; None: all.
        """
        from datasets import Dataset, Features, Image, List, Value

        said = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
        features = Features({"prompt": said, "chosen": said, "rejected": said, "images": List(Image())})
        table = self.table if rows is None else self.table.take(pa.array(rows, pa.int64()))
        columns = ["prompt", "chosen", "rejected", "images"]
        return Dataset.from_list([self._trl(row) for row in table.select(columns).to_pylist()], features=features)

    def _trl(self, row: dict[str, Any]) -> dict[str, Any]:
        pictures = [{"type": "image", "text": None} for _ in row["images"]]
        return {
            "prompt": [{"role": "user", "content": [*pictures, _text(row["prompt"])]}],
            "chosen": [{"role": "assistant", "content": [_text(row["chosen"])]}],
            "rejected": [{"role": "assistant", "content": [_text(row["rejected"])]}],
            "images": [{"bytes": self.images.bytes_of(name), "path": None} for name in row["images"]],
        }


def read_cases(artifact: Artifact) -> list[dict[str, Any]]:
    """Rows of a published cases artifact, the judges' maps as dicts."""
    table = pq.read_table(artifact.path / f"{CASE_TABLE}.parquet", schema=CASES)
    maps = [field.name for field in CASES if pa.types.is_map(field.type)]
    return [{**row, **{name: dict(row[name]) for name in maps}} for row in table.to_pylist()]


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}
