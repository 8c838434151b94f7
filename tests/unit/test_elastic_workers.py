"""Fewer workers than planned make the same steps on the same data, and the number may change at every start."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from countryreward.training.data_order import microbatches
from countryreward.training.distributed import ProcessGroup
from tests.unit.training_processes import train


@pytest.mark.parametrize(("planned", "accumulation"), [(1, 1), (2, 2), (3, 2), (4, 3), (8, 1)])
def test_every_batch_is_taken_once_whoever_is_there(planned: int, accumulation: int):
    batches = {(part, worker) for part in range(accumulation) for worker in range(planned)}
    for world in range(1, planned + 2):
        mine = [microbatches(planned, accumulation, ProcessGroup(rank, world)) for rank in range(world)]
        assert len({len(one) for one in mine}) == 1  # all make as many passes
        real = [turn for one in mine for turn in one if turn.weight]
        assert sorted((turn.part, turn.planned) for turn in real) == sorted(batches)
        # the mean over workers and passes, as engines take it, is the mean over the step's batches
        for turn in real:
            assert turn.weight / len(mine[0]) / world == pytest.approx(1 / len(batches))
    as_planned = microbatches(planned, accumulation, ProcessGroup(planned - 1, planned))
    assert [dataclasses.astuple(turn) for turn in as_planned] == [(a, planned - 1, 1.0) for a in range(accumulation)]


RUN = {"planned": 2, "records": 32, "epochs": 4}
"""8 steps of 4 batches of 4; 2 steps an epoch."""


@pytest.fixture(scope="module")
def fixed() -> dict[str, Any]:
    """The whole run with as many workers as planned."""
    return train("torch", 2, **RUN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["2", "3", pytest.param("torch", marks=pytest.mark.long), pytest.param("1", marks=pytest.mark.long)]
)
def test_two_one_two_workers(engine: str, fixed: dict[str, Any], tmp_path: Path):
    parts = [
        train(engine, world, **RUN, folder=str(tmp_path), stop=stop) for world, stop in ((2, 3), (1, 6), (2, 0))
    ]  # cut inside an epoch, and inside no validation
    assert [part["step"] for part in parts] == [3, 6, 8]
    lines = [line for part in parts for line in part["lines"]]
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line, other in zip(lines, fixed["lines"], strict=True):
        for name in ("loss", "bce", "penalty", "wrong_share"):
            assert line[name] == pytest.approx(other[name], abs=1e-4), (engine, line["step"], name)
        assert line["learning_rates"] == pytest.approx(other["learning_rates"])
    for part, step in zip(parts[1:], (3, 6), strict=True):  # at once after loading: no group has another's rate
        assert part["learning_rates"] == pytest.approx(fixed["lines"][step - 1]["learning_rates"])
    assert np.abs(np.array(parts[-1]["logits"]) - np.array(fixed["logits"])).max() < 1e-3
    seen = [record for part in parts for batch in part["seen"] for record in batch]
    assert sorted(seen) == sorted(list(range(32)) * 4)  # every record once in each of four epochs, over all cuts
    assert {tuple(batch) for part in parts for batch in part["seen"]} == {tuple(batch) for batch in fixed["seen"]}


@pytest.mark.slow
@pytest.mark.long
def test_a_number_that_does_not_divide_the_batches(tmp_path: Path):
    """Three of four planned workers: 8 batches in 3 turns of 3, the last one a filler without weight."""
    run = {"planned": 4, "records": 32, "epochs": 2}
    four, three = train("torch", 4, **run), train("2", 3, **run)
    for line, other in zip(three["lines"], four["lines"], strict=True):
        for name in ("loss", "bce", "penalty", "wrong_share"):
            assert line[name] == pytest.approx(other[name], abs=1e-4)
    assert sorted(map(tuple, three["seen"])) == sorted(map(tuple, four["seen"]))
