"""The schedule and the order of records."""

import numpy as np
import pytest

from countryreward.training.data_order import epoch_batches
from countryreward.training.engine import cosine_with_warmup


def test_schedule_literals():
    factors = [cosine_with_warmup(step, total=12, warmup_share=0.17) for step in (0, 1, 2, 7, 12)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])  # two warm-up steps, then ten down, half-way at step 7


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_record_once_whatever_the_world_size(world: int):
    lengths = np.random.default_rng(0).integers(50, 200, 101)
    ranks = [epoch_batches(lengths, batch_size=4, seed=7, epoch=2, world=world, rank=rank) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = np.concatenate([batch for batches in ranks for batch in batches])
    assert set(seen) == set(range(101))
    assert len(seen) - 101 < 4 * world


def test_batches_hold_records_of_like_length_and_change_with_the_epoch():
    lengths = np.random.default_rng(0).integers(50, 200, 4000)
    batches = epoch_batches(lengths, batch_size=8, seed=1, epoch=0)
    padding = 1 - sum(lengths[b].sum() for b in batches) / sum(lengths[b].max() * len(b) for b in batches)
    assert padding < 0.03  # unsorted: about a quarter
    again = epoch_batches(lengths, batch_size=8, seed=1, epoch=0)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    later = epoch_batches(lengths, batch_size=8, seed=1, epoch=1)
    assert any((a != b).any() for a, b in zip(batches, later, strict=True))
