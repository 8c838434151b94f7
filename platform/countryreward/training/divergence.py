"""A training whose loss or gradients are no numbers any more ends at that step, on all workers together, and says where."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from countryreward.errors import UserError
from countryreward.training.distributed import ProcessGroup

_MOST_KEYS = 32
"""Records that a message names; the count of the others follows."""


class Diverged(UserError):
    """The loss or the gradient of a step is not finite; names step, records and learning rates."""


def check_finite(
    losses: Sequence[float],
    gradient_norm: float,
    *,
    ranks: ProcessGroup,
    device: torch.device | str,
    step: int,
    steps: int,
    records: Callable[[], Sequence[Sequence[str]]],
    learning_rates: Mapping[str, float],
) -> None:
    """Raise `Diverged` on every process when a loss of any process, or the norm of the gradients, is not finite.

    losses: of this process's batches in this step. gradient_norm: over all weights, before clipping. records: ids of the records
    of each of these batches, asked for only when something is wrong. learning_rates: by parameter group, for the message. All
    processes must call it together, before anything of the step is validated or written.
    """
    finite = math.isfinite(gradient_norm) and all(map(math.isfinite, losses))
    if not ranks.any(not finite, device):
        return
    batches = list(zip(losses, records(), strict=True))
    everywhere = [batch for of_one_worker in ranks.gather_objects(batches) for batch in of_one_worker]
    broken = [(loss, keys) for loss, keys in everywhere if not math.isfinite(loss)]
    if broken:
        loss, keys = broken[0]
        what = f"the loss is {loss} for the batch of {_listed(keys)}"
    else:
        keys = [key for _, keys_of_batch in everywhere for key in keys_of_batch]
        what = f"the losses are finite, but the norm of their gradient is {gradient_norm}, for the batches of {_listed(keys)}"
    rates = ", ".join(f"{group} {rate:.3g}" for group, rate in learning_rates.items())
    raise Diverged(f"training: it has diverged: at step {step:,} of {steps:,} {what}; learning rates: {rates}")


def weights_are_finite(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether every floating-point weight is a number: what is not must never become a model folder."""
    return all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


def last_checkpoint(folder: Path) -> str:
    """Where a diverged run was still good, as a sentence: its newest checkpoint in `folder`, of either training."""
    checkpoints = [*folder.glob("step-*"), *folder.glob("checkpoint-*")]
    newest = max(checkpoints, key=lambda path: int(path.name.split("-")[1]), default=None)
    place = f"the last good checkpoint is {newest}" if newest else "it had written no checkpoint yet"
    return f"{place}. Nothing of this step was kept: look at its records, or train with lower learning rates, as another run"


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
    return f"{len(keys)} records {', '.join(keys[:_MOST_KEYS])}{more}"
