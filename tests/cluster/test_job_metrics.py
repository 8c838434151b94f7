"""Metrics of a job as Ray exports them: a driver's and a trial's, on the port that Ray's own service discovery names."""

import json
import os
import re
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from countryreward.command import RUN_ID
from countryreward.on_ray.job_metrics import METRICS, NAME, JobMetrics
from countryreward.on_ray.ray_config import RayConfig
from countryreward.on_ray.session import session


def _exported(address: str) -> dict[str, dict[str, str]]:
    """Series of ours -> {value} of the tags that are ours."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^(ray_{NAME}\w+)\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return {name: dict(re.findall(r'(\w+)="([^"]*)"', labels)) | {"value": value} for name, labels, value in found}


def _targets(discovered: Path) -> list[str]:
    return json.loads(discovered.read_text())[0]["targets"] if discovered.exists() else []


def test_every_metric_is_exported_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ID, "run-1")
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    with session(RayConfig(cpus=1, object_store_mib=100, dashboard=True)):
        import ray

        @ray.remote(num_cpus=0)
        class Trial:
            def __init__(self) -> None:
                JobMetrics("trial").set("loss", 0.5, training="abc")

            def run(self) -> str:
                return os.environ[RUN_ID]

        trial = Trial.remote()
        assert ray.get(trial.run.remote()) == "run-1"
        (folder,) = Path(tempfile.gettempdir()).glob(f"cr-ray-{os.getpid()}-*")
        metrics = JobMetrics("everything")
        for name, kind in METRICS.items():
            if name != "loss":
                tags = dict.fromkeys(kind.tags, "x")
                metrics.set(name, 3, **tags) if kind.type == "gauge" else metrics.add(name, 3, **tags)
        node = ray.nodes()[0]
        address = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        wanted = {f"ray_{NAME}{name}" for name in METRICS}
        until = time.monotonic() + 60
        while set(found := _exported(address)) != wanted and time.monotonic() < until:
            time.sleep(1)
        assert set(found) == wanted
        loss = found.pop(f"ray_{NAME}loss")
        assert (loss["job_name"], loss["run"], loss["training"], float(loss["value"])) == ("trial", "run-1", "abc", 0.5)
        for name, series in found.items():
            assert (series["job_name"], series["run"], float(series["value"])) == ("everything", "run-1", 3.0), name
        discovered = folder / "prom_metrics_service_discovery.json"  # prometheus.yml names it in Ray's default folder
        while address not in _targets(discovered) and time.monotonic() < until:
            time.sleep(1)
        assert address in _targets(discovered)
