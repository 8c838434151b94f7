"""How busy the slowest stage of pair-making is, and what overlapping is worth; the baseline: the same stages in turn.

    python benchmarks/pair_making.py                # stages that sleep, in this process; about 5 minutes
    python benchmarks/pair_making.py --ray=true     # the writer in a Ray actor, renderer and reward behind Serve handles
    python benchmarks/pair_making.py --quick=true   # that it runs at all; its figures mean nothing

Each stage in turn is the slowest one. It is busy while it sleeps: that is measured where it sleeps, not by the loop. The baseline
gives each handful of tasks to the writer, then to the renderer, then to the reward. Both take turns in one run (A/B/A/B).
"""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from countryreward.command import run
from countryreward.on_ray.ray_config import RayConfig

STAGES = ("write", "render", "score")


@dataclass(kw_only=True)
class Config:
    """Measure the pair-making loop."""

    tasks: int = 200
    """Tasks of one run."""
    slow_s: float = 0.05
    """Seconds a task takes the slowest stage."""
    fast_s: float = 0.025
    """Seconds a task takes each other stage."""
    batch: int = 4
    """Tasks of a call."""
    in_flight: int = 2
    """Calls at a time: one is worked on, the next one waits beside it."""
    rounds: int = 3
    """Rounds of each comparison."""
    ray: bool = False
    """Actors and Serve replicas instead of this process."""
    quick: bool = False
    """As short as possible."""
    cluster: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


class Sleeper:
    """A stage that takes one call at a time and sleeps."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._one, self._busy = seconds, asyncio.Lock(), 0.0

    async def work(self, items: Sequence[int]) -> list[int]:
        """After as long as so many items take."""
        async with self._one:
            began = time.monotonic()
            await asyncio.sleep(self.seconds * len(items))
            self._busy += time.monotonic() - began
        return list(items)

    async def told(self) -> float:
        """Seconds it was busy since it was last asked."""
        busy, self._busy = self._busy, 0.0
        return busy


Call = Callable[[Sequence[int]], Awaitable[list[int]]]


def main(config: Config) -> None:
    from countryreward.machine import describe_machine
    from countryreward.on_ray.session import session

    if config.quick:
        config.tasks, config.rounds, config.slow_s, config.fast_s = 24, 1, 0.01, 0.005
    with session(config.cluster) if config.ray else nullcontext():
        report = {slowest: asyncio.run(measure(config, slowest)) for slowest in STAGES}
    where = "Ray actor and Serve handles" if config.ray else "one process"
    print(json.dumps({"stages": where, "slowest stage": report, "machine": describe_machine()}, indent=1))


async def measure(config: Config, slowest: str) -> dict[str, Any]:
    """Rounds of the loop and of the baseline, with one stage as the slowest."""
    seconds = {name: config.slow_s if name == slowest else config.fast_s for name in STAGES}
    servers = on_ray(seconds) if config.ray else {name: Sleeper(each) for name, each in seconds.items()}
    calls: dict[str, Call] = {name: caller(server, "work") for name, server in servers.items()}
    tell = caller(servers[slowest], "told")
    await one_after_another(replace(config, tasks=config.batch), calls)
    await overlapped(
        replace(config, tasks=config.batch), calls
    )  # what is imported and connected once is no part of a run
    shares, seen, ratios = [], [], []
    for _ in range(config.rounds):
        await tell()
        began = time.monotonic()
        used = await overlapped(config, calls)
        wall_s = time.monotonic() - began
        shares.append(await tell() / wall_s)
        seen.append(used["stages"][slowest]["busy"])
        began = time.monotonic()
        await one_after_another(config, calls)
        ratios.append((time.monotonic() - began) / wall_s)
    best = sum(seconds.values()) / config.slow_s
    return {
        "busy where it sleeps": spread(shares),
        "busy as the loop counts it": spread(seen),
        "times faster than one after another": spread(ratios),
        "could be at most": round(best, 3),
    }


async def overlapped(config: Config, calls: dict[str, Call]) -> dict[str, Any]:
    """Our loop, from the first task to the last outcome in safety (in memory)."""
    from countryreward.generation.outcomes import Outcome
    from countryreward.on_ray.pipeline import Pipeline, Stage

    taken: list[Outcome] = []

    async def last(items: Sequence[int]) -> list[Outcome]:
        return [Outcome(key=str(item), row={}) for item in await calls["score"](items)]

    def give_up(item: int, error: str) -> Outcome:
        raise AssertionError(f"{item}: {error}")

    ways: dict[str, Any] = {**calls, "score": last}
    stages = [
        Stage(name=name, call=ways[name], give_up=give_up, batch=config.batch, in_flight=config.in_flight)
        for name in STAGES
    ]
    used = await Pipeline(stages, taken.extend).run(iter(range(config.tasks)))
    assert len({outcome.key for outcome in taken}) == len(taken) == config.tasks
    return used


async def one_after_another(config: Config, calls: dict[str, Call]) -> None:
    """The baseline."""
    for start in range(0, config.tasks, config.batch):
        items: Sequence[int] = range(start, min(config.tasks, start + config.batch))
        for name in STAGES:
            items = await calls[name](items)


def on_ray(seconds: dict[str, float]) -> dict[str, Any]:
    """The writer as an actor, the others as replicas of Serve."""
    import ray
    from ray import serve

    serve.start(proxy_location="Disabled")  # pyright: ignore[reportArgumentType]
    light = {"num_cpus": 0.1}
    deployment: Any = serve.deployment(Sleeper, max_ongoing_requests=16, ray_actor_options=light)
    writer: Any = ray.remote(num_cpus=0.1)(Sleeper)
    replicas = {name: serve.run(deployment.bind(seconds[name]), name=name, route_prefix=None) for name in STAGES[1:]}
    return {"write": writer.remote(seconds["write"]), **replicas}


def caller(server: Any, method: str) -> Any:
    """The method awaited, wherever the server is."""
    if isinstance(server, Sleeper):
        return getattr(server, method)

    async def call(*arguments: Any) -> Any:
        return await getattr(server, method).remote(*arguments)

    return call


def spread(values: list[float]) -> dict[str, float]:
    """Median and range of the rounds."""
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


if __name__ == "__main__":
    run(Config, main)
