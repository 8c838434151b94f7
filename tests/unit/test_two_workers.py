"""Two workers under ZeRO-2 train the model that one process trains: same losses, same judgements."""

import numpy as np
import pytest

from tests.unit.training_processes import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone() -> dict:
    return train("torch", 1)


@pytest.mark.parametrize("engine", ["torch", "2", "3"])
def test_two_workers_train_what_one_process_trains(alone: dict, engine: str):
    found = train(engine, 2)
    assert len(found["lines"]) == len(alone["lines"]) == 2
    for one, other in zip(alone["lines"], found["lines"], strict=True):
        for name in ("loss", "bce", "penalty", "wrong_share"):
            assert other[name] == pytest.approx(one[name], abs=1e-5), (engine, name)
        assert other["rates"] == pytest.approx(one["rates"])
    assert np.abs(np.array(found["logits"]) - np.array(alone["logits"])).max() < 1e-5
    assert found["total"] == pytest.approx(alone["total"], rel=1e-5)  # ZeRO-3's shards come back whole


def test_the_penaltys_gradient_is_logged(alone: dict):
    assert all(line["penalty_to_bce_gradient"] > 0 for line in alone["lines"])
