"""Validation during training: sharded over the ranks, measured on all of them together."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from countryreward.data.records import item_keys
from countryreward.equations.calibration import fit_temperature
from countryreward.equations.metrics import metrics
from countryreward.scoring.predict import Loader, judge
from countryreward.training.distributed import ProcessGroup
from countryreward.training.divergence import Diverged

CHOSEN_BY = "discordant_ordering"
"""The metric that decides which weights are the best: the only one a country-blind judge cannot score on."""


@dataclass(frozen=True)
class Validation:
    """Logits of the validation records, what they measure, and the temperature that calibrates them."""

    logits: NDArray[np.float64]
    metrics: dict[str, float]
    temperature: float

    @property
    def score(self) -> float:
        """What decides the best; accuracy stands in where no two countries disagree."""
        ordering = self.metrics[CHOSEN_BY]
        return self.metrics["accuracy"] if np.isnan(ordering) else ordering


def some_items(records: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """At most `most` items (pairs), drawn by the seed, each with all its markets; 0: all of them."""
    keys = item_keys(records)
    names = np.unique(keys.to_numpy(str))
    if not most or len(names) <= most:
        return records
    chosen = np.random.default_rng([seed, 1]).choice(names, most, replace=False)
    return records[keys.isin(chosen)].reset_index(drop=True)


def validate(model: torch.nn.Module, loader: Loader, ranks: ProcessGroup, *, batch_size: int = 64) -> Validation:
    """Every rank judges its share; all get the same result. Raises `Diverged` on all where a logit is not finite."""
    records = loader.examples.records
    mine = ranks.share(len(records))
    gathered = ranks.gather(judge(model, loader, positions=mine, batch_size=batch_size))
    logits = np.zeros(len(records))
    for rank, share in enumerate(gathered):
        logits[ProcessGroup(rank, ranks.world).share(len(records))] = share
    broken = records["record_id"][~np.isfinite(logits)]
    if len(broken):
        raise Diverged(
            f"validation: it has diverged: the logits of {len(broken)} of {len(logits)} records are not finite, the first that "
            f"of {broken.iloc[0]}"
        )
    label = records["label"].to_numpy(np.float64)
    item = pd.factorize(item_keys(records))[0].astype(np.int64)
    return Validation(logits, metrics(label, logits, item), fit_temperature(label, logits))
