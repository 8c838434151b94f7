"""The reward service on Ray Serve: replicas of the FastAPI app, each with a model of its own.

    serve run --app-dir . serve_apps/reward.yaml         # or: make serve, which makes a key as well

Keys, batch jobs and rate counters live in `service.state`, which all replicas see. docs/operations.md tells the rest.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from countryreward.on_ray.deployments.replica_setup import ServiceArgs, key_store, set_up_replica
from countryreward.serving.service_config import RewardServiceConfig

if TYPE_CHECKING:
    from countryreward.scoring.contracts import ScoreRequest, Verdict
    from countryreward.serving.inference.engine import InferenceEngine
    from countryreward.serving.inference.hot_reload import Published
    from countryreward.serving.metrics_observer import MetricsObserver

Load = Callable[["Published", RewardServiceConfig, str, "MetricsObserver"], "InferenceEngine"]
"""What is published, limits, device, who is told of metrics -> a model that answers."""


class RewardArgs(ServiceArgs):
    """`args:` of serve_apps/reward.yaml."""

    name = "reward"

    model: str = Field("runs/demo/model", description="Model folder, as training published it.")
    knowledge_base: str = Field("", description="A newer knowledge base than the model's own.")
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$", description="Where the model computes.")
    service: RewardServiceConfig = Field(default_factory=RewardServiceConfig, description="Limits and lifetimes.")


@serve.deployment(
    name="reward",
    max_ongoing_requests=256,  # more than `service.max_wait_passes` lets wait: the app refuses by what a call costs, and fast
    max_queued_requests=256,  # in the proxy, while no replica is there to ask
    backpressure_config=BackpressureConfig(
        status_code=503, retry_after_s=1
    ),  # its body is Serve's plain text, not ours
    max_constructor_retry_count=3,  # of a version that never started; each start costs ten seconds of a processor
    max_surge_percent=50,  # a new version's replica answers before an old one ends: one that cannot start changes nothing
    ray_actor_options={"num_cpus": 1},
    autoscaling_config=AutoscalingConfig(min_replicas=2, max_replicas=4, target_ongoing_requests=16),
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.5,
    graceful_shutdown_timeout_s=30,
)
@serve.ingress()
class Reward:
    """One replica: a model, and the app before it."""

    async def __init__(self, args: RewardArgs, load: Load | None = None) -> None:
        """load: how a model is loaded, for tests; None: `serving.inference.load_engine.load_reward`."""
        self.args, config = args, args.service
        self.prometheus = set_up_replica(config)
        from countryreward.serving.inference.hot_reload import HotReloadedModel

        if load is None:
            from countryreward.serving.inference.load_engine import load_reward as load
        self.scorer = await asyncio.to_thread(
            HotReloadedModel,
            args.model,
            args.knowledge_base,
            partial(load, config=config, device=args.device, watching=self.prometheus),
            config,
            self.prometheus,
        )
        self._following = asyncio.create_task(self.scorer.follow()) if config.follow else None

    def __serve_build_asgi_app__(self):
        from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
        from countryreward.serving.http.apps import create_app
        from countryreward.serving.http.rates import Rates

        config = self.args.service
        return create_app(
            self.scorer,
            config,
            keys=key_store(config),
            rates=Rates.of(config),
            on_request=self.prometheus.request,
            metrics=self.prometheus.text,
            jobs=BatchJobs(self.scorer, config, watching=self.prometheus),
        )

    async def score(self, request: "ScoreRequest") -> "list[Verdict]":
        """For other deployments, by handle: as `AsyncScorer.score`."""
        return await self.scorer.score(request)

    async def about(self) -> dict[str, Any]:
        """For other deployments, by handle: as `AsyncScorer.about`, with the `markets`."""
        return await self.scorer.about() | {"markets": list(self.scorer.markets)}

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        assert self.scorer.ready()


def build(args: RewardArgs, load: Load | None = None, options: dict[str, Any] | None = None) -> serve.Application:
    """The application. What is published is opened first: a broken model is refused before a running service is touched.

    options: of the deployment, over those above. load: how a model is loaded, for tests.
    """
    if load is None:
        from countryreward.scoring.model_folder import ModelFolder

        ModelFolder.open(args.model, args.knowledge_base or None)
    return Reward.options(**options or {}).bind(args, load)


def app(args: RewardArgs) -> serve.Application:
    """What YAML names: `import_path: serve_apps.reward:app`."""
    return build(args)
