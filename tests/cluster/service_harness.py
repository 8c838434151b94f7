"""The service on a private Ray, with a model that only sleeps or a real one: asked, killed, deployed anew by the tests."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
from PIL import Image

from countryreward.errors import UserError
from countryreward.scoring.contracts import ScoreRequest, Verdict
from countryreward.serving.http.keys import FILE, KeyStore
from countryreward.serving.inference.batching import TokenBatcher
from countryreward.serving.inference.engine import InferenceEngine
from countryreward.serving.inference.hot_reload import Published
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import RewardServiceConfig, ServiceConfig
from tests.cluster.service_load import Answer, Plan

ROOT = Path(__file__).parents[2]
APP = "reward"
TOKENS = 100
"""Of each pair, as the emulated model counts."""


class Emulated(InferenceEngine):
    """As InferenceEngine, but images are not looked at and a pass only takes its time. Its folder: `emulated`."""

    def __init__(self, folder: Path, config: RewardServiceConfig, watching: MetricsObserver) -> None:
        told = json.loads((folder / "emulated.json").read_text())
        if told["broken"]:
            raise UserError("model: its folder is damaged")
        judge = SimpleNamespace(folder=SimpleNamespace(trained_markets=("BR", "FR", "KR", "US")))
        super().__init__(cast(Any, judge), config, watching)
        self.version, self.pass_s = told["version"], told["pass_s"]
        self.batcher = TokenBatcher(self._sleep, config.batch_tokens)
        self.batcher.seen = self.watching.forward_pass

    def _sleep(self, items: list[Any]) -> list[float]:
        time.sleep(self.pass_s)
        return [0.0] * len(items)

    async def about(self) -> dict[str, Any]:
        return {"model": self.version, "knowledge_base": None, "markets": list(self.markets)}

    async def score(self, ask: ScoreRequest, /) -> list[Verdict]:
        self._open_requests += 1
        try:
            asked = [market for market in ask.markets for _ in ask.pairs]
            work = [(cast(Any, market), TOKENS) for market in asked]
            logits = await self.batcher.ask(work, tenant=ask.tenant, urgent=ask.urgent)
        finally:
            self._open_requests -= 1
        self.watching.verdicts(len(asked))
        return [
            Verdict(
                market=market,
                probability=0.5,
                calibrated_probability=None,
                choice=None,
                log_odds=logit,
                evidence=(),
                past_ads=0,
                model_version=self.version,
                knowledge_base_version=None,
            )
            for market, logit in zip(asked, logits, strict=True)
        ]


def load_emulated(
    published: Published, config: RewardServiceConfig, device: str, watching: MetricsObserver
) -> InferenceEngine:
    """What `Reward` loads instead of a model of ours."""
    return Emulated(published.model, config, watching)


def publish_emulated(link: Path, version: str, pass_s: float = 0.02, broken: bool = False) -> Path:
    """Put a version behind the link in one step, as `data/artifacts.py` does."""
    folder = link.parent / ".versions" / version
    folder.mkdir(parents=True)
    (folder / "emulated.json").write_text(json.dumps({"version": version, "pass_s": pass_s, "broken": broken}))
    return point(link, folder)


def point(link: Path, folder: Path) -> Path:
    """Replace a link in one step."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.symlink_to(folder)
    os.replace(fresh, link)
    return link


def small_pair(folder: Path) -> tuple[tuple[str, str, str], ...]:
    """A title and two small images for a model that does not look at them."""
    names = []
    for number in range(2):
        names.append(str(folder / f"{number}.png"))
        Image.new("RGB", (64, 64), (number, 99, 99)).save(names[-1])
    return (("Oak desk lamp", names[0], names[1]),)


@dataclass(frozen=True)
class Outcome:
    """All answers to one plan."""

    answers: list[Answer]

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.kind != "ok"]

    def ms(self, share: float, since: float = 0.0, until: float = 1e9) -> float:
        """A quantile of the time to the answer of what was answered well and was due in between, in ms."""
        times = [one.seconds for one in self.answers if one.kind == "ok" and since <= one.due < until]
        return float(np.quantile(times, share)) * 1e3 if times else float("nan")

    def kinds(self) -> dict[str, int]:
        return dict(Counter(answer.kind for answer in self.answers))

    def versions(self) -> list[str | None]:
        """Of the answers, in the order in which they were asked."""
        return [one.version for one in sorted(self.answers, key=lambda one: one.due) if one.kind == "ok"]

    def __str__(self) -> str:
        late = max(one.sent for one in self.answers) * 1e3
        slowest = max(self.answers, key=lambda one: one.seconds)
        return (
            f"{len(self.answers)} requests: {self.kinds()}; p50 {self.ms(0.5):.0f} ms, p99 {self.ms(0.99):.0f} ms, "
            f"longest {self.ms(1):.0f} ms, asked at {slowest.due:.1f} s (the generator was late by at most {late:.0f} ms)"
        )


@dataclass
class Load:
    """A generator at work."""

    process: subprocess.Popen[str]
    started: float = field(default_factory=time.monotonic)

    def wait(self, timeout: float = 300) -> Outcome:
        out, err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, err[-3000:]
        return Outcome([Answer(**json.loads(line)) for line in out.splitlines()])


@dataclass
class Service:
    """Serve in this process's Ray."""

    port: int
    state: Path
    key: str
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def deploy(
        self, model: Path, *, emulated: bool = True, config: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Deploy, or deploy anew, and wait until it answers. config: of the service. options: of the deployment."""
        from ray import serve

        from countryreward.on_ray.deployments.reward_deployment import RewardArgs, build

        options = {"ray_actor_options": {"num_cpus": 0.5}} | options
        if "num_replicas" in options:
            options["autoscaling_config"] = None
        service = ServiceConfig(state=str(self.state), **{"poll_s": 0.3, **(config or {})})
        args = RewardArgs(model=str(model), knowledge_base="", device="cpu", service=service)
        serve.run(build(args, load_emulated if emulated else None, options), name=APP, route_prefix="/")

    def remove(self) -> None:
        """End the app; Serve stays."""
        from ray import serve

        serve.delete(APP)

    def replicas(self) -> list[psutil.Process]:
        """Of our own Ray: its processes descend from this one."""
        return [one for one in children() if title(one).startswith(f"ray::ServeReplica:{APP}:")]

    def doors(self) -> dict[str, set[str]]:
        """Who listens for HTTP -> on which addresses: HAProxy on any port, replicas on theirs, whoever has the service's."""
        found: dict[str, set[str]] = {}
        for process in children():
            with contextlib.suppress(psutil.NoSuchProcess):  # one of Ray's many that come and go
                for one in process.net_connections("tcp"):
                    address, port = (*one.laddr, "", 0)[:2]
                    http = port == self.port or process.name() == "haproxy" or port in REPLICA_PORTS
                    if one.status == psutil.CONN_LISTEN and http:
                        found.setdefault(process.name(), set()).add(str(address))
        return found

    def running(self) -> int:
        """Replicas that Serve counts as running."""
        from ray import serve

        states = serve.status().applications[APP].deployments["reward"].replica_states
        return states.get("RUNNING", 0)  # pyright: ignore

    def load(
        self,
        pairs: Sequence[tuple[str, str, str]],
        *,
        rate: float = 1.0,
        seconds: float,
        retries: bool = True,
        closed: int = 0,
        market: str = "KR",
        timeout_s: float = 30.0,
    ) -> Load:
        """Start asking; returns when the first request of the plan is due."""
        plan = Plan(
            url=self.url,
            key=self.key,
            rate=rate,
            seconds=seconds,
            retries=retries,
            closed=closed,
            pairs=tuple(pairs),
            market=market,
            timeout_s=timeout_s,
        )
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}"}
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/cluster/service_load.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert process.stdin
        assert process.stderr
        process.stdin.write(json.dumps(asdict(plan)))
        process.stdin.close()
        process.stdin = None  # communicate must not flush it
        said = []  # a warning may come first
        while not said or said[-1] not in ("started\n", ""):
            said.append(process.stderr.readline())
        assert said[-1] == "started\n", "".join(said)
        return Load(process)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


REPLICA_PORTS = range(30_000, 31_001)
"""Where HAProxy finds replicas: Ray's RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT and MAX."""


def wait_until(true: Any, seconds: float = 60.0, told: str = "") -> float:
    """How long it took. Fails after so many seconds."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < seconds, told or "it did not come"
        time.sleep(0.1)
    return time.monotonic() - start


@contextlib.contextmanager
def service(folder: Path, cpus: int = 6) -> Iterator[Service]:
    """A private Ray with Serve on a free port of loopback, nothing deployed yet."""
    from countryreward.on_ray.ray_config import RayConfig
    from countryreward.on_ray.serve_environment import serve_environment
    from countryreward.on_ray.session import session

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state = folder / "state"
    key = KeyStore(state / FILE, poll_s=0).create("tests", scopes=("score", "batch", "metrics"), rate="10000000/minute")
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    serve_environment()
    with session(RayConfig(cpus=cpus)):
        from ray import serve

        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 60})
        try:
            yield Service(port, state, key)
        finally:
            serve.shutdown()
