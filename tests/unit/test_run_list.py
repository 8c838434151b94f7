"""`countryreward runs`: what is listed of trainings and artifacts, and what is not."""

import fcntl
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from countryreward.cli import main
from countryreward.data.artifacts import open_artifact, publish
from countryreward.training.run_list import list_runs


def training(folder: Path, *, finished: bool) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"kind": "step", "step": 50, "of": 200, "loss": 0.7},
        {"kind": "validation", "step": 60, "discordant_ordering": 0.91},
        {"kind": "validation", "step": 90, "discordant_ordering": 0.88},
        {"kind": "step", "step": 100, "of": 200, "loss": 0.5},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')
    (folder / ".lock").touch()
    began = datetime.now(UTC) - timedelta(hours=5)
    starts = [
        {"time": (began + timedelta(hours=hours)).isoformat(), "run_id": "r", "workers": workers}
        for hours, workers in ((0, 2), (2, 1))
    ]
    told = {"identity": {"dataset": "0123456789abcdef", "preset": "tiny"}, "starts": starts}
    (folder / "started.json").write_text(json.dumps(told))
    if finished:
        (folder / "finished.json").write_text(json.dumps({"identity": {}}))
    return folder


def artifacts(root: Path) -> None:
    with publish(root / "dataset", kind="dataset") as draft:
        (draft.path / "a.txt").write_text("a")
    for _ in range(2):  # an earlier version is kept, and not listed
        inputs = {"dataset": open_artifact(root / "dataset", kind="dataset")}
        with publish(root / "model", kind="model", inputs=inputs, config={"workers": 2}) as draft:
            (draft.path / "training.json").write_text(json.dumps({"validation": {"discordant_ordering": 0.9344}}))


def test_everything_is_listed_once(tmp_path: Path) -> None:
    artifacts(tmp_path)
    training(tmp_path / "training" / "abc", finished=True)
    training(tmp_path / "training" / "def", finished=False)
    found = {one.path: one for one in list_runs(tmp_path)}
    assert sorted(found) == ["dataset", "model", "training/abc", "training/def"]
    assert (found["model"].kind, found["model"].status, found["model"].metric) == (
        "model",
        "published",
        "ordering 0.934",
    )
    assert found["model"].made_from == {"dataset": found["dataset"].version}
    assert (found["training/abc"].status, found["training/abc"].metric) == ("finished", "ordering 0.910")
    for name in ("training/abc", "training/def"):
        assert found[name].made_from == {"dataset": "0123456789abcdef"}
        assert found[name].node_hours == pytest.approx(2 * 2 + 3 * 1, abs=0.01)  # as many workers as each start had
    assert (found["training/def"].status, found["training/def"].metric) == (
        "stopped",
        "ordering 0.910, step 100 of 200",
    )


def test_a_training_that_somebody_holds_is_running(tmp_path: Path) -> None:
    folder = training(tmp_path / "t", finished=False)
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list_runs(tmp_path)[0].status == "running"
        (folder / "stop").touch()
        assert list_runs(tmp_path)[0].status == "stopping"
    assert list_runs(tmp_path)[0].status == "stopped"


def test_a_trial_whose_weights_a_sweep_removed(tmp_path: Path) -> None:
    folder = training(tmp_path / "t", finished=True)
    (folder / "finished.json").rename(folder / "dropped.json")
    (found,) = list_runs(tmp_path)
    assert (found.status, found.metric) == ("weights dropped", "ordering 0.910")


def test_a_damaged_artifact_is_listed_as_damaged(tmp_path: Path) -> None:
    artifacts(tmp_path)
    manifest = tmp_path / "model" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("model", "m0del", 1))
    found = {one.path: one for one in list_runs(tmp_path)}
    assert found["model"].status == "damaged"
    assert "does not match its SHA-256" in found["model"].metric


def test_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts(tmp_path)
    main(["runs", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["when", "(UTC)", "path", "kind", "status", "metric", "node-h", "version", "made", "from"]
    assert said[-1] == f"2 in {tmp_path}"
    main(["runs", str(tmp_path), "--kind=model", "--json"])
    (told,) = json.loads(capsys.readouterr().out)
    assert told["path"] == "model"
    with pytest.raises(SystemExit) as ended:
        main(["runs", str(tmp_path / "none")])
    assert ended.value.code == 2
    assert "is no folder; give the one that jobs write to" in capsys.readouterr().err
