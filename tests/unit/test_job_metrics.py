"""What jobs tell Ray's exporter, without Ray; and that the dashboard asks for all of it and for nothing else."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from countryreward.generation.outcomes import Outcome
from countryreward.on_ray.job_metrics import METRICS, NAME, TAGS, JobMetrics, metered
from countryreward.on_ray.ray_config import RayConfig
from countryreward.training.training_config import LoopConfig

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "cluster" / "monitoring" / "grafana" / "jobs.json").read_text(encoding="utf-8"))
ASKED = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
Told = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """(name, value, tags) of all that would go to Ray."""
    found: Told = []
    monkeypatch.setattr(JobMetrics, "_tell", lambda self, name, value, tags: found.append((name, value, tags)))
    return found


def last(told: Told) -> dict[str, float]:
    return {name: value for name, value, _ in told}


def test_a_training_is_told_and_still_watched(told: Told) -> None:
    seen: list[dict[str, Any]] = []
    watch = metered(seen.append, JobMetrics("train_reward"), "abc", workers=2)
    lines = [
        {"stage": "train prompts", "done": 3, "total": 9},
        {"stage": "training steps", "done": 7, "total": 100},
        {"kind": "said", "text": "hello"},
        {"kind": "step", "step": 10, "of": 100, "loss": 0.5, "pairs_per_second": 40.0},
        {"kind": "resumed", "step": 8, "of": 100, "workers": 1},
        {"kind": "validation", "step": 20, "discordant_ordering": 0.9, "accuracy": 0.8},
        {"kind": "writer", "step": 21, "of": 100, "loss": 0.25},
    ]
    for line in lines:
        watch(line)
    assert seen == lines
    assert all(tags == {"training": "abc"} for _, _, tags in told)
    assert told[0] == ("workers", 2, {"training": "abc"})
    assert ("step", 7, {"training": "abc"}) in told
    assert ("loss", 0.5, {"training": "abc"}) in told
    assert last(told) == {
        "workers": 1,
        "step": 21,
        "steps": 100,
        "loss": 0.25,
        "pairs_per_second": 40.0,
        "validation_score": 0.9,
        "resumes_total": 1,
    }


def test_a_counter_known_by_its_sum_goes_up_by_the_difference(told: Told) -> None:
    metrics = JobMetrics("pairs")
    for value in (0, 2, 2, 5):
        metrics.reach("calls_again_total", value, stage="write")
    metrics.reach("calls_again_total", 1, stage="score")
    assert [(value, tags["stage"]) for _, value, tags in told] == [(2, "write"), (3, "write"), (1, "score")]


def test_what_is_not_known_is_not_told(told: Told) -> None:
    JobMetrics("x").set("loss", None, training="a")
    assert told == []


def test_without_ray_nothing_happens_and_wrong_tags_are_ours() -> None:
    JobMetrics("x").set("loss", 1.0, training="a")
    with pytest.raises(AssertionError):
        JobMetrics("x").set("loss", 1.0, stage="a")


def test_the_run_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTRYREWARD_RUN_ID", "mine")
    assert JobMetrics("x").run == "mine"


@pytest.mark.slow  # it imports Ray, as do the three below
def test_a_stage_that_never_rests_is_busy_before_its_call_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from countryreward.on_ray.pipeline import Busy

    now = 100.0
    monkeypatch.setattr("countryreward.on_ray.pipeline.time.monotonic", lambda: now)
    busy = Busy()
    began = busy.begin()
    now = 108.0
    assert busy.share(10.0) == 0.8
    busy.end(began)
    now = 110.0
    assert busy.share(10.0) == 0.8


@pytest.mark.slow
def test_trials_are_counted_by_status(told: Told) -> None:
    from countryreward.on_ray.tuning import tell_trials

    tell_trials(JobMetrics("x"), ["running", "stopping", "weights dropped", "finished", "failed"])
    assert [(tags["status"], value) for _, value, tags in told] == [
        ("running", 2),
        ("finished", 2),
        ("stopped", 0),
        ("failed", 1),
    ]


@pytest.mark.slow
def test_the_best_of_all_trials_is_told_as_their_logs_grow(told: Told, tmp_path: Path) -> None:
    from countryreward.on_ray.tuning import followed

    seen: list[dict[str, Any]] = []
    for name, score in (("a", 0.7), ("b", 0.9), ("c", 0.8)):
        run = tmp_path / "trials" / name
        run.mkdir(parents=True)
        line = {"kind": "validation", "step": 5, "discordant_ordering": score, "accuracy": 0.1}
        (run / "log.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "trials" / "a" / "finished.json").write_text('{"identity": {}}')
    with followed(tmp_path, 3, seen.append, JobMetrics("tune_reward")):
        pass
    assert [value for name, value, _ in told if name == "best_score"] == [0.7, 0.9, 0.9]
    assert {tags["status"]: value for name, value, tags in told if name == "trials"} == {
        "running": 0, "finished": 1, "stopped": 2, "failed": 0,
    }  # fmt: skip
    assert [one["score"] for one in seen if one.get("kind") == "trial"] == [0.7, 0.9, 0.8]


@pytest.mark.slow
def test_pairs_are_counted_by_what_became_of_them(told: Told, tmp_path: Path) -> None:
    from countryreward.generation.outcomes import OutcomeStore
    from countryreward.on_ray.make_pairs import run_tasks
    from countryreward.on_ray.pipeline import Stage

    class Three:
        """Tasks with literal keys, the first of which is done already."""

        def keys(self, made_by: Any) -> list[str]:
            return ["0", "1", "2", "3"]

        def take(self, made_by: Any, without: frozenset[str]) -> Any:
            return iter(key for key in self.keys(made_by) if key not in without)

    async def end(keys: list[str]) -> list[Outcome]:
        return [
            Outcome(key=key, dropped="unsure") if key == "1"
            else Outcome(key=key, quarantined="failed_again") if key == "2"
            else Outcome(key=key, row={"key": key})
            for key in keys
        ]  # fmt: skip

    store = OutcomeStore(tmp_path)
    store.put([Outcome(key="0", row={"key": "0"})])
    tasks: Any = Three()
    stages = [Stage(name="score", call=end, give_up=lambda key, error: Outcome(key=key, dropped="unsure"))]
    asyncio.run(run_tasks(tasks, "made by", stages, store, metrics=JobMetrics("pairs")))
    assert sorted(tags["outcome"] for name, _, tags in told if name == "outcomes_total") == [
        "dropped",
        "kept",
        "quarantined",
    ]
    assert last(told)["left"] == 0
    assert ("in_flight", 0, {"stage": "score"}) in told
    assert any(name == "busy" and tags == {"stage": "score"} for name, _, tags in told)


def test_the_dashboard_asks_for_every_metric_and_for_no_other() -> None:
    asked = {name for text in ASKED for name in re.findall(r"\w*countryreward_\w+", text)}
    assert asked == {f"ray_{NAME}{name}" for name in METRICS}  # the prefix is Ray's


def test_names_of_counters_are_what_ray_exports() -> None:
    """Ray adds _total to a counter that has it not."""
    assert all(name.endswith("_total") == (kind.type == "counter") for name, kind in METRICS.items())


@pytest.mark.parametrize("text", ASKED)
def test_tags_that_are_asked_for_exist(text: str) -> None:
    names = [name.removeprefix(f"ray_{NAME}") for name in re.findall(rf"ray_{NAME}\w+", text)]
    tags = {*TAGS, *(tag for name in names for tag in METRICS[name].tags)}
    assert set(re.findall(r"(\w+)\s*=~", text)) <= tags
    for inside in re.findall(r"by \(([^)]*)\)", text):
        assert set(re.split(r",\s*", inside)) <= tags
    bare = re.sub(r'"[^"]*"', "", text)
    assert all(bare.count(one) == bare.count(other) for one, other in ("()", "[]", "{}"))


def test_legends_name_tags_and_every_panel_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        for target in panel["targets"]:
            left = re.search(r"by \(([^)]*)\)", target["expr"])
            names = [name.removeprefix(f"ray_{NAME}") for name in re.findall(rf"ray_{NAME}\w+", target["expr"])]
            there = set(re.split(r",\s*", left.group(1))) if left else {*TAGS, *METRICS[names[0]].tags}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= there, panel["title"]


def test_the_page_tells_every_metric_and_names_options_that_exist() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    part = page.partition("## Watching jobs\n")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `countryreward_job_(\w+)` \| (.*?) ?\| (?:.+) \|$", part, re.MULTILINE))
    assert {name: tuple(re.findall(r"`(\w+)`", tags)) for name, tags in told.items()} == {
        name: kind.tags for name, kind in METRICS.items()
    }
    assert {f"{owner}.{name}" for owner, name in re.findall(r"--(ray|loop)\.(\w+)", part)} == {
        "ray.dashboard",
        "ray.log_mib",
        "ray.disk_limit",
        "loop.keep_checkpoints",
    }
    defaults = {"ray.log_mib": RayConfig().log_mib, "loop.keep_checkpoints": LoopConfig().keep_checkpoints}
    for name, value in defaults.items():
        assert f"`--{name}` ({value})" in part
    assert f"`--ray.disk_limit` ({str(RayConfig().disk_limit).removeprefix('0')})" in part
    image = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    for name in ("RAY_ROTATION_MAX_BYTES", "RAY_ROTATION_BACKUP_COUNT"):
        assert name in part
        assert re.search(rf"^\s+{name}=\d+ ", image, re.MULTILINE)
