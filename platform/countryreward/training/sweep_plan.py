"""One trial of a sweep: parameters by dotted name become a training, with a name and an identity of its own.

    {"reward.focus_weight": 0.1, "search.text_k": 32, "search.image_k": 13, "learning_rates.llm": 1e-4}

Names are those of jobs/train_reward.py's options that shape the training, and the two k of the retrieval, for which the priors
are there before the first trial starts.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countryreward.data.file_primitives import write_atomically
from countryreward.errors import UserError
from countryreward.renamed_options import current_name, name_before
from countryreward.training.run_folder import DROPPED, log_lines
from countryreward.training.run_identity import RunIdentity
from countryreward.training.training_config import RewardTraining

KS = ("search.text_k", "search.image_k")
"""The parameters that choose priors instead of changing the training."""
SWEPT = ("preset", "backbone", "image_px", "reward", "learning_rates", "lora", "loop")
"""Fields of a RewardTraining that a parameter may name."""


@dataclass(frozen=True, kw_only=True)
class Priors:
    """Published priors of one (text_k, image_k)."""

    path: str
    version: str


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What every trial is made from, small enough to be sent to wherever it runs."""

    job: RewardTraining
    """The training that the parameters change."""
    inputs: Mapping[str, str]
    """Input artifact -> version, as in the identity of jobs/train_reward.py."""
    priors: Mapping[tuple[int, int], Priors]
    """By (text_k, image_k)."""
    ks: tuple[int, int]
    """The k of a trial that names none."""
    workers: int
    """Of each training."""

    def trial(self, params: Mapping[str, Any]) -> tuple[RewardTraining, RunIdentity]:
        """The training of these parameters and its identity, the same that jobs/train_reward.py gives it.

        Raises `UserError` for a name or a value that no training has, and for a k without priors.
        """
        k = (int(params.get(KS[0], self.ks[0])), int(params.get(KS[1], self.ks[1])))
        if k not in self.priors:
            ks = ", ".join(f"({text_k}, {image_k})" for text_k, image_k in sorted(self.priors))
            raise UserError(f"search: there are no priors for text_k, image_k = {k}; there are those of {ks}")
        job = with_params(self.job, {name: value for name, value in params.items() if name not in KS})
        job = dataclasses.replace(job, priors=self.priors[k].path)
        return job, job.identity({**self.inputs, "priors": self.priors[k].version}, self.workers)


def current_names(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters under the names of today: a sweep of the release before has stored the old ones."""
    return {current_name(name): value for name, value in params.items()}


def stored_names(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters under the names that a sweep's identity and Ray Tune's state have, so that one begun before goes on."""
    return {name_before(name): value for name, value in params.items()}


def with_params(job: RewardTraining, params: Mapping[str, Any]) -> RewardTraining:
    """The same training with the named options at other values. Raises `UserError` for what it does not have."""
    changed = job
    for name, value in current_names(params).items():
        parts = name.split(".")
        if parts[0] not in SWEPT:
            raise UserError(f"space: {name} is no option of a training; a name begins with {', '.join((*SWEPT, *KS))}")
        changed = _changed(changed, parts, value, name)
    return changed


def _changed(owner: Any, parts: list[str], value: Any, name: str) -> Any:
    first, *rest = parts
    if isinstance(owner, dict):
        return {**owner, first: value}
    names = [field.name for field in dataclasses.fields(owner)]
    if first not in names:
        raise UserError(f"space: {name}: there is no {first}; there are {', '.join(names)}")
    if rest:
        value = _changed(getattr(owner, first), rest, value, name)
    return dataclasses.replace(owner, **{first: value})


def validations_of(folder: Path) -> list[dict[str, Any]]:
    """The validations of a run, in order: lines of its log."""
    return [line for line in log_lines(folder) if line.get("kind") == "validation"]


def score_of(validation: Mapping[str, Any]) -> float:
    """What trials are compared by: discordant ordering, or accuracy where no two markets disagree."""
    ordering = validation.get("discordant_ordering")
    return float(validation["accuracy"] if ordering is None else ordering)


def drop_weights(folders: Iterable[Path]) -> None:
    """Free the disk of trials nobody will go on with: of their runs the log and the verdicts on validation stay, and
    finished.json gives way to dropped.json, so that the sweep knows which came to their end and a training begins anew."""
    for folder in folders:
        if not (folder / DROPPED).exists():
            write_atomically(folder / DROPPED, json.dumps({"ended": (folder / "finished.json").exists()}) + "\n")
        # before the rest: what is half removed must not look trained
        (folder / "finished.json").unlink(missing_ok=True)
        for name in ("checkpoints", "last"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for path in (folder / "best").glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ("validation.parquet", "training.json"):
                path.unlink()
