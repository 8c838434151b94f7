"""The order of records in training, and who takes which batch of it, also where fewer workers are there than were planned for.

Records are shuffled and bucketed by length, the same for every number of workers. An optimizer step is planned workers x
accumulation batches, whoever is there: with fewer workers each takes more of them, so weights, losses and the order of the data
stay what they would have been, up to the order in which floats are added.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from countryreward.training.distributed import ProcessGroup


def epoch_batches(
    lengths: NDArray[np.int64],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    world: int = 1,
    rank: int = 0,
    window: int = 50,
) -> list[NDArray[np.int64]]:
    """The batches of one rank in one epoch: arrays of record positions, [<= batch_size] each.

    Records are shuffled by (seed, epoch), sorted by length within windows of `window` global batches so that a batch pads
    little, cut into global batches of world x batch_size, and the global batches are shuffled again. Rank r takes every
    world-th record of a global batch. Every rank has the same number of batches; the last global batch is filled up with
    records from the front of the order, at most world x batch_size - 1 of them, so no record is left out.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    size = world * batch_size
    missing = -len(order) % size
    order = np.concatenate([order, np.resize(order, missing)]) if missing else order
    span = size * window
    parts = [order[start : start + span] for start in range(0, len(order), span)]
    parts = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
    batches = np.concatenate(parts).reshape(-1, size)
    return [batch[rank::world] for batch in batches[rng.permutation(len(batches))]]


@dataclass
class DataOrder:
    """The endless order of a training's batches, any of them at will: a pure function of the arguments."""

    lengths: NDArray[np.int64]
    """Tokens of every record."""
    batch_size: int
    seed: int
    workers: int
    """Planned ones."""
    _kept: dict[int, tuple[int, list[NDArray[np.int64]]]] = field(default_factory=dict, repr=False)

    def batch(self, number: int, worker: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, record positions) of batch `number` = 0, 1, ... of planned worker `worker`."""
        epoch, place = divmod(number, -(-len(self.lengths) // (self.workers * self.batch_size)))
        if worker not in self._kept or self._kept[worker][0] != epoch:
            batches = epoch_batches(
                self.lengths, batch_size=self.batch_size, seed=self.seed, epoch=epoch, world=self.workers, rank=worker
            )
            self._kept[worker] = epoch, batches
        return epoch, self._kept[worker][1][place]


@dataclass
class Swaps:
    """Which records of an epoch are asked as (B, A), where each is asked in one order only: half of them, drawn anew in each."""

    seed: int
    records: int
    _epoch: int = field(default=-1, repr=False)
    _drawn: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool), repr=False)

    def of(self, epoch: int, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For the records at these positions."""
        if epoch != self._epoch:
            self._epoch, self._drawn = epoch, np.random.default_rng([self.seed, epoch, 1]).random(self.records) < 0.5
        return self._drawn[chosen]


@dataclass(frozen=True)
class Microbatch:
    """One forward and backward pass of one worker."""

    part: int
    """Of the accumulation."""
    planned: int
    """The planned worker whose batch it is."""
    weight: float
    """On the batch's loss, so that the mean over all workers and their microbatches is the mean over the step's batches. 0: a
    batch that another worker takes, here only because all workers must make as many passes."""


def microbatches(planned: int, accumulation: int, ranks: ProcessGroup) -> list[Microbatch]:
    """The microbatches of one worker in every step: as many for each, batch n to worker n modulo their number.

    With as many workers as planned, worker r has the batches of planned worker r, each with weight 1.
    """
    batches = planned * accumulation
    each = -(-batches // ranks.world)
    weight = ranks.world * each / batches
    numbers = [ranks.rank + place * ranks.world for place in range(each)]
    return [
        Microbatch(number % batches // planned, number % planned, weight if number < batches else 0.0)
        for number in numbers
    ]
