"""The generator service on Ray Serve: replicas of its FastAPI app, each with a renderer of its own, beside the reward.

    serve run --app-dir . serve_apps/generator.yaml      # the reward and the generator; or: make serve

Jobs and keys live in `service.state`, which all replicas of both see. docs/operations.md tells the rest.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig

from countryreward.generation.generation_config import RendererConfig
from countryreward.on_ray.deployments.replica_setup import ServiceArgs, key_store, set_up_replica
from countryreward.serving.service_config import GeneratorServiceConfig

if TYPE_CHECKING:
    from countryreward.generation.ad_contracts import DesignWriter, Refusal, RenderedFile, Renderer, RenderJob

Make = Callable[["GeneratorArgs"], "Renderer"]
Write = Callable[["GeneratorArgs"], "DesignWriter | None"]
ROUTE_PREFIX = "/v1/generate"
"""Where Serve must put this application: its routes are written with it."""


class GeneratorArgs(ServiceArgs):
    """`args:` of serve_apps/generator.yaml."""

    name = "generator"

    renderer: RendererConfig = Field(default_factory=RendererConfig, description="What makes the images.")
    writer: str = Field(default="", description="Folder of what writes designs for a market; empty: templates alone.")
    reward: str = Field(default="reward", description="Name of the application that ranks; empty: nothing is ranked.")
    service: GeneratorServiceConfig = Field(default_factory=GeneratorServiceConfig, description="Limits and lifetimes.")


@serve.deployment(
    name="generator",
    max_ongoing_requests=64,  # requests are short: jobs wait in their folders
    max_queued_requests=64,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    max_constructor_retry_count=3,
    max_surge_percent=50,
    ray_actor_options={"num_cpus": 1},
    autoscaling_config=AutoscalingConfig(
        min_replicas=1,
        max_replicas=2,
        target_ongoing_requests=4,  # jobs that wait or run, per replica
        policy=AutoscalingPolicy(policy_function="countryreward.on_ray.autoscaling:by_backlog"),
    ),
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.5,
    graceful_shutdown_timeout_s=60,  # a pass of the renderer is waited for
)
@serve.ingress()
class Generator:
    """One replica: a renderer, a writer where there is one, and the app before them."""

    async def __init__(self, args: GeneratorArgs, make: Make | None = None, write: Write | None = None) -> None:
        """make, write: how a renderer and a writer are made, for tests; None: `renderer_of_args`, `writer_of_args`."""
        self.args, config = args, args.service
        self.prometheus = set_up_replica(config)
        from countryreward.on_ray.serve_handles import FollowedHandleScorer
        from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs

        renderer = await asyncio.to_thread(make or renderer_of_args, args)
        writer = await asyncio.to_thread(write or writer_of_args, args)
        scorer = (
            FollowedHandleScorer(partial(serve.get_deployment_handle, "reward", args.reward)) if args.reward else None
        )
        self._following = asyncio.create_task(scorer.follow(config.poll_s)) if scorer else None
        self.jobs = GenerationJobs(renderer, config, writer=writer, scorer=scorer, watching=self.prometheus)

    def __serve_build_asgi_app__(self):
        from countryreward.serving.durable_jobs.generation.generation_routes import create_generator_app
        from countryreward.serving.http.rates import Rates

        config = self.args.service
        return create_generator_app(
            self.jobs,
            config,
            keys=key_store(config),
            rates=Rates.of(config),
            on_request=self.prometheus.request,
            metrics=self.prometheus.text,
        )

    async def render(self, jobs: "list[RenderJob]") -> "list[RenderedFile | Refusal]":
        """For others on this Ray, by handle: PNG files in order. Jobs of the service go on between two such calls."""
        return await self.jobs.render_files(jobs)

    async def about_renderer(self) -> dict[str, Any]:
        """For others on this Ray, by handle: `name`, `version` and `px` of the renderer."""
        renderer = self.jobs.renderer
        return {"name": renderer.name, "version": renderer.version, "px": renderer.px}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve's autoscaling by `on_ray/autoscaling.py`: how many jobs wait or run."""
        from countryreward.on_ray.autoscaling import OPEN_JOBS

        return {OPEN_JOBS: len(await asyncio.to_thread(self.jobs.store.open_jobs))}

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        assert self.jobs.ready()


def renderer_of_args(args: GeneratorArgs) -> "Renderer":
    """The renderer that is configured. Raises `UserError` where it cannot be had."""
    from countryreward.generation.renderers import renderer_of

    return renderer_of(args.renderer)


def writer_of_args(args: GeneratorArgs) -> "DesignWriter | None":
    """The writer that is configured, on the renderer's device; None: there is none. Raises `UserError` for a broken one."""
    if not args.writer:
        return None
    import torch

    from countryreward.generation.model_writer import ModelWriter

    device = args.renderer.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return ModelWriter.open(args.writer, device=device)


def build(
    args: GeneratorArgs,
    make: Make | None = None,
    options: dict[str, Any] | None = None,
    write: Write | None = None,
) -> serve.Application:
    """The application. The writer's folder is checked first: a broken one is refused before a running service is touched.

    options: of the deployment, over those above. make, write: how a renderer and a writer are made, for tests.
    """
    if args.writer and write is None:
        from countryreward.generation.model_writer import open_writer

        open_writer(args.writer)
    return Generator.options(**options or {}).bind(args, make, write)


def app(args: GeneratorArgs) -> serve.Application:
    """What YAML names: `import_path: serve_apps.generator:app`."""
    return build(args)
