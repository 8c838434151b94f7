"""Sweeps as their users start them, on the shrunken demo: killed and gone on with, stopped by ASHA, the best one published."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from countryreward.errors import UserError
from countryreward.on_ray.ray_config import SweepConfig
from countryreward.training.training_config import RewardTraining
from tests.cluster.demo_run import ROOT, Run
from tests.cluster.kill_run import UNJUDGED, environment

SPACE = """
def space():
    from ray import tune
    return {"reward.focus_weight": 0.2, "search.text_k": tune.grid_search([5, 20])}
"""
FOUR = """
def space():
    from ray import tune
    return {"reward.focus_weight": tune.grid_search([0.0, 0.2]), "search.text_k": tune.grid_search([5, 20])}
"""

DRAWN = """
def space():
    from ray import tune
    return {"reward.focus_weight": tune.choice([0.2]), "search.text_k": 5}
"""


class Sweep:
    """One sweep in a folder of its own."""

    def __init__(self, demo: Path, at: Path, *options: str, space: str = SPACE) -> None:
        self.at, self.out = at, at / "sweep"
        at.mkdir(exist_ok=True)
        (at / "space.py").write_text(space)
        names = ("dataset", "records", "embeddings", "knowledge_base", "features")
        self.command = [
            sys.executable,
            "jobs/tune_reward.py",
            f"--out={self.out}",
            f"--space={at}/space.py",
            "--draws=100",
        ]
        self.command += [f"--{name}={demo / name}" for name in names]
        self.command += [
            "--workers.workers=1",
            "--ray.cpus=1",
            "--loop.log_every=1",
            "--loop.validation_items=0",
            *options,
        ]

    def start(self) -> subprocess.Popen[str]:
        with open(self.at / "said.txt", "a") as said:
            return subprocess.Popen(
                self.command, cwd=ROOT, env=environment(), stdout=said, stderr=subprocess.STDOUT, text=True
            )

    def finish(self) -> str:
        assert self.start().wait(timeout=500) == 0, self.said()[-3000:]
        return self.said()

    def said(self) -> str:
        return (self.at / "said.txt").read_text()

    def report(self) -> dict[str, Any]:
        return json.loads((self.out / "report.json").read_text())

    def runs(self) -> list[Path]:
        return sorted(self.at.glob("sweeps/*/trials/*"))

    def validations(self) -> dict[str, int]:
        return {
            run.name: (run / "log.jsonl").read_text().count('"validation"') if (run / "log.jsonl").exists() else 0
            for run in self.runs()
        }


@pytest.fixture(scope="module")
def killed(demo: Run, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Ctrl-C in the first trial, gone on with, killed -9 when the second trial had begun, then gone on with to the end."""
    sweep = Sweep(
        demo.folder,
        tmp_path_factory.mktemp("s") / "a",
        "--sweep.scheduler=none",
        "--loop.epochs=0.3",
        "--loop.validations=2",
    )

    def until(process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
        ends = time.monotonic() + 300
        while not true() and time.monotonic() < ends:
            assert process.poll() is None, sweep.said()[-3000:]
            time.sleep(0.1)

    process = sweep.start()
    until(process, lambda: any((run / "log.jsonl").exists() for run in sweep.runs()))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, sweep.said()[-3000:]
    assert "stopped: trainings have written their checkpoints; the same command goes on" in sweep.said()
    assert not sweep.out.exists()
    assert [len(list(run.glob("checkpoints/step-*"))) for run in sweep.runs()] == [1]
    process = sweep.start()
    until(process, lambda: sorted(sweep.validations().values())[-2:] == [1, 2])
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sorted(sweep.validations().values())[-2:] in ([1, 2], [2, 2])
    sweep.finish()
    return sweep


def test_a_killed_sweep_ends_with_every_trial_once(killed: Sweep) -> None:
    report = killed.report()
    assert report["n"]["finished"] == 2, report["n"]
    assert killed.validations() == {trial["name"]: 2 for trial in report["trials"]}
    scores = {trial["name"]: trial[report["metric"]]["value"] for trial in report["trials"]}
    assert scores[report["best"]] == max(scores.values())
    assert {tuple(trial["params"].values()) for trial in report["trials"]} == {(0.2, 5), (0.2, 20)}
    assert "still taken" not in killed.said()


def test_only_the_best_keeps_its_weights(killed: Sweep) -> None:
    held = [run.name for run in killed.runs() if (run / "best" / "model.safetensors").exists()]
    assert held == [killed.report()["best"]]


def test_the_same_command_again_does_nothing(killed: Sweep) -> None:
    before = killed.validations()
    assert killed.finish().endswith(f"sweep: {killed.out} is up to date\n")
    assert killed.validations() == before


def test_best_yaml_publishes_the_best_trial_without_training(killed: Sweep, tmp_path: Path) -> None:
    before = killed.validations()
    done = subprocess.run(
        [sys.executable, "jobs/train_reward.py", f"--config={killed.out}/best.yaml", f"--out={tmp_path}/model", UNJUDGED],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert killed.validations() == before
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert os.path.samefile(
        killed.runs()[0].parent, Path(done.stdout.split("log and TensorBoard in ")[1].split()[0]).parent
    )


def test_a_report_made_again_knows_which_trials_ended(killed: Sweep) -> None:
    before = killed.validations()
    killed.command.append("--draws=50")
    killed.finish()
    assert killed.report()["bootstrap"]["draws"] == 50
    assert killed.report()["n"]["finished"] == 2  # all but the best one's weights are gone
    assert killed.validations() == before


@pytest.mark.long
def test_a_trial_that_is_stopped_gives_its_place_to_the_next(demo: Run, tmp_path: Path) -> None:
    options = ("--sweep.reduction=4", "--loop.epochs=0.4", "--loop.validations=3", "--keep_weights=true")
    sweep = Sweep(demo.folder, tmp_path / "b", *options, space=FOUR)
    said = sweep.finish()
    report = sweep.report()
    assert report["n"]["stopped"] >= 1
    assert report["n"]["finished"] + report["n"]["stopped"] == 4
    assert "still taken" not in said
    stopped = {trial["name"] for trial in report["trials"] if trial["status"] == "stopped"}
    for run in sweep.runs():
        assert (run / "best" / "validation.parquet").exists()
        assert (run / "finished.json").exists() == (run.name not in stopped)


@pytest.mark.long
def test_what_is_drawn_again_waits_for_the_first_and_keeps_its_weights(demo: Run, tmp_path: Path) -> None:
    options = (
        "--sweep.samples=4",
        "--sweep.concurrent=3",
        "--sweep.scheduler=none",
        "--loop.epochs=0.2",
        "--loop.validations=1",
    )
    sweep = Sweep(demo.folder, tmp_path / "c", *options, space=DRAWN)
    said = sweep.finish()
    report = sweep.report()
    assert report["n"] == report["n"] | {"trials": 1, "finished": 1, "failed": 0}
    assert "sweep: 3 draws repeated an earlier one; each is trained and counted once" in said
    assert set(sweep.validations().values()) == {1}
    assert (sweep.runs()[0] / "best" / "model.safetensors").exists()


def test_asha_knows_in_a_restored_sweep_what_was_told_before() -> None:
    import pickle

    from ray.tune.schedulers import TrialScheduler

    from countryreward.on_ray.searchers import make_scheduler

    scheduler = pickle.loads(pickle.dumps(make_scheduler(SweepConfig(), "score", 4, past_of)))  # as Ray Tune keeps it
    for name in PAST:
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=name, config=name))
    worse, better = SimpleNamespace(trial_id="new"), SimpleNamespace(trial_id="newer")
    told = {"training_iteration": 1}
    assert scheduler.on_trial_result(None, worse, told | {"score": 0.74}) == TrialScheduler.STOP
    assert scheduler.on_trial_result(None, better, told | {"score": 0.79}) == TrialScheduler.CONTINUE
    again = SimpleNamespace(trial_id="b")
    assert (
        scheduler.on_trial_result(None, again, told | {"score": 0.78}) == TrialScheduler.CONTINUE
    )  # told once already


PAST = {"a": [0.77, 0.80, 0.81, 0.81], "b": [0.78, 0.80], "c": [], "new": [], "newer": []}
"""Trial -> what its log has of an earlier life."""


def past_of(trial: Any) -> list[float]:
    return PAST[trial]


JOB = RewardTraining(dataset="d", records="r", priors="-", features="")


def test_spaces_are_checked_before_anything_starts(tmp_path: Path) -> None:
    from ray import tune

    from countryreward.on_ray.sweep_space import check_space, count_trials, described, ks_of, open_space

    def refused(space: dict[str, Any], **options: Any) -> str:
        with pytest.raises(UserError) as raised:
            check_space(JOB, space, SweepConfig(**options))
        return str(raised.value)

    assert "focus_weight: -1 must be at least 0" in refused({"reward.focus_weight": tune.choice([0, -1])})
    assert "space: loop.epoch: there is no epoch" in refused({"loop.epoch": 1})
    assert "priors are made beforehand" in refused({"search.text_k": tune.uniform(1, 2)})
    assert "Optuna draws and has no grids" in refused(
        {"learning_rates.llm": tune.grid_search([1e-3])}, searcher="optuna"
    )
    assert "nothing in the space is drawn" in refused({"learning_rates.llm": tune.grid_search([1e-3])}, samples=2)
    assert "it has no parameter" in refused({})
    assert "a function of one's own" in refused({"learning_rates.llm": tune.sample_from(lambda _: 1e-3)})
    for one, other in (
        (tune.randn(1e-3, 1e-4), tune.randn(5e-3, 1e-4)),
        (tune.quniform(0, 1, 0.1), tune.quniform(0, 1, 0.2)),
        (tune.quniform(0.1, 1, 0.1), tune.qloguniform(0.1, 1, 0.1)),
    ):
        assert described({"x": one}) != described({"x": other})
    with pytest.raises(UserError, match=r"'nothing' is unknown; write lambda_k, rates, strategy, or the path"):
        open_space("nothing")
    with pytest.raises(UserError, match="there is no file"):
        open_space(str(tmp_path / "none.py"))
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(UserError, match=r"has no function space\(\)"):
        open_space(str(tmp_path / "empty.py"))
    counts = {
        name: count_trials(open_space(name), SweepConfig(samples=1)) for name in ("lambda_k", "strategy", "rates")
    }
    assert counts == {"lambda_k": 12, "strategy": 10, "rates": 1}
    for name in counts:
        check_space(JOB, open_space(name), SweepConfig())
        assert described(open_space(name)) == described(open_space(name))
    assert ks_of(open_space("lambda_k"), (1, 2)) == [(32, 10), (32, 39), (127, 10), (127, 39)]
    assert ks_of({"search.image_k": tune.choice([3, 4])}, (1, 2)) == [(1, 3), (1, 4)]


def test_optuna_is_there_and_limited() -> None:
    from countryreward.on_ray.searchers import make_searcher

    searcher = make_searcher(SweepConfig(searcher="optuna"), "score", 3)
    assert (type(searcher).__name__, searcher.max_concurrent) == ("Limited", 3)


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_restored_searcher_runs_as_many_at_a_time_as_this_start_says(kind: Any) -> None:
    import pickle

    from countryreward.on_ray.searchers import make_searcher

    before = make_searcher(SweepConfig(searcher=kind), "score", 1)
    state, kept = before.get_state(), pickle.dumps(before)
    make_searcher(SweepConfig(searcher=kind), "score", 4)
    restored = pickle.loads(kept)
    restored.set_state(state)
    assert restored.max_concurrent == 4


def test_what_was_drawn_twice_is_one_run(tmp_path: Path) -> None:
    from countryreward.on_ray.tuning import TrialRun, once_each

    def run(name: str, status: Any, seconds: float) -> TrialRun:
        folder = tmp_path / name if name else None
        return TrialRun(params={"x": name}, status=status, why="", folder=folder, seconds=seconds)

    told = [
        run("a", "stopped", 9),
        run("b", "finished", 5),
        run("", "failed", 0),
        run("a", "finished", 1),
        run("", "failed", 0),
    ]
    found = [(one.params["x"], one.status, one.seconds, one.draws) for one in once_each(told)]
    assert found == [("a", "finished", 9, 2), ("b", "finished", 5, 1), ("", "failed", 0, 1), ("", "failed", 0, 1)]


def test_a_state_that_was_not_written_whole_is_not_gone_on_with(tmp_path: Path) -> None:
    from countryreward.on_ray.tuning import _restorable

    (tmp_path / "tuner.pkl").touch()
    assert not _restorable(tmp_path)
    (tmp_path / "experiment_state-2026.json").write_text('{"trial')
    assert not _restorable(tmp_path)
