"""What the service counts, and that dashboard and alarms ask for nothing else."""

import asyncio
import json
import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from countryreward.errors import UserError
from countryreward.serving.durable_jobs.batch.batch_store import JobStore, StoredJob
from countryreward.serving.http.prometheus_metrics import Prometheus
from countryreward.serving.http.request_log import RequestRecord, to_files
from countryreward.serving.inference.hot_reload import HotReloadedModel, Published
from countryreward.serving.service_config import ServiceConfig

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

FOLDER = Path(__file__).parents[2] / "cluster" / "monitoring"
NOON = datetime(2026, 10, 4, 12, tzinfo=UTC)


@pytest.fixture
def counted() -> Prometheus:
    """One of everything was counted."""
    prometheus = Prometheus()
    prometheus.request(
        RequestRecord(
            request_id="0123456789abcdef",
            tenant="acme",
            key_id="0a1b2c3d",
            method="POST",
            route="/v1/score",
            status=200,
            seconds=0.02,
            verdicts=2,
            bytes_in=10,
            bytes_out=10,
        )
    )
    prometheus.forward_pass(4, 400, 0.01)
    prometheus.encoded(2)
    prometheus.cache(hit=True)
    prometheus.cache(hit=False)
    prometheus.verdicts(2)
    prometheus.taken(accepted=False)
    prometheus.ended("done")
    prometheus.backlog(3, 60.0)
    prometheus.rendered(2, 0.5)
    prometheus.design_refused()
    prometheus.design_written(accepted=True)
    prometheus.generation_ended("done")
    prometheus.generation_backlog(3, 60.0)
    return prometheus


def names_of(text: str) -> set[str]:
    """Series of an answer of /metrics, without their labels."""
    return set(re.findall(r"^(countryreward_\w+)", text, re.MULTILINE))


def expressions() -> list[str]:
    """Of the alarms and of the dashboard."""
    alarms = yaml.safe_load((FOLDER / "alarms.yml").read_text(encoding="utf-8"))
    told = [rule["expr"] for group in alarms["groups"] for rule in group["rules"]]
    dashboard = json.loads((FOLDER / "grafana" / "reward.json").read_text(encoding="utf-8"))
    return told + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_name_asked_for_is_counted(counted: Prometheus) -> None:
    known = {name for name in names_of(counted.text().decode()) if not name.endswith("_created")}
    asked = {name for text in expressions() for name in re.findall(r"countryreward_\w+", text)}
    assert asked - known == set()
    assert known - asked <= {"countryreward_request_seconds_sum", "countryreward_request_seconds_count"}


@pytest.mark.parametrize("text", expressions())
def test_expressions_are_balanced(text: str) -> None:
    bare = re.sub(r'"[^"]*"', "", text)
    assert '"' not in bare
    open_ones = []
    for letter in bare:
        if letter in "([{":
            open_ones.append(letter)
        elif letter in ")]}":
            assert open_ones, text
            assert open_ones.pop() + letter in ("()", "[]", "{}"), text
    assert not open_ones, text


def test_labels_asked_for_exist(counted: Prometheus) -> None:
    labels: dict[str, set[str]] = {}
    for name, inside in re.findall(r"^(\w+)\{([^}]*)\}", counted.text().decode(), re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', inside))
    for text in expressions():
        for name, inside in re.findall(r"(countryreward_\w+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)\s*[=!]", re.sub(r'"[^"]*"', "", inside))) <= labels[name], text


def test_prometheus_asks_with_a_key_from_a_file() -> None:
    told: Any = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    job, ray = told["scrape_configs"]
    assert ray == {
        "job_name": "ray",
        "file_sd_configs": [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}],
    }
    assert job["job_name"] == "countryreward"  # the alarm on `up` names it
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "countryreward.key"}
    assert all((FOLDER / name).is_file() for name in told["rule_files"])


def test_alarms_have_all_that_is_read() -> None:
    alarms: Any = yaml.safe_load((FOLDER / "alarms.yml").read_text(encoding="utf-8"))
    rules = [rule for group in alarms["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) == 12
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")


def test_what_alarms_wait_for_is_there_from_the_start() -> None:
    text = Prometheus().text().decode()
    assert 'countryreward_new_models_total{taken="no"} 0.0' in text
    assert 'countryreward_batch_jobs_total{state="failed"} 0.0' in text
    assert 'countryreward_generation_jobs_total{state="failed"} 0.0' in text
    assert "countryreward_replica_starts_total 1.0" in text


def test_logged_errors_are_counted() -> None:
    prometheus = Prometheus()
    prometheus.count_errors()
    log = logging.getLogger("countryreward.service")
    try:
        log.warning("no error")
        log.error("one")
    finally:
        log.removeHandler(log.handlers[-1])
    assert "countryreward_errors_logged_total 1.0" in prometheus.text().decode()


def test_lines_of_the_log_say_when_and_how_bad(tmp_path: Path) -> None:
    log = logging.getLogger("countryreward.service")
    before = (log.level, log.propagate)
    to_files(tmp_path)
    try:
        log.error(json.dumps({"event": "keys", "message": "gone"}))
        log.info("took in %s", "v2")
        try:
            raise ValueError("a title")
        except ValueError:
            log.exception("one round failed")
    finally:
        log.handlers[-1].close()
        log.removeHandler(log.handlers[-1])
        log.setLevel(before[0])
        log.propagate = before[1]
    (path,) = tmp_path.glob("service-*.jsonl")
    keys, taken, failed = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert all(datetime.fromisoformat(line.pop("time")).tzinfo for line in (keys, taken, failed))
    assert keys == {"event": "keys", "level": "ERROR", "message": "gone"}
    assert taken == {"event": "message", "level": "INFO", "text": "took in v2"}
    assert failed["error"][0]["type"] == "ValueError"
    assert "a title" not in json.dumps(failed)


def test_why_a_model_was_refused_names_no_path(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
    link = tmp_path / "model"
    link.symlink_to("v1")

    def load(published: Published) -> Any:
        if published.model.name == "v2":
            raise UserError(f"model: file {published.model}/model.safetensors does not match its SHA-256")
        return SimpleNamespace(about=nothing_told)

    followed = HotReloadedModel(str(link), "", load, ServiceConfig())
    link.unlink()
    link.symlink_to("v2")
    assert asyncio.run(followed.look()) is False
    reason = "model: file v2/model.safetensors does not match its SHA-256"
    assert asyncio.run(followed.about())["refused"] == [{"version": "v2", "reason": reason}]


async def nothing_told() -> dict[str, Any]:
    return {}


def test_what_the_machine_failed_to_load_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("v1", "v2", "v3"):
        (tmp_path / name).mkdir()
    link = tmp_path / "model"
    link.symlink_to("v1")
    loads: list[str] = []

    def load(published: Published) -> Any:
        loads.append(published.model.name)
        if loads == ["v1", "v2"]:
            raise MemoryError

        async def about() -> dict[str, Any]:
            return {"model": published.model.name}

        async def close() -> None: ...

        return SimpleNamespace(about=about, close=close)

    followed = HotReloadedModel(str(link), "", load, ServiceConfig())
    link.unlink()
    link.symlink_to("v2")
    assert asyncio.run(followed.look()) is False
    assert asyncio.run(followed.about()) == {
        "model": "v1",
        "refused": [{"version": "v2", "reason": "MemoryError while it was loaded"}],
    }
    assert asyncio.run(followed.look()) is False  # not at once
    assert loads == ["v1", "v2"]
    link.unlink()
    link.symlink_to("v3")
    assert asyncio.run(followed.look()) is True  # another version need not wait
    link.unlink()
    link.symlink_to("v2")
    assert asyncio.run(followed.look()) is False
    monkeypatch.setattr("countryreward.serving.inference.hot_reload.time.monotonic", lambda: 1e12)
    assert asyncio.run(followed.look()) is True
    assert asyncio.run(followed.about())["model"] == "v2"
    link.unlink()
    link.symlink_to("model")  # to itself
    assert asyncio.run(followed.look()) is False


def test_open_and_ended_batch_jobs_are_counted(tmp_path: Path) -> None:
    prometheus = Prometheus()
    store = JobStore(ServiceConfig(state=str(tmp_path)), lambda: NOON, prometheus)
    for number, age in ((1, 90), (2, 30)):
        folder = store.place("acme") / f"b-{number:016x}"
        folder.mkdir()
        created = NOON - timedelta(seconds=age)
        store.save(
            folder,
            StoredJob(id=folder.name, state="waiting", created=created, tenant="acme", ending="csv", fingerprint=""),
        )
    store.tell_backlog()
    text = prometheus.text().decode()
    assert "countryreward_batch_open 2.0" in text
    assert "countryreward_batch_oldest_seconds 90.0" in text
    claim = store.claim()
    assert claim is not None
    with claim.lease:
        store.end(claim.folder, claim.job, "failed", "pairs: broken")
    store.tell_backlog()
    text = prometheus.text().decode()
    assert 'countryreward_batch_jobs_total{state="failed"} 1.0' in text
    assert "countryreward_batch_open 1.0" in text
    assert "countryreward_batch_oldest_seconds 30.0" in text
