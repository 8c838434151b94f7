"""Rows of a table scored in parts of a fixed number of rows, each written in one step, and put together at the end.

The work folder of such a job is what a killed one leaves, and the next one with the same table and options takes:

    encodes-KEY/   whole shards of encoded images, of one model in one precision
    parts-KEY/     finished parts of one table with its images, one model, one set of options
    rows.parquet, images.bin    written anew by every run
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.creative_identity import COPY_TYPE, stored_copy
from countryreward.data.file_primitives import FileLock, LockHeldError, replaced_file, write_atomically
from countryreward.errors import UserError
from countryreward.scoring.contracts import Copy, Product
from countryreward.scoring.pair_table import PairTable

if TYPE_CHECKING:  # they take seconds to import, and who only reads and merges parts needs none of them
    from countryreward.scoring.country_reward import CountryReward
    from countryreward.scoring.feature_cache import FeatureCache
    from countryreward.scoring.prior_lookup import MarketPair

ANSWERED = (
    pa.field("market", pa.string(), nullable=False),
    pa.field("choice", pa.string()),  # A, B, or null: abstained
    pa.field("probability", pa.float64(), nullable=False),
    pa.field("calibrated_probability", pa.float64(), nullable=False),
    pa.field("log_odds", pa.float64(), nullable=False),
    pa.field("past_ads", pa.int64(), nullable=False),
    pa.field("note", pa.string()),
    pa.field("claim", pa.string(), nullable=False),  # what a choice says: better, or won as delivered
    pa.field("model_version", pa.string(), nullable=False),
    pa.field("knowledge_base_version", pa.string(), nullable=False),
)
"""What a verdict adds to its row."""
_OF_MODELS = ("calibrated_probability", "model_version", "knowledge_base_version")


def write_rows(table: PairTable, hashes: pd.DataFrame, keep: Iterable[str], path: Path, part_rows: int) -> int:
    """Write the good rows, a row group per part, for `ShardScorer` to read; returns how many there are."""
    frame = pd.concat([table.frame, hashes], axis=1)
    frame.insert(0, "row", frame.index)
    good = frame.loc[table.checks.good].reset_index(drop=True)
    columns = {"row": pa.array(good["row"].to_numpy(dtype="int64"))}
    columns["attributes"] = pa.array([json.dumps(cell, ensure_ascii=False) for cell in good["attributes"]], pa.string())
    columns["tags"] = pa.array(good["tags"].tolist(), pa.list_(pa.string()))
    for name in ("row_id", "product_id", "title", "category", "hash_a", "hash_b", "market", *keep):
        if name in good:
            columns[name] = pa.array([cell if isinstance(cell, str) else None for cell in good[name]], pa.string())
    for name in ("copy_a", "copy_b"):
        if name in good:
            words = [asdict(copy) if copy else None for copy in good[name]]
            columns[name] = pa.array(words, COPY_TYPE)
    with replaced_file(path) as temporary:  # an actor that outlives a killed job keeps the file it has open
        pq.write_table(pa.table(columns), temporary, row_group_size=part_rows)
    return len(good)


class ShardScorer:
    """Scores parts. `rows` is what `write_rows` wrote; markets: asked for every row, None: each row's own."""

    def __init__(
        self,
        scorer: "CountryReward",
        features: "FeatureCache",
        rows: Path,
        markets: tuple[str, ...] | None,
        keep: list[str],
    ) -> None:
        self.scorer, self.features, self.markets, self.keep = scorer, features, markets, keep
        self.file = pq.ParquetFile(rows)

    def write(self, part: int, folder: Path) -> None:
        """Score one part and write its file."""
        rows = self.file.read_row_group(part).to_pylist()
        row_of_pair = [(row, market) for row in rows for market in self.markets or (row["market"],)]
        pairs = self.scorer.prepare([self._pair(row, market) for row, market in row_of_pair])
        device = self.scorer.judge.device
        logits = self.scorer.logits(pairs, lambda names: self.features.features(names).to(device))
        answers: list[dict[str, Any]] = []
        for (row, _), pair, logit in zip(row_of_pair, pairs, logits, strict=True):
            verdict = self.scorer.verdict(pair, logit, evidence=0)
            answers.append({**row, **{field.name: getattr(verdict, field.name) for field in ANSWERED}})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(answers, schema=verdict_schema(self.keep)), sink)
        write_atomically(part_path(folder, part), sink.getvalue().to_pybytes())

    def _pair(self, row: dict[str, Any], market: str) -> "MarketPair":
        from countryreward.scoring.prior_lookup import MarketPair

        images = (self.features.image(row["hash_a"]), self.features.image(row["hash_b"]))
        return MarketPair(product=product_of(row), images=images, market=market, copies=copies_of(row))


def product_of(row: dict[str, Any]) -> Product:
    """The product of a row that `write_rows` wrote."""
    return Product(
        title=row["title"],
        category=row["category"],
        attributes=json.loads(row["attributes"]),
        tags=row["tags"],
        product_id=row["product_id"],
    )


def copies_of(row: dict[str, Any]) -> tuple[Copy | None, Copy | None]:
    """The words of A and of B of a row that `write_rows` wrote."""
    return stored_copy(row.get("copy_a")), stored_copy(row.get("copy_b"))


def verdict_schema(keep: Iterable[str], *, by_model: bool = True) -> pa.Schema:
    """verdicts.parquet: the row's position in the table, its ids and the kept columns, its verdict in one market.

    by_model: False where anything may answer, such as retrieval alone, which has no calibration and no model version.
    """
    texts = [pa.field(name, pa.string()) for name in ("row_id", "product_id", *keep)]
    answered = (
        ANSWERED
        if by_model
        else [field.with_nullable(field.name in _OF_MODELS or field.nullable) for field in ANSWERED]
    )
    return pa.schema([pa.field("row", pa.int64(), nullable=False), *texts, *answered])


def part_path(folder: Path, part: int) -> Path:
    """Where a finished part is."""
    return folder / f"part-{part:06d}.parquet"


def merge(
    parts: list[Path],
    path: Path,
    keep: Iterable[str],
    see: Callable[[pa.Table], None] = lambda _: None,
    *,
    by_model: bool = True,
) -> int:
    """Put the parts together in their order; returns the number of verdicts. see: is shown each part."""
    verdicts = 0
    with pq.ParquetWriter(path, verdict_schema(keep, by_model=by_model), compression="zstd") as writer:
        for part in parts:
            table = pq.read_table(part)
            writer.write_table(table)
            see(table)
            verdicts += table.num_rows
    return verdicts


class WorkFolder:
    """Held by one job at a time. All nodes of a cluster must see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows, self.copied = folder / "rows.parquet", folder / "images.bin"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raises `UserError` when another job holds it. A killed job holds nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock.take(self.folder / "lock", wait_s=0)
        except LockHeldError:
            raise UserError(
                f"work: another job is at work in {self.folder}; wait for it, or write another folder as work"
            ) from None
        with lock:
            for leftover in self.folder.glob(".tmp-*"):  # of a job that was killed while it wrote rows.parquet
                leftover.unlink()
            yield

    def of(self, kind: str, made_from: Any) -> Path:
        """The folder kind-KEY, KEY being a hash of `made_from` (JSON-able); those of other keys are removed."""
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
        mine = self.folder / f"{kind}-{key}"
        for other in self.folder.glob(f"{kind}-*"):
            if other != mine:
                shutil.rmtree(other)
        mine.mkdir(exist_ok=True)
        return mine

    def clear(self, *, keep_encodes: bool) -> None:
        """Remove what a finished job needs no more."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and path.name.startswith("parts-" if keep_encodes else ("parts-", "encodes-")):
                shutil.rmtree(path)
            elif path in (self.rows, self.copied) or (path.name == "lock" and not keep_encodes):
                path.unlink()
        with contextlib.suppress(OSError):  # not empty: the encodes are kept, or something of the user's is there
            self.folder.rmdir()
            self.folder.parent.rmdir()
