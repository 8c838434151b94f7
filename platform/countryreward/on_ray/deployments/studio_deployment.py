"""The studio on Ray Serve: the page for people who make ads, which asks the reward's replicas by handle.

    serve run --app-dir . serve_apps/studio.yaml         # the reward and the studio; or: make serve

Guests, results and reports live in `service.state`, which all replicas of both see. docs/studio.md tells the rest.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field
from ray import serve

from countryreward.on_ray.deployments.replica_setup import ServiceArgs, set_up_replica
from countryreward.serving.service_config import StudioConfig, StudioServiceConfig


class StudioArgs(ServiceArgs):
    """`args:` of serve_apps/studio.yaml."""

    name = "studio"

    model: str = Field(
        default="runs/demo/model", description="The reward's model folder: the sample is taken from beside it."
    )
    reward: str = Field(default="reward", description="The reward's application on this Ray.")
    variants: bool = Field(
        default=False, description="Whether a generator runs beside it, so that pictures can be asked for."
    )
    service: StudioServiceConfig = Field(
        default_factory=StudioServiceConfig, description="Limits and lifetimes; the state is the reward's."
    )
    studio: StudioConfig = Field(default_factory=StudioConfig, description="What the page adds.")


@serve.deployment(
    name="studio",
    num_replicas=1,
    max_ongoing_requests=64,
    max_queued_requests=64,
    ray_actor_options={"num_cpus": 0.25},  # it makes pictures small; the rest is waiting
    health_check_period_s=5,
    graceful_shutdown_wait_loop_s=0.5,
    graceful_shutdown_timeout_s=30,
)
@serve.ingress()
class Studio:
    """One replica: the page's app, and a handle to the reward that it asks."""

    async def __init__(self, args: StudioArgs) -> None:
        self.args = args
        self.prometheus = set_up_replica(args.service)  # any replica of the reward on this node tells of it, too
        from countryreward.on_ray.serve_handles import FollowedHandleScorer
        from countryreward.serving.studio.sample import campaign_of

        self.scorer = FollowedHandleScorer(partial(serve.get_deployment_handle, "reward", args.reward))
        self.sample = await asyncio.to_thread(campaign_of, Path(args.model))
        self._following = asyncio.create_task(self.scorer.follow(args.service.poll_s))

    def __serve_build_asgi_app__(self):
        from countryreward.serving.durable_jobs.batch.batch_store import JobStore
        from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore
        from countryreward.serving.http.rates import Rates
        from countryreward.serving.studio.guests import FILE, GuestStore
        from countryreward.serving.studio.studio_app import create_studio_app

        config = self.args.service
        return create_studio_app(
            self.scorer,
            config,
            sessions=GuestStore(Path(config.state) / FILE, config.poll_s),
            batch_store=JobStore(config),
            sample=self.sample,
            generations=GenerationStore(config) if self.args.variants else None,
            rates=Rates.of(config),
            studio=self.args.studio,
            on_request=self.prometheus.request,
        )


def build(args: StudioArgs, options: dict[str, Any] | None = None) -> serve.Application:
    """The application. options: of the deployment, over those above."""
    return Studio.options(**options or {}).bind(args)


def app(args: StudioArgs) -> serve.Application:
    """What YAML names: `import_path: serve_apps.studio:app`."""
    return build(args)
