"""The order of records in training: shuffled, bucketed by length, the same for every world size up to who takes which batch."""

import numpy as np
from numpy.typing import NDArray


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
