"""What a run is recognised by: literals that the release before gave to the same options, so that its runs go on."""

from typing import Any

import pytest

import countryreward
from countryreward.models.reward_config import LoraOptions, RewardOptions
from countryreward.training.run_identity import RunIdentity, differences
from countryreward.training.training_config import LoopConfig, RewardTraining, WriterLoop, WriterTraining

VERSIONS = {name: name[0] * 16 for name in ("dataset", "records", "knowledge_base", "priors", "features")}
TINY = {
    "backbone": "", "image_px": 0, "preset": "tiny", "workers": 2,
    "loop": {
        "accumulation": 1, "batch_size": 16, "engine": "deepspeed", "epochs": 1, "gradient_checkpointing": False,
        "max_grad_norm": 1.0, "optimizer": "adamw", "orders": "one", "precision": "auto", "seed": 0, "validation_items": 200,
        "validations": 5, "warmup": 0.03, "weight_decay": 0.01, "zero_stage": 2,
    },
    "lora": {"alpha": 0.0, "base": "full", "dropout": 0.0, "rank": 0},
    "rates": {"adapter": 0.005, "classifier": 0.01, "llm": 0.0003, "lora": 0.003, "merger": 0.0003, "tower": 0.0},
}  # fmt: skip
READ = {
    "adapter": True, "antisymmetric": "on", "country": "on", "focus_layer": "inner", "focus_measure": "attention",
    "focus_reduce": "relative", "focus_weight": 0.1, "max_length": 1024, "reading": "repaired", "strategy": "soft",
}  # fmt: skip


@pytest.fixture(autouse=True)
def of_version_0_1_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countryreward, "__version__", "0.1.0")


def test_options_of_a_reward_training_keep_the_names_of_the_first_runs() -> None:
    job = RewardTraining(dataset="runs/demo/dataset", records="r", priors="p", features="f", trackers=["wandb"])
    options: dict[str, Any] = job.identity(VERSIONS, 2).options
    assert {name: value for name, value in options.items() if name != "reward"} == TINY
    assert options["reward"].items() >= READ.items()


def test_the_same_trainings_have_the_fingerprints_of_the_release_before() -> None:
    job = RewardTraining(dataset="runs/demo/dataset", records="r", priors="p", features="f")
    assert job.identity(VERSIONS, 2).fingerprint() == "b23ea03764b9"
    job = RewardTraining(
        dataset="a",
        records="b",
        priors="c",
        features="",
        preset="qwen2-vl-7b",
        learning_rates={"lora": 2e-4},
        lora=LoraOptions(rank=16),
        reward=RewardOptions(reading="paper", focus_weight=0.3),
        loop=LoopConfig(epochs=1.5, log_every=7, seed=3, zero_stage=1),
        trackers=["mlflow"],
    )
    versions = {name: version for name, version in VERSIONS.items() if name != "features"}
    assert job.identity(versions, 8).fingerprint() == "7c89174afa31"
    job = WriterTraining(designs="runs/demo/designs", dataset="runs/demo/dataset")
    assert job.identity({"designs": "e" * 16, "dataset": "d" * 16}, 2).fingerprint() == "78b4acc18e3a"
    job = WriterTraining(
        pairs="runs/demo/pairs",
        writer="runs/demo/designer",
        dataset="runs/demo/dataset",
        lora=LoraOptions(rank=8),
        loop=WriterLoop(epochs=2, seed=5),
    )
    assert job.identity({"pairs": "q" * 16, "writer": "w" * 16}, 2).fingerprint() == "7f3b63e215a8"


def test_what_differs_is_said_in_words() -> None:
    mine = RunIdentity(inputs={"dataset": "1"}, options={"loop": {"seed": 1}}).made_from
    assert differences(mine, {"dataset": "1", "loop": {"seed": 0}}) == "loop.seed 0 (now 1)"
    assert differences(mine, {"dataset": "1", "loop": {"seed": 1}}) == ""


def test_local_paths_are_made_absolute_for_workers_and_names_of_models_are_not(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    job = WriterTraining(pairs="pairs", backbone="Qwen/Qwen2-VL-2B-Instruct").with_absolute_paths()
    assert (job.pairs, job.designs, job.backbone) == (str(tmp_path / "pairs"), "", "Qwen/Qwen2-VL-2B-Instruct")
