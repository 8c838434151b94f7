"""A user's files into a dataset: products, creatives with their images, observations, and what was refused.

The caller publishes the folder (`artifacts.publish`); `source_fingerprint` tells it whether the files have changed since.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from countryreward.data.artifacts import sha256_file
from countryreward.data.data_config import ImportConfig
from countryreward.data.importers.observations import import_observations
from countryreward.data.importers.pair_files import import_pairs
from countryreward.data.importers.products import import_creatives, import_products
from countryreward.data.importers.table_files import write_sorted
from countryreward.data.importers.votes import import_votes
from countryreward.data.market_table import define_market_file
from countryreward.data.quarantine import REASONS, Quarantine
from countryreward.data.tables import OBSERVATIONS
from countryreward.progress import OpenBar, no_bar


def import_dataset(config: ImportConfig, folder: Path, bar: OpenBar = no_bar) -> dict[str, Any]:
    """Import three tables or a pair file, and votes, into `folder`; returns counts by table, each of which adds up.

    Markets of `config.markets` are known to the process from then on. Writes products.parquet, creatives.parquet,
    images/part-*.parquet, observations.parquet, quarantine.jsonl, pairs.parquet for a pair file and votes.parquet for votes
    (schemas: `data/tables.py`). A bad row is quarantined and the job goes on; a file that is missing, unreadable or lacks a
    column is a `UserError`. bar: shows how many rows and images have been read.
    """
    if config.markets:
        define_market_file(config.markets, folder)
    quarantine = Quarantine("import")
    if config.pairs.path:
        counts = import_pairs(config, folder, quarantine, bar)
    else:
        counts = {}
        counts["products"], products = import_products(config.products, folder, quarantine)
        with bar("images read") as progress:
            counts["creatives"], creatives = import_creatives(
                config.creatives, config.images, products, folder, quarantine, progress
            )
        if config.observations.path:
            counts["observations"] = import_observations(config, creatives, folder, quarantine, bar)
        else:
            write_sorted(
                pd.DataFrame(columns=OBSERVATIONS.names), OBSERVATIONS, folder / "observations.parquet", ["creative_id"]
            )
    if config.votes.path:
        counts["votes"] = import_votes(config, folder, quarantine, bar)
    quarantine.write(folder)
    return counts


def evidence_rows(counts: Mapping[str, Any], name: str) -> int:
    """Rows of observations and votes that came in (`input`), were `kept`, ..., by the counts of an import."""
    return sum(counts[table][name] for table in ("observations", "votes") if table in counts)


def why_none(counts: Mapping[str, Any]) -> str:
    """The most frequent reason for which evidence was refused, with its way out, to be put behind a sentence."""
    reasons: Counter[str] = Counter()
    for table in ("observations", "votes", "pairs_file"):
        reasons.update(counts.get(table, {}).get("quarantined_by_reason", {}))
    return "".join(f" ({rows:,} {reason}: {REASONS[reason]})" for reason, rows in reasons.most_common(1))


def notes(counts: Mapping[str, Any]) -> list[str]:
    """What was found in one table beyond its counts, as lines for a person."""
    lines = list(counts.get("decisions", []))
    if added := counts.get("dropped_by_reason", {}).get("added_to_another_row"):
        lines.append(f"{added:,} rows were parts of another row's result and were added to it")
    for part, headers in counts.get("recognised", {}).items():
        lines.append(f"{part} read from {', '.join(repr(header) for header in headers)}")
    for column, cells in counts.get("not_used", {}).items():
        lines.append(f"{column} not used in {cells:,} rows, whose kind needs other columns")
    for column, cells in counts.get("not_told", {}).items():
        lines.append(
            f"{column} empty in {cells:,} rows: not known; where that means none, set source.empty_clicks to zero"
        )
    return lines


def source_fingerprint(config: ImportConfig) -> dict[str, str]:
    """Path -> fingerprint of every input; `unknown` for storage URIs, which are imported anew every time."""
    sources = [config.products, config.creatives, config.observations, config.pairs, config.votes]
    paths = [*(source.path for source in sources), config.markets]
    fingerprint = {path: _file(path) for path in paths if path}
    if config.images.root:
        fingerprint[config.images.root] = _images(config.images.root)
    return fingerprint


def is_known(fingerprint: dict[str, str]) -> bool:
    """Whether every input could be fingerprinted."""
    return "unknown" not in fingerprint.values()


def _file(path: str) -> str:
    return sha256_file(Path(path)) if Path(path).is_file() else "unknown"


def _images(root: str) -> str:
    folder = Path(root)
    if not folder.is_dir():  # a zip file, or a folder inside one
        return _file(str(next((path for path in (folder, *folder.parents) if path.is_file()), root)))
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
        digest.update(f"{path.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
