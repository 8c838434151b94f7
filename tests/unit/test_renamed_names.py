"""Options, config keys and tensors of the release before are read under their new names; a run's identity is as it was."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from countryreward.command import run
from countryreward.errors import UserError
from countryreward.models.reward_config import RewardOptions
from countryreward.models.reward_model import CountryRewardModel
from countryreward.renamed_options import names_before, renamed
from countryreward.training.engine import TorchEngine, universal_form
from countryreward.training.sweep_plan import with_params
from countryreward.training.training_config import RewardTraining
from tests.unit import micro_qwen

OLD_MODEL = Path(__file__).parent / "old_artifacts" / "model_with_trust"
"""Saved by the release before: micro_qwen's words, width 16, one layer, patches of 4 pixels, `trust` 0.375."""
OLD_LOGITS = [0.6164321899414062, -1.5269088745117188]
"""What the release before said of `old_pairs`."""


def old_pairs(model: CountryRewardModel) -> dict[str, Any]:
    batch = micro_qwen.batch_for(model, micro_qwen.fields(), micro_qwen.fields(log_odds=-2.0, letter="B", market="JP"))
    draws = torch.Generator().manual_seed(1)
    return {"batch": batch, "pixel_values": torch.randn(batch.patches, 3 * 2 * 4 * 4, generator=draws)}


@torch.no_grad()
def test_a_model_folder_of_the_release_before_loads_and_says_the_same():
    model = CountryRewardModel.from_pretrained(OLD_MODEL, dtype=torch.float32).eval()
    assert model.prior_weight is not None
    assert model.prior_weight.item() == 0.375
    assert model.options.prior_weight_start == 0.25
    assert model(**old_pairs(model)).logit.tolist() == pytest.approx(OLD_LOGITS, abs=1e-5)


def test_a_model_folder_of_the_release_before_is_saved_under_the_new_names(tmp_path: Path):
    model = CountryRewardModel.from_pretrained(OLD_MODEL)
    model.save_pretrained(tmp_path)
    with (
        safe_open(tmp_path / "model.safetensors", "pt") as saved,
        safe_open(OLD_MODEL / "model.safetensors", "pt") as old,
    ):
        names, names_of_old = set(saved.keys()), set(old.keys())
        assert torch.equal(saved.get_tensor("prior_weight"), old.get_tensor("trust"))
    assert names - names_of_old == {"prior_weight"}
    assert names_of_old - names == {"trust"}
    options = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["options"]
    assert options["prior_weight_start"] == 0.25
    assert "trust_start" not in options


def test_loading_draws_no_bar_and_leaves_the_setting_as_it_was(capfd: pytest.CaptureFixture[str]):
    from transformers.utils import logging

    logging.enable_progress_bar()
    CountryRewardModel.from_pretrained(OLD_MODEL)
    assert "Loading weights" not in "".join(capfd.readouterr())
    assert logging.is_progress_bar_enabled()


def test_a_checkpoint_of_a_run_begun_before_is_taken_up(tmp_path: Path):
    def engine() -> TorchEngine:
        model = micro_qwen.model(layers=1)
        groups = [{"name": "all", "params": list(model.parameters()), "lr": 1e-3}]
        return TorchEngine(model, groups, lambda step: 1.0, accumulation=1, max_grad_norm=1.0)

    begun = engine()
    dict(begun.bare.named_parameters())["prior_weight"].data.fill_(0.125)
    begun.save(tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["weights"]["trust"] = state["weights"].pop("prior_weight")
    torch.save(state, tmp_path / "state.pt")
    resumed = engine()
    resumed.load(tmp_path)
    assert dict(resumed.bare.named_parameters())["prior_weight"].item() == 0.125
    state["weights"]["of another model"] = torch.zeros(1)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(AssertionError, match="of another model"):
        resumed.load(tmp_path)


def test_shards_converted_for_another_number_of_workers_have_the_new_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from deepspeed.checkpoint import ds_to_universal

    def convert(options: Any) -> None:
        for name in ("trust", "classifier.weight"):
            (Path(options.output_folder) / "zero" / name).mkdir(parents=True)

    monkeypatch.setattr(ds_to_universal, "main", convert)
    with universal_form(tmp_path / "step-00000010", "state") as made:
        assert sorted(path.name for path in (made / "state" / "zero").iterdir()) == [
            "classifier.weight",
            "prior_weight",
        ]


def test_the_identity_of_a_run_is_told_in_the_names_it_was_begun_with():
    job = RewardTraining(
        dataset="", records="", priors="", features="", reward=RewardOptions(reading="paper", prior_weight_start=0.5)
    )
    assert job.options()["reward"] == {
        "reading": "paper",
        "strategy": "scaled",
        "antisymmetric": "off",
        "focus_measure": "norm",
        "focus_layer": "final",
        "focus_reduce": "first",
        "focus_weight": 0.1,
        "country": "on",
        "adapter": True,
        "trust_start": 0.5,
        "max_length": 1024,
    }


def test_names_before_are_the_inverse_of_renamed():
    old = {"preset": "tiny", "reward": {"trust_start": 0.5, "adapter": True}, "other": {"trust_start": 1}}
    new = {"preset": "tiny", "reward": {"prior_weight_start": 0.5, "adapter": True}, "other": {"trust_start": 1}}
    assert renamed(old) == new
    assert names_before(new) == old
    assert renamed({"trust_start": 0.5}, within="reward") == {"prior_weight_start": 0.5}


def test_a_search_space_may_use_the_old_name():
    job = RewardTraining(dataset="", records="", priors="", features="")
    assert with_params(job, {"reward.trust_start": 0.25}).reward.prior_weight_start == 0.25
    with pytest.raises(UserError, match="there is no trust_end"):
        with_params(job, {"reward.trust_end": 0.25})


@dataclass(kw_only=True)
class Job:
    """A job."""

    name: str = "job"
    """Its name."""
    reward: RewardOptions = field(default_factory=RewardOptions)
    """What it computes."""


@dataclass(kw_only=True)
class Unrelated:
    """A job without the options that were renamed."""

    name: str = "job"
    """Its name."""


SAID = "note: reward.trust_start is reward.prior_weight_start now; the old name works in this release only\n"


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str, job: type = Job) -> tuple[Any, str]:
    configs: list[Any] = []
    run(job, configs.append, list(arguments))
    return configs[0], capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--reward.trust_start=0.25"], ["--reward.trust_start", "0.25"], ["--reward.trust-start=0.25"]]
)
def test_an_old_option_is_read_and_its_new_name_said(capsys: pytest.CaptureFixture[str], arguments: list[str]):
    config, said = parsed(capsys, *arguments, "--name=trust_start")
    assert config.reward.prior_weight_start == 0.25
    assert config.name == "trust_start"
    assert said == SAID


@pytest.mark.parametrize("joined", [True, False])
def test_an_old_option_in_a_file_is_read_and_its_new_name_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, joined: bool
):
    path = tmp_path / "job.yaml"
    path.write_text("name: from a file\nreward:\n  trust_start: 0.25\n  adapter: false\n", encoding="utf-8")
    arguments = [f"--config={path}"] if joined else ["--config", str(path)]
    config, said = parsed(capsys, *arguments, "--reward.focus_weight=0.5")
    assert config == Job(
        name="from a file", reward=RewardOptions(prior_weight_start=0.25, adapter=False, focus_weight=0.5)
    )
    assert said == SAID


@pytest.mark.parametrize(
    "arguments",
    [
        ["--reward", "{trust_start: 0.25, adapter: false}"],
        ["--reward={trust_start: 0.25, adapter: false}"],
        ["--reward=GROUP"],
        ["--config={reward: {trust_start: 0.25, adapter: false}}"],
    ],
)
def test_an_old_option_in_a_group_is_read_and_its_new_name_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
):
    group = tmp_path / "reward.yaml"
    group.write_text("trust_start: 0.25\nadapter: false\n", encoding="utf-8")
    config, said = parsed(capsys, *(argument.replace("GROUP", str(group)) for argument in arguments))
    assert config == Job(reward=RewardOptions(prior_weight_start=0.25, adapter=False))
    assert said == SAID


def test_both_names_of_an_option_together_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parsed(capsys, "--reward={trust_start: 0.25, prior_weight_start: 0.5}")
    assert ended.value.code == 2
    assert "reward.prior_weight_start: it is given twice" in capsys.readouterr().err


def test_new_names_are_said_nothing_about(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("reward:\n  prior_weight_start: 0.25\n", encoding="utf-8")
    config, said = parsed(capsys, f"--config={path}", "--name=x")
    assert (config.reward.prior_weight_start, said) == (0.25, "")


def test_a_job_without_the_option_refuses_the_old_name_as_any_other(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parsed(capsys, "--reward.trust_start=1", job=Unrelated)
    assert "now; the old name" not in capsys.readouterr().err


def test_a_file_that_is_not_there_is_the_parsers_to_refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit):
        parsed(capsys, f"--config={tmp_path / 'absent.yaml'}")
    assert "absent.yaml" in capsys.readouterr().err
