"""Serve a trained model, the generator of ads and the studio over HTTP on this machine, until Ctrl-C.

    python jobs/serve.py                       # the demo's model on http://127.0.0.1:8000
    python jobs/serve.py --model=runs/mine/model --replicas=4 --port=9000

On a cluster `serve deploy` takes serve_apps/reward.yaml, generator.yaml or studio.yaml instead (docs/operations.md).
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from countryreward.command import run
from countryreward.generation.generation_config import RendererConfig
from countryreward.on_ray.ray_config import RayConfig
from countryreward.serving.service_config import ServiceConfig

if TYPE_CHECKING:
    from countryreward.on_ray.deployments.reward_deployment import Load


@dataclass(kw_only=True)
class Config:
    """Start the reward service, the generator and the studio."""

    model: str = "runs/demo/model"
    """Model folder."""
    knowledge_base: str = ""
    """A newer knowledge base than the model's own."""
    host: str = "127.0.0.1"
    """Address to listen on; another than loopback only behind a reverse proxy with TLS."""
    port: int = 8000
    """Port to listen on."""
    replicas: int = 2
    """Replicas at the start and at least; each holds the model."""
    max_replicas: int = 4
    """Replicas at most, when many ask."""
    cpus_per_replica: float = 1.0
    """Processors of each replica; also its threads."""
    gpus_per_replica: float = 0.0
    """GPUs of each replica, fractions allowed; 0: processors only."""
    generators: int = 1
    """Replicas of the generator; 0: none."""
    gpus_per_generator: float = 0.0
    """GPUs of each replica of the generator, fractions allowed."""
    studio: bool = True
    """Whether the studio is served."""
    writer: str = "auto"
    """Folder of what writes designs for a market; auto: `aligned`, else `designer`, beside the model; empty: templates alone."""
    renderer: RendererConfig = field(default_factory=RendererConfig)
    """What makes the images."""
    service: ServiceConfig = field(default_factory=ServiceConfig)
    """Limits and lifetimes."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config, load: "Load | None" = None) -> None:
    """load: how a model is loaded, for benchmarks that emulate one."""
    from countryreward.on_ray.ray_security import private_token
    from countryreward.on_ray.serve_environment import serve_environment, stop_serve
    from countryreward.serving.local_service import demo_key, example_call, free_port, studio_link, until_stopped

    free_port(config.host, config.port)
    state = Path(config.service.state).absolute()
    key_file = demo_key(state)
    private_token(state)
    serve_environment()
    from countryreward.on_ray.session import session

    with session(config.ray):
        from ray import serve

        from countryreward.on_ray.deployments.reward_deployment import RewardArgs, build

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        service = config.service
        service.state = str(state)
        args = RewardArgs(
            model=str(Path(config.model).absolute()),
            knowledge_base=config.knowledge_base and str(Path(config.knowledge_base).absolute()),
            device="cuda" if config.gpus_per_replica else "cpu",
            service=service,
        )
        options: dict[str, Any] = {
            "ray_actor_options": {"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
            "autoscaling_config": {
                "min_replicas": config.replicas,
                "max_replicas": max(config.replicas, config.max_replicas),
                "target_ongoing_requests": 16,
            },
        }
        print(f"serve: loading {config.model} into {config.replicas} replicas")
        quiet = {"encoding": "JSON", "enable_access_log": False}  # the app writes its own, without what was asked
        serve.start(
            http_options={"host": config.host, "port": config.port, "request_timeout_s": 120}, logging_config=quiet
        )
        serve.run(build(args, load, options | {"logging_config": quiet}), name="reward", route_prefix="/")
        if config.generators:
            _serve_generator(config, quiet)
        if config.studio:
            _serve_studio(args.model, config, quiet)
        if key_file.is_relative_to(Path.cwd()):
            key_file = key_file.relative_to(Path.cwd())  # shorter to read and to copy
        url = f"http://{config.host}:{config.port}"
        print(f"serve: {url} answers; the key is in {key_file}; ask:\n\n{example_call(url, key_file, config.model)}\n")
        if config.studio:
            link = studio_link(state, url)
            print(f"serve: the studio, a page for people who make ads; this link lets you in, once:\n\n{link}\n")
        print("serve: Ctrl-C ends it")
        until_stopped()
        print("serve: stopping")
        stop_serve()


def writer_folder(config: Config) -> str:
    """The absolute folder of the writer; empty: there is none."""
    if config.writer != "auto":
        return config.writer and str(Path(config.writer).absolute())
    beside = Path(config.model).absolute().parent
    return next((str(beside / name) for name in ("aligned", "designer") if (beside / name).exists()), "")


def _serve_generator(config: Config, quiet: dict[str, Any]) -> None:
    """Beside the reward, which ranks for it. It takes no whole processor: on a small machine the replicas have them all."""
    from ray import serve

    from countryreward.on_ray.deployments.generator_deployment import ROUTE_PREFIX, GeneratorArgs, build

    writer = writer_folder(config)
    args = GeneratorArgs(renderer=config.renderer, reward="reward", service=config.service, writer=writer)
    print(f"serve: designs for a market are written by {writer}" if writer else "serve: designs come from templates")
    options = {
        "ray_actor_options": {"num_cpus": 0, "num_gpus": config.gpus_per_generator},
        "num_replicas": config.generators,
        "autoscaling_config": None,
        "logging_config": quiet,
    }
    serve.run(build(args, None, options), name="generator", route_prefix=ROUTE_PREFIX)


def _serve_studio(model: str, config: Config, quiet: dict[str, Any]) -> None:
    """Beside the reward, which it asks, and the generator where there is one."""
    from ray import serve

    from countryreward.on_ray.deployments.studio_deployment import StudioArgs, build

    args = StudioArgs(model=model, service=config.service, variants=config.generators > 0)
    light = {"ray_actor_options": {"num_cpus": 0}, "logging_config": quiet}  # it waits for the others
    serve.run(build(args, light), name="studio", route_prefix="/studio")


if __name__ == "__main__":
    run(Config, main)
