"""What a variant of the design writer made, as it is read for the comparison: cases, log probabilities, counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.data.design import LABELS, Design
from countryreward.data.tables import CASES, JUDGES
from countryreward.errors import UserError

KIND = "cases"
QUESTIONS = ("beats_original", "beats_reference")
"""What every judge was asked of an ad: against the product's original creative, against the reference writer's ad."""


@dataclass(frozen=True, kw_only=True)
class WriterCases:
    """One variant: "reference" (before), "round-1", ..."""

    name: str
    """How tables and pictures call it."""
    cases: pd.DataFrame
    """CASES, the judges' maps as dicts or as lists of (judge, probability). Several draws of a (product, market) are rows of
    their own with other seeds."""
    log_probs: pd.DataFrame | None = None
    """key, log_prob, log_prob_reference (nats per design), tokens; None: not measured."""
    pairs: Mapping[str, int] = field(default_factory=dict)
    """Market -> preference pairs that this round was trained on; empty for the reference."""
    refused: int | None = None
    """Designs that could not be read and have no case; None: not known."""
    artifact: Artifact | None = None
    """Where it was read from, with the ads."""

    def probabilities(self, question: str, judge: str) -> NDArray[np.float64]:
        """What a judge said of every row [N]; NaN where it was not asked."""
        asked = (_as_dict(each).get(judge, np.nan) for each in self.cases[question])
        return np.fromiter(asked, np.float64, len(self.cases))

    def judges(self) -> tuple[str, ...]:
        """Judges that said something of an ad, those of `JUDGES` first."""
        named = {judge for question in QUESTIONS for each in self.cases[question] for judge in _as_dict(each)}
        return (*(judge for judge in JUDGES if judge in named), *sorted(named - set(JUDGES)))


def open_cases(path: str | Path, *, name: str, pairs: Mapping[str, int] | None = None) -> WriterCases:
    """Read a cases artifact: cases.parquet and, where it has one, log_probs.parquet.

    Refused designs are what the manifest counts as `designs.not_read`. Raises `UserError` for what is missing or altered.
    """
    artifact = open_artifact(path, kind=KIND)
    table = pq.read_table(artifact.path / "cases.parquet")
    missing = [column for column in CASES.names if column not in table.column_names]
    if missing:
        raise UserError(f"cases: {artifact.path} lacks {', '.join(missing)}; make the cases again")
    logs = artifact.path / "log_probs.parquet"
    counted = artifact.manifest.counts.get("designs")
    return WriterCases(
        name=name,
        cases=table.to_pandas(maps_as_pydicts="strict"),
        log_probs=pd.read_parquet(logs) if logs.exists() else None,
        pairs=dict(pairs or {}),
        refused=None if counted is None else counted.get("not_read", 0),
        artifact=artifact,
    )


def design_of(row: Any) -> Design:
    """The design of a row of CASES."""
    return Design(**{name: str(row[name]) for name in LABELS})


def _as_dict(judged: Any) -> Mapping[str, float]:
    if isinstance(judged, Mapping):
        return judged
    return {} if judged is None else dict(judged)
