"""Who can reach the Ray that a job starts: nobody from outside, and on the machine nobody without its token."""

import http.client
import importlib
import json
import pkgutil
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import grpc
import pytest

from countryreward.command import SUBMITTED
from countryreward.on_ray.ray_config import RayConfig
from countryreward.on_ray.ray_security import LOOPBACK, is_private
from tests.cluster.demo_run import ROOT
from tests.cluster.kill_run import environment

JOB = """
import json, os, sys, time
from countryreward.on_ray.ray_config import RayConfig
from countryreward.on_ray.ray_security import replica_on_loopback
from countryreward.on_ray.session import session
import psutil

with session(RayConfig(cpus=1, dashboard=True)):
    import ray
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Hello:
        def __init__(self):
            replica_on_loopback()

        def __call__(self, request):
            return "hello"

    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, proxy_location="HeadOnly")
    serve.run(Hello.bind())
    mine = {process.pid: process.name() for process in psutil.Process().children(recursive=True)} | {os.getpid(): "job"}
    sockets = [
        [*one.laddr, mine[one.pid]] for one in psutil.net_connections("inet") if one.status == "LISTEN" and one.pid in mine
    ]
    context = ray.get_runtime_context()
    dashboard = ray._private.worker._global_node.webui_url
    print(json.dumps({"sockets": sockets, "gcs": context.gcs_address, "dashboard": dashboard}), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def private() -> Any:
    """A Ray with dashboard and Serve, as a job starts it: what listens, and where."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, "8917"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdin
    for line in process.stdout:
        if line.startswith('{"sockets"'):
            yield json.loads(line)
            break
    else:
        pytest.fail("the job said nothing")
    process.stdin.write("\n")
    process.stdin.close()
    process.stdout.read()
    assert process.wait(timeout=60) == 0


def test_everything_listens_on_loopback(private: dict[str, Any]) -> None:
    names = [
        name.removeprefix("ray::") for _, _, name in private["sockets"]
    ]  # a busy actor's name ends in its method's
    for listener in ("gcs_server", "raylet", "DashboardAgent", "ServeReplica:default:Hello"):
        assert any(name.startswith(listener) for name in names), (listener, names)
    outside = [one for one in private["sockets"] if one[0].removeprefix("::ffff:") not in ("127.0.0.1", "::1")]
    assert outside == []


def methods() -> list[str]:
    """Every method that Ray's Python packages know, and those of its object manager and its syncer, which they do not."""
    import ray.core.generated
    from ray.serve.generated import serve_pb2

    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(ray.core.generated.__path__, "ray.core.generated.")
        if found.name.endswith("_pb2")
    ]
    files = [module.DESCRIPTOR for module in [*modules, serve_pb2]]
    services = [service for file in files for service in file.services_by_name.values()]
    known = [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]
    more = ("ObjectManagerService/Push", "ObjectManagerService/Pull", "syncer.RaySyncer/StartSync")
    return known + [f"/ray.rpc.{name}" for name in more]


OPEN = ("python", "DashboardAgent", "ProxyActor")
"""HTTP that answers without Ray's token: the dashboard's empty page, whose data is refused (below); metrics for Prometheus; and
Serve's proxy, behind which an application asks for its own keys."""


@pytest.mark.parametrize("token", [None, "0" * 64], ids=["none", "another"])
def test_without_the_token_no_port_does_anything(private: dict[str, Any], token: str | None) -> None:
    # without a node id the syncer ends its process before it looks for a token: docs/clusters.md, "What is not promised"
    metadata = [("node_id", "ab" * 28)] + ([("authorization", f"Bearer {token}")] if token else [])
    told: dict[str, set[str]] = {}
    for _, port, name in private["sockets"]:
        if status := http_status(f"http://127.0.0.1:{port}/", token):
            told[f"{name} {port}"] = {f"{status}"}
            continue
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            told[f"{name} {port}"] = {grpc_status(channel, method, metadata) for method in methods()}
    for listener, found in told.items():
        if found == {"200"}:
            assert listener.removeprefix("ray::").startswith(OPEN), listener
        else:
            assert found in ({"UNAUTHENTICATED", "UNIMPLEMENTED"}, {"401"}, {"403"}), (listener, found)
    assert (
        sum("UNAUTHENTICATED" in found for found in told.values()) >= 8
    )  # GCS, raylet, object manager, agents, workers


def grpc_status(channel: grpc.Channel, method: str, metadata: list[tuple[str, str]]) -> str:
    try:
        channel.unary_unary(method)(b"", timeout=5, metadata=tuple(metadata))
    except grpc.RpcError as error:
        return error.code().name  # pyright: ignore[reportAttributeAccessIssue]
    return "OK"


def http_status(url: str, token: str | None) -> int:
    """0: it speaks no HTTP/1."""
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except http.client.BadStatusLine:
        return 0


def test_without_the_token_the_dashboard_refuses(private: dict[str, Any]) -> None:
    for path in (
        "/api/jobs/",
        "/api/version",
        "/api/serve/applications/",
        "/nodes?view=summary",
        "/api/v0/actors",
        "/logical/actors",
    ):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(f"http://{private['dashboard']}{path}", timeout=10)
        assert raised.value.code in (401, 403), path


@pytest.mark.parametrize("mode", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}], ids=["none", "another"])
def test_without_the_token_nobody_joins(private: dict[str, Any], mode: dict[str, str]) -> None:
    script = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR')"
    done = subprocess.run(
        [sys.executable, "-c", script, private["gcs"]],
        env={**environment(), **mode, LOOPBACK: "0"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "uthentication" in done.stderr


def test_a_submitted_job_joins_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_private(RayConfig())
    assert not is_private(RayConfig(address="auto"))
    monkeypatch.setenv(SUBMITTED, "{}")
    assert not is_private(RayConfig())
    monkeypatch.delenv(SUBMITTED)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert not is_private(RayConfig())
