"""The training job refuses to publish a collapsed model; with a reason the finished training is published as it is."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from countryreward.data.artifacts import Draft, open_artifact, seal
from countryreward.training.run_folder import WEIGHTS
from tests.cluster.demo_run import Run
from tests.cluster.kill_run import DDP, SHORT, Training


def collapse(best: Path) -> None:
    """Make the weights of a run answer 0 to everything."""
    weights = load_file(best / "model.safetensors")
    for name in ("classifier.weight", "prior_weight"):
        weights[name] = torch.zeros_like(weights[name])
    save_file(weights, best / "model.safetensors", metadata={"format": "pt"})
    seal(Draft(best), kind=WEIGHTS)


@pytest.mark.long
def test_a_collapsed_model_is_published_only_with_a_reason_and_not_trained_again(demo: Run, tmp_path: Path):
    options = [*SHORT, *DDP, "--loop.epochs=0.1"]
    Training(demo.folder, tmp_path, "run", options).run()
    collapse(tmp_path / "run" / "best")
    out = tmp_path / "run-model"
    out.unlink()  # the link: nothing is published
    log = (tmp_path / "run" / "log.jsonl").read_bytes()

    refused = Training(demo.folder, tmp_path, "run", [*options, "--allow_collapsed="])
    assert refused.start().wait(300) == 2
    assert "allow_collapsed: the model has collapsed: it answers neither to 24 of the 24 questions" in refused.said()
    assert f"its weights are kept in {tmp_path / 'run' / 'best'}" in refused.said()
    assert not out.exists()

    Training(demo.folder, tmp_path, "run", [*options, "--allow_collapsed=to look at its answers"]).run()
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log  # no step more
    found = open_artifact(out, kind="model")
    assert found.manifest.counts["probe"]["allowed"] == "to look at its answers"
    assert json.loads((out / "probe.json").read_text())["allowed"] == "to look at its answers"
    assert "It was published because: to look at its answers" in (out / "README.md").read_text()

    assert refused.run().said().endswith(f"train: {out} is up to date\n")
