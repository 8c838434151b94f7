"""The reward and the generator for a job on the same Ray: replicas that are started for it and asked by handle alone, or those
that are there already, by the name of their application or by their address.
"""

import asyncio
import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Any

from countryreward.client import AsyncClient
from countryreward.client.remote_services import ClientRenderer
from countryreward.errors import UserError
from countryreward.generation.ad_maker import AsyncRenderer
from countryreward.on_ray.ray_config import ServicesConfig
from countryreward.on_ray.serve_handles import HandleRenderer, HandleScorer
from countryreward.scoring.contracts import AsyncScorer
from countryreward.serving.service_config import GeneratorServiceConfig, RewardServiceConfig

_APP = "app:"
_PREFIX = "pairs-"  # of the applications that are started here
_SHUTDOWN_S = 5  # the job has all its answers


class ServicePool:
    """`async with ServicePool(config, state) as services: services.scorer(), services.renderer()`.
    What was started ends with the block.

    state: folder for what replicas write down, where all nodes see it. make, load: how a renderer is made and a model is loaded,
    for tests: see `countryreward.on_ray.deployments.generator_deployment.Generator` and `serve_apps.reward.Reward`.
    """

    def __init__(self, config: ServicesConfig, state: Path, *, make: Any = None, load: Any = None) -> None:
        self.config, self.state, self._make, self._load = config, state, make, load
        self._open = contextlib.AsyncExitStack()
        self._started: set[str] = set()

    async def __aenter__(self) -> "ServicePool":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._open.aclose()

    def close(self) -> None:
        """End what was started, from outside an event loop."""
        asyncio.run(self._open.aclose())

    def at(self, place: str, name: str) -> str:
        """Where a further judge is for jobs that follow; started here where `place` is a model folder."""
        self.scorer(place, name)
        return f"{_APP}{_PREFIX}{name}" if name in self._started else place

    def started(self) -> ServicesConfig:
        """For jobs that follow: the same services, by the names of the applications that were started here."""
        reward = f"{_APP}{_PREFIX}reward" if "reward" in self._started else self.config.reward
        generator = f"{_APP}{_PREFIX}generator" if "generator" in self._started else self.config.generator
        return dataclasses.replace(self.config, reward=reward, generator=generator)

    def scorer(self, place: str = "", name: str = "reward") -> AsyncScorer:
        """The reward. place: where, instead of `config.reward`; a job may have several judges, each with a name of its own."""
        place = place or self.config.reward
        if _is_address(place):
            return self._client(place)
        if place.startswith(_APP):
            return HandleScorer(_handle(place.removeprefix(_APP)))
        from countryreward.on_ray.deployments.reward_deployment import RewardArgs, build

        config = self.config
        args = RewardArgs(
            model=str(Path(place).resolve()),  # a replica that is started again must not take a newer one
            knowledge_base="",
            device="cuda" if config.reward_gpus else "cpu",
            service=RewardServiceConfig(state=str(self.state / name), follow=False),  # one version for all pairs
        )
        options = _options(config.reward_replicas, config.reward_cpus, config.reward_gpus)
        return HandleScorer(self._start(build(args, self._load, options), name))

    def renderer(self) -> AsyncRenderer:
        """The generator."""
        config, place = self.config, self.config.generator
        if _is_address(place):
            return ClientRenderer(self._client(place))
        if place.startswith(_APP):
            return HandleRenderer(_handle(place.removeprefix(_APP)))
        if place:
            raise UserError(f"services.generator: {place!r}; write app:NAME, an address, or nothing")
        from countryreward.on_ray.deployments.generator_deployment import GeneratorArgs, build

        args = GeneratorArgs(
            renderer=config.renderer, reward="", service=GeneratorServiceConfig(state=str(self.state / "generator"))
        )
        options = _options(config.generator_replicas, config.generator_cpus, config.generator_gpus)
        return HandleRenderer(self._start(build(args, self._make, options), "generator"))

    def _start(self, app: Any, name: str) -> Any:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(proxy_location="Disabled")
        handle = serve.run(app, name=_PREFIX + name, route_prefix=None)
        self._open.callback(serve.delete, _PREFIX + name)
        self._started.add(name)
        return handle

    def _client(self, url: str) -> AsyncClient:
        key = Path(self.config.key_file).read_text().strip() if self.config.key_file else None
        client = AsyncClient(url, key, parallel=16)
        self._open.push_async_callback(client.close)
        return client


def _options(replicas: int, cpus: float, gpus: float) -> dict[str, Any]:
    return {
        "num_replicas": replicas,
        "autoscaling_config": None,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        "graceful_shutdown_timeout_s": _SHUTDOWN_S,
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
    }


def _handle(name: str) -> Any:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        return serve.get_app_handle(name)
    except RayServeException:
        raise UserError(
            f"services: there is no application {name!r} on this Ray; start it, or correct the name"
        ) from None


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))
