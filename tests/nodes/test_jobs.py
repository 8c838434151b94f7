"""What a team does with a cluster, from a laptop: `ray job submit` with a token, a sweep, `serve deploy`, asking the service."""

import io
import json
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from PIL import Image

from countryreward.client import Client
from countryreward.data.artifacts import open_artifact
from countryreward.scoring.contracts import PairRequest, Product
from countryreward.serving.http.keys import FILE, KeyStore
from tests.cluster.kill_run import ROOT
from tests.nodes.machines import Cluster

pytestmark = pytest.mark.long

SPACE = """
def space():
    from ray import tune
    return {"reward.focus_weight": tune.grid_search([0.0, 0.2]), "search.text_k": 5}
"""


def test_without_the_token_the_cluster_takes_nothing(nodes: Cluster):
    said = nodes.submit("stranger", "python", "-c", "print('ra' + 'n')", token=False)
    assert "ran" not in said.split()
    assert "401" in said or "auth" in said.lower()
    assert "stranger" not in nodes.ray("job", "list", "--address", nodes.dashboard).stdout


def test_a_submitted_job_builds_the_knowledge_base_and_trains_on_two_nodes(nodes: Cluster, demo: Path):
    assert (demo / "trained_on").read_text() == "cr2 cr3"  # a worker on each, none on the head
    for kind in ("knowledge_base", "priors", "features"):
        assert open_artifact(demo / kind, kind=kind).manifest.counts
    facts = json.loads((demo / "model" / "training.json").read_text())
    assert facts["workers"] == 2
    assert (demo / "report.html").is_file()


def test_a_sweep(nodes: Cluster, demo: Path):
    (nodes.home / "space.py").write_text(SPACE)
    at = [f"--{name}={demo / name}" for name in ("dataset", "records", "embeddings", "knowledge_base", "features")]
    said = nodes.submit(
        "sweep", "python", "jobs/tune_reward.py", f"--out={nodes.home}/sweep", f"--space={nodes.home}/space.py", *at,
        "--draws=100", "--workers.workers=1", "--loop.epochs=0.3", "--loop.validations=2", "--loop.validation_items=6",
        "--sweep.scheduler=none", timeout=400,
    )  # fmt: skip
    assert "succeeded" in said, said[-3000:]
    report = json.loads((nodes.home / "sweep" / "report.json").read_text())
    assert len(report["trials"]) == 2
    assert yaml.safe_load((nodes.home / "sweep" / "best.yaml").read_text())["reward"]["focus_weight"] in (0.0, 0.2)
    assert nodes.free() == 2.0


def test_serve_deploy_and_a_question(nodes: Cluster, demo: Path, tmp_path: Path):
    told = yaml.safe_load((ROOT / "serve_apps" / "reward.yaml").read_text())
    told["http_options"]["host"] = "0.0.0.0"
    app = told["applications"][0]
    app["args"] |= {"model": str(demo / "model"), "device": "cpu", "service": {"state": str(nodes.home / "state")}}
    app["deployments"][0]["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(told))
    key = KeyStore(nodes.home / "state" / FILE, poll_s=0).create("shop", scopes=("score",), rate="1000/second")
    done = nodes.head.run("serve", "deploy", "--address", nodes.dashboard, str(tmp_path / "serve.yaml"))
    assert done.returncode == 0, done.stderr[-2000:]
    try:
        a, b = pictures()
        pair = PairRequest(product=Product(title="Oak mug"), market="KR", image_a=a, image_b=b)
        versions = set()
        for machine in nodes.machines:  # a proxy on every node
            wait_until_ready(f"http://{machine.address}:8000")
            with Client(f"http://{machine.address}:8000", key) as client:
                (verdict,) = client.score([pair])
                versions.add(verdict.model_version)
                assert 0 < verdict.probability < 1
        assert len(versions) == 1
    finally:
        nodes.head.run("serve", "shutdown", "-y", "--address", nodes.dashboard)


def pictures() -> list[bytes]:
    """Two of one colour each."""
    found = []
    for color in ("navy", "gold"):
        data = io.BytesIO()
        Image.new("RGB", (64, 64), color).save(data, "PNG")
        found.append(data.getvalue())
    return found


def wait_until_ready(url: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not ready(url):
        assert time.monotonic() < until, url
        time.sleep(0.5)


def ready(url: str) -> bool:
    """Whether a model answers there."""
    try:
        urllib.request.urlopen(f"{url}/readyz", timeout=5).close()
    except OSError:
        return False
    return True
