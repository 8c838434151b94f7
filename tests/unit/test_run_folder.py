"""The run folder's log, its best model, its lock and the trackers."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from countryreward.data.file_primitives import read_json
from countryreward.errors import UserError
from countryreward.training.distributed import ProcessGroup
from countryreward.training.reward_run import settled
from countryreward.training.run_folder import RunFolder, held
from countryreward.training.trackers import check_trackers, open_trackers
from countryreward.training.training_config import LoopConfig


def model(score: float):
    def write(place: Path) -> None:
        (place / "training.json").write_text(json.dumps({"score": score}))

    return write


def test_the_log_is_taken_back_to_the_checkpoint(tmp_path: Path):
    run = RunFolder(tmp_path, lambda _: None)
    for step in (5, 10, 15):
        run.line({"kind": "step", "step": step, "loss": float("nan")})
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"kind": "step", "st')  # killed while writing
    run.go_back(10)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [5, 10]
    run.go_back(0)
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_damaged_best_is_refused_aloud_and_a_half_swapped_one_comes_back(tmp_path: Path):
    said: list[str] = []
    run = RunFolder(tmp_path, lambda message: said.append(message["text"]))
    assert run.best_score() is None
    run.save(["last", "best"], model(0.5))
    run.save(["last"], model(0.4))
    assert run.best_score() == 0.5
    (tmp_path / "best").rename(tmp_path / ".old-best")  # killed between the two renames
    run.recover()
    assert run.best_score() == 0.5
    (tmp_path / "best" / "training.json").write_text('{"score": 0.9}')
    assert run.best_score() is None
    assert "training.json does not match its SHA-256" in said[0]


def test_a_finished_run_with_a_damaged_model_is_an_error(tmp_path: Path):
    run = RunFolder(tmp_path, lambda _: None)
    run.save(["best"], model(0.5))
    assert not run.finished({"dataset": "v1"})
    run.finish({"dataset": "v1"}, {"steps": 3})
    assert run.finished({"dataset": "v1"})
    with pytest.raises(UserError, match=r"trained to its end with dataset v1 \(now v2\); set these back"):
        run.finished({"dataset": "v2"})
    (tmp_path / "best" / "training.json").unlink()
    with pytest.raises(UserError, match=r"was trained to its end, but .*remove the folder to train again"):
        run.finished({"dataset": "v1"})


def test_every_start_is_written_down(tmp_path: Path):
    run = RunFolder(tmp_path, lambda _: None)
    (tmp_path / "dropped.json").touch()
    run.begin({"dataset": "0123456789abcdef"}, 2, "fp32")
    run.begin({"dataset": "0123456789abcdef"}, 1, "fp32")
    told = read_json(tmp_path / "started.json")
    assert (told["identity"], told["precision"]) == ({"dataset": "0123456789abcdef"}, "fp32")
    assert [start["workers"] for start in told["starts"]] == [2, 1]
    assert not (tmp_path / "dropped.json").exists()
    (tmp_path / "started.json").write_text('{"identity": {')  # a bad disk: costs what it said, and no training
    run.begin({}, 1)
    assert len(read_json(tmp_path / "started.json")["starts"]) == 1


def test_a_run_keeps_its_precision_on_any_processor():
    for begun in ("fp32", "bf16"):
        assert settled(LoopConfig(precision="auto"), ProcessGroup(0, 1), "cpu", begun).precision == begun
    assert settled(LoopConfig(precision="bf16"), ProcessGroup(0, 1), "cpu", "fp32").precision == "bf16"


def hold(folder: Path, ready, leave) -> None:
    with held(folder):
        ready.set()
        leave.wait()


@pytest.mark.slow
def test_two_processes_never_train_one_run(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready, leave))
    other.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match=f"is being trained by process {other.pid}"), held(tmp_path, patience=0.3):
        pass
    other.kill()  # the lock falls with its holder
    other.join()
    with held(tmp_path, patience=5):
        pass


def test_a_tracker_is_checked_before_the_training():
    with pytest.raises(UserError, match="trackers: 'neptune' is unknown; write mlflow or wandb"):
        check_trackers(["neptune"])


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlflow is not installed; pip install 'countryreward\[mlflow\]'"):
        check_trackers(["mlflow"])


def test_a_tracker_that_fails_costs_no_training(tmp_path: Path):
    class Away:
        def log(self, numbers: dict[str, float], step: int) -> None:
            raise ConnectionError("no route")

        def close(self) -> None:
            raise ConnectionError("no route")

    said: list[dict] = []
    run = RunFolder(tmp_path, said.append, [Away()])
    for step in (1, 2):
        run.line({"kind": "step", "step": step, "loss": 0.5})
    run.close()
    texts = [message["text"] for message in said if message["kind"] == "said"]
    assert texts == ["Away failed (no route) and gets no more lines; log.jsonl has them all"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_mlflow_gets_every_number_and_a_resumed_run_goes_on_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    for step in (1, 2):
        run = RunFolder(tmp_path, lambda _: None, open_trackers(["mlflow"], tmp_path, {"loop": {"seed": 3}}, step - 1))
        run.line({"kind": "step", "step": step, "loss": 0.5 / step})
        run.close()
    (found,) = mlflow.search_runs(experiment_names=["countryreward"], output_format="list")
    assert found.data.params["loop.seed"] == "3"
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "step/loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]


@pytest.mark.slow
def test_wandb_gets_every_number_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunFolder(tmp_path, lambda _: None, open_trackers(["wandb"], tmp_path, {"loop": {"seed": 3}}, 0))
    run.line({"kind": "step", "step": 1, "loss": 0.125})
    run.close()
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    # wandb's own process writes the file, and on a busy machine it is not done when finish() returns.
    until = time.monotonic() + 60
    while b"step/loss" not in stored.read_bytes() and time.monotonic() < until:
        time.sleep(0.1)
    assert b"step/loss" in stored.read_bytes()
    assert b"0.125" in stored.read_bytes()
