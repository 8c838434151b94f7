"""Two workers under ZeRO-2 train the model that one process trains: same losses, same judgements."""

import numpy as np
import pytest

from tests.unit.training_processes import run, train

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
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
        assert other["learning_rates"] == pytest.approx(one["learning_rates"])
    assert np.abs(np.array(found["logits"]) - np.array(alone["logits"])).max() < 1e-5
    assert found["total"] == pytest.approx(alone["total"], rel=1e-5)  # ZeRO-3's shards come back whole


def test_the_penaltys_gradient_is_logged(alone: dict):
    assert all(line["penalty_to_bce_gradient"] > 0 for line in alone["lines"])


@pytest.mark.parametrize("engine", ["torch", "0", "2", "3"])
def test_a_loss_that_is_no_number_on_one_worker_ends_both_at_that_step_with_its_records(engine: str):
    printed = run(engine, 2, planted=5)
    told = [text.split("DIVERGED")[1].splitlines()[0] for text in printed]
    assert told[0] == told[1]
    assert "training: it has diverged: at step" in told[0]
    assert "the loss is nan for the batch of 4 records" in told[0]
    assert "r5" in told[0]
    assert "learning rates: merger 0.001, llm 0.0005, adapter 0.002, classifier 0.001" in told[0]
    assert not any("FOUND" in text for text in printed)
