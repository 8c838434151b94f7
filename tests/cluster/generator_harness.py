"""The generator beside the reward on the harness's Ray: a renderer that draws and writes down what it made."""

import json
import time
from pathlib import Path
from typing import Any

import psutil

from countryreward.client import Client
from countryreward.generation.generation_config import RendererConfig
from countryreward.serving.http.keys import FILE, KeyStore
from countryreward.serving.service_config import ServiceConfig
from tests.cluster.service_harness import Service, children, title
from tests.unit.literal_designs import LiteralWriter
from tests.unit.literal_renderer import LiteralRenderer

APP = "generator"


def make_literal(args: Any) -> LiteralRenderer:
    """What `Generator` makes instead of a renderer of ours: each image takes `pause_s`, told as `args.renderer.steps` in ms."""
    return LiteralRenderer(pause_s=args.renderer.steps / 1e3, log=Path(args.service.state) / "made.log")


def make_writer(args: Any) -> LiteralWriter | None:
    """What `Generator` makes instead of a writer of ours: of the version that the folder is called."""
    return LiteralWriter(version=args.writer) if args.writer else None


class Generating:
    """The generator on a service's Ray."""

    def __init__(self, running: Service) -> None:
        self.running, self.url, self.state = running, running.url, running.state
        self.keys = KeyStore(running.state / FILE, poll_s=0)

    def deploy(
        self, *, pause_s: float = 0.0, writer: str = "", config: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Deploy and wait until it answers. config: of the service. options: of the deployment."""
        from ray import serve

        from countryreward.on_ray.deployments.generator_deployment import ROUTE_PREFIX, GeneratorArgs, build

        options = {"ray_actor_options": {"num_cpus": 0.5}} | options
        if "num_replicas" in options:
            options["autoscaling_config"] = None
        service = ServiceConfig(state=str(self.state), **{"poll_s": 0.3, **(config or {})})
        renderer = RendererConfig(steps=round(pause_s * 1e3))
        args = GeneratorArgs(renderer=renderer, writer=writer, reward="reward", service=service)
        serve.run(build(args, make_literal, options, make_writer), name=APP, route_prefix=ROUTE_PREFIX)

    def key(self, tenant: str = "acme") -> str:
        """Replicas know it."""
        key = self.keys.create(tenant, ("generate",), "10000000/minute")
        time.sleep(0.7)
        return key

    def client(self, tenant: str = "acme") -> Client:
        return Client(self.url, self.key(tenant))

    def replicas(self) -> list[psutil.Process]:
        return [one for one in children() if title(one).startswith(f"ray::ServeReplica:{APP}:")]

    def running_replicas(self) -> int:
        """That Serve counts as running."""
        from ray import serve

        states = serve.status().applications[APP].deployments["generator"].replica_states
        return states.get("RUNNING", 0)  # pyright: ignore

    def at_work(self) -> psutil.Process | None:
        """A replica that holds the lease of a generation job."""
        for one in self.replicas():
            if any("/g-" in opened.path and opened.path.endswith("/lease") for opened in one.open_files()):
                return one
        return None

    def made(self) -> list[str]:
        """Title and seed of every image that was rendered to its end."""
        log = self.state / "made.log"
        return log.read_text().splitlines() if log.exists() else []

    def stored(self, tenant: str) -> list[dict[str, Any]]:
        """Every job.json of a tenant, as it lies on disk."""
        return [json.loads(path.read_text()) for path in (self.state / "jobs" / tenant).glob("g-*/job.json")]
