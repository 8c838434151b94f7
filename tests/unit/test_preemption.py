"""A machine's spot notice reaches Ray, against a metadata service of our own."""

import http.server
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from countryreward.on_ray import preemption


class Metadata(http.server.BaseHTTPRequestHandler):
    """EC2's: a token for who asks by PUT, then 404 until there is a notice."""

    looks = 0
    notice_after = 2

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self.answer(200, "secret")

    def do_GET(self) -> None:
        cls = type(self)
        if self.headers["X-aws-ec2-metadata-token"] != "secret":
            self.answer(401, "")
            return
        assert self.path == "/latest/meta-data/spot/instance-action"
        cls.looks += 1
        taken = datetime.now(UTC) + timedelta(seconds=119)
        told = f'{{"action": "terminate", "time": "{taken:%Y-%m-%dT%H:%M:%SZ}"}}'
        self.answer(*((404, "") if cls.looks <= cls.notice_after else (200, told)))

    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.looks = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_cluster_is_told_when_there_is_a_notice(metadata: str, monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(preemption, "drain", lambda address, seconds: told.append((address, seconds)))
    preemption.main(["--address", "head:6379", "--metadata", metadata, "--every", "0.01"])
    assert Metadata.looks == 3
    ((address, seconds),) = told
    assert address == "head:6379"
    assert 90 < seconds <= 119


def test_a_head_that_cannot_be_told_is_told_again(metadata: str, monkeypatch: pytest.MonkeyPatch):
    tries: list[int] = []

    def drain(address: str, seconds: int) -> None:
        tries.append(seconds)
        if len(tries) < 3:
            raise subprocess.CalledProcessError(1, "ray drain-node")

    monkeypatch.setattr(preemption, "drain", drain)
    preemption.main(["--address", "head:6379", "--metadata", metadata, "--every", "0.01"])
    assert len(tries) == 3


def test_a_machine_without_metadata_asks_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    class Enough(Exception):
        pass

    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise Enough

    monkeypatch.setattr(preemption.time, "sleep", sleep)
    with pytest.raises(Enough):
        preemption.main(["--address", "head:6379", "--metadata", "http://127.0.0.1:9"])
    assert capsys.readouterr().err.count("gave no usable answer") == 3


def test_what_is_said_to_ray(monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(preemption.subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(preemption.time, "sleep", lambda seconds: None)
    preemption.main(["--address", "head:6379", "--now", "60"])
    (command,) = commands
    from ray.scripts.scripts import drain_node

    named = {option for parameter in drain_node.params for option in parameter.opts}
    assert {part.split("=")[0] for part in command if part.startswith("--")} <= named
    assert "--deadline-remaining-seconds=60" in command
