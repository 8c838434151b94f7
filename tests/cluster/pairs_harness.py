"""Pair-making on a private Ray with literal writers, renderer and reward: in this process, or as a program to be killed.

python -m tests.cluster.pairs_harness FOLDER PAUSE_S     # jobs/generate_pairs.py over the dataset in FOLDER
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from ray import serve

from countryreward.data import tables
from countryreward.data.artifacts import publish
from countryreward.data.decoding import inspect
from countryreward.data.images import ImageWriter
from countryreward.generation.ad_contracts import RenderJob
from countryreward.generation.ad_maker import render_files
from countryreward.generation.generation_config import TasksConfig
from countryreward.generation.preference_pairs import make_pairs
from countryreward.on_ray.ray_config import AdMakingConfig, PairLoopConfig, RayConfig, ServicesConfig, WritersConfig
from countryreward.scoring.contracts import ScoreRequest
from countryreward.serving.inference.hot_reload import Published
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import RewardServiceConfig
from tests.cluster.service_harness import Emulated
from tests.unit.in_threads import ThreadedScorer
from tests.unit.literal_renderer import LiteralRenderer
from tests.unit.literal_writer import LiteralScorer, LiteralWriter

KINDS = ("Oak", "same", "unsure", "first", "Elm", "mumbled", "foreign", "half mumbled", "Ash", "Fir")
MARKETS = ["KR", "BR"]
PX = 32


def make_dataset(folder: Path, products: int) -> int:
    """dataset and records under `folder`; returns the number of tasks in MARKETS."""
    rows: dict[str, list[dict[str, Any]]] = {"products": [], "creatives": []}
    with publish(folder / "dataset", kind="dataset") as draft, ImageWriter(draft.path, embed=True) as images:
        for n in range(products):
            data = png(n % 200)
            facts = inspect(data, max_bytes=10**6, max_pixels=10**6)
            images.add(facts, data=data, uri=None)
            rows["products"].append({"product_id": f"p{n:04d}", "title": f"{KINDS[n % len(KINDS)]} mug {n}"})
            hashes = {"content_hash": facts.content_hash, "perceptual_hash": facts.perceptual_hash}
            rows["creatives"].append({"creative_id": f"c{n:04d}", "product_id": f"p{n:04d}", **hashes})
        for name, schema in (("products", tables.PRODUCTS), ("creatives", tables.CREATIVES)):
            pq.write_table(pa.Table.from_pylist(rows[name], schema=schema), draft.path / f"{name}.parquet")
        pq.write_table(tables.OBSERVATIONS.empty_table(), draft.path / "observations.parquet")
    with publish(folder / "records", kind="records", config={"split": {"by": "product"}}) as draft:
        pq.write_table(tables.RECORDS.empty_table(), draft.path / "records.parquet")
        units = [{"unit": row["product_id"], "split": "train"} for row in rows["products"]]
        pq.write_table(pa.Table.from_pylist(units, schema=tables.SPLIT_UNITS), draft.path / "units.parquet")
    return products * len(MARKETS)


def png(shade: int) -> bytes:
    from countryreward.generation.ad_contracts import Fidelity, Rendered
    from countryreward.generation.ad_maker import png_of

    pixels = np.full((16, 16, 3), shade, np.uint8)
    return png_of(Rendered(pixels=pixels, fidelity=Fidelity(edges=1, look=1, score=1), made={})).png


@serve.deployment(name="generator", max_ongoing_requests=16, health_check_period_s=1, graceful_shutdown_timeout_s=1)
class LiteralGenerator:
    """As `countryreward.on_ray.deployments.generator_deployment.Generator`, by handle alone."""

    def __init__(self, pause_s: float) -> None:
        self.renderer, self._one = LiteralRenderer(px=PX, pause_s=pause_s), asyncio.Lock()

    async def render(self, jobs: list[RenderJob]) -> list[Any]:
        async with self._one:
            return await asyncio.to_thread(render_files, self.renderer, jobs)

    async def about_renderer(self) -> dict[str, Any]:
        return {"name": self.renderer.name, "version": self.renderer.version, "px": self.renderer.px}


@serve.deployment(name="reward", max_ongoing_requests=64, health_check_period_s=1, graceful_shutdown_timeout_s=1)
class LiteralReward:
    """As `countryreward.on_ray.deployments.reward_deployment.Reward`, by handle alone."""

    def __init__(self, pause_s: float) -> None:
        self.scorer = ThreadedScorer(
            LiteralScorer(pause_s=pause_s), MARKETS, {"model": "judge-1", "knowledge_base": "kb-1"}
        )

    async def score(self, request: ScoreRequest) -> list[Any]:
        return await self.scorer.score(request)

    async def about(self) -> dict[str, Any]:
        return await self.scorer.about()


def make_writer(pause_s: float, log: Path) -> LiteralWriter:
    return LiteralWriter(pause_s=pause_s, log=log)


class LiteralModel(Emulated):
    """What `countryreward.on_ray.deployments.reward_deployment.Reward` loads: it judges as `LiteralScorer`."""

    async def score(self, request: ScoreRequest) -> list[Any]:
        return await ThreadedScorer(LiteralScorer(), MARKETS).score(request)


def load_literal(
    published: Published, config: RewardServiceConfig, device: str, watching: MetricsObserver
) -> LiteralModel:
    return LiteralModel(published.model, config, watching)


def make_renderer(_: Any) -> LiteralRenderer:
    return LiteralRenderer(px=PX)


@contextlib.contextmanager
def on_ray(pause_s: float) -> Iterator[None]:
    """A private Ray with two replicas of each service."""
    from countryreward.on_ray.session import session

    with session(RayConfig(cpus=4)):
        deploy_literal(pause_s)
        yield


def deploy_literal(pause_s: float) -> None:
    """Both services on the Ray of this process."""
    serve.start(proxy_location="Disabled")  # pyright: ignore[reportArgumentType]
    light = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}}
    apps = {"literal-generator": LiteralGenerator, "literal-reward": LiteralReward}
    targets = [
        serve.RunTarget(target=app.options(**light).bind(pause_s), name=name, route_prefix=None)
        for name, app in apps.items()
    ]
    serve.run_many(targets)


def make(folder: Path, pause_s: float) -> Any:
    """The job, on the Ray of this process."""
    from generate_pairs import Config, main

    config = Config(
        tasks=TasksConfig(dataset=str(folder / "dataset"), records=str(folder / "records"), markets=MARKETS),
        making=AdMakingConfig(
            writers=WritersConfig(actors=2, cpus=0.1),
            services=ServicesConfig(reward="app:literal-reward", generator="app:literal-generator"),
            loop=PairLoopConfig(write_batch=2, write_in_flight=4, render_batch=2, render_in_flight=4, score_batch=2),
        ),
        out=str(folder / "pairs"),
    )
    return main(config, partial(make_writer, pause_s, folder / "written.log"))


def done(folder: Path) -> list[str]:
    """Keys of the outcomes that lie in the work folder, every line of every file."""
    keys = []
    for path in folder.glob(".work/pairs/parts-*/done-*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # the job has just ended
            keys += [json.loads(line)["key"] for line in path.read_text().splitlines()]
    return keys


def expected(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows that the pure function gives, by product and market."""
    from countryreward.data.artifacts import open_artifact
    from countryreward.generation.ad_tasks import tasks_of
    from countryreward.generation.generation_config import PairRule
    from countryreward.generation.outcomes import Outcome

    opened = [open_artifact(folder / name, kind=name) for name in ("dataset", "records")]
    tasks = tasks_of(*opened, split="train", markets=MARKETS)
    given = [task for task in tasks.take(None) if not isinstance(task, Outcome)]
    outcomes = make_pairs(LiteralWriter(), LiteralRenderer(px=PX), LiteralScorer(), given, PairRule())
    return {f"{one.row['product_id']}/{one.row['market']}": one.row for one in outcomes if one.row}


def check(folder: Path, counts: dict[str, Any], tasks: int) -> int:
    """That what was published is what the pure function gives, each pair once. Returns the number of pairs."""
    rows = pq.read_table(folder / "pairs" / "pairs.parquet").to_pylist()
    wanted = expected(folder)
    found = {f"{row['product_id']}/{row['market']}": row for row in rows}
    assert counts["tasks"]["input"] == tasks
    assert len(rows) == len(found) == len({row["key"] for row in rows}) == counts["tasks"]["kept"]
    assert set(found) == set(wanted)
    for name, row in found.items():
        same = {**row, "attributes": dict(row["attributes"]), "key": ""}
        assert same == {**wanted[name], "key": ""}, name
    return len(rows)


def processes(title: str, of: psutil.Process | None = None) -> list[psutil.Process]:
    """Ray's processes below this one (or `of`) whose title begins so."""
    found = []
    for child in (of or psutil.Process()).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(child.cmdline()[:1]).startswith(f"ray::{title}"):
                found.append(child)
    return found


def wait_for(folder: Path, count: int, seconds: float = 120.0) -> None:
    """Until so many outcomes are in safety."""
    until = time.monotonic() + seconds
    while len(done(folder)) < count:
        assert time.monotonic() < until, f"{len(done(folder))} outcomes of {count}"
        time.sleep(0.05)


if __name__ == "__main__":
    with on_ray(float(sys.argv[2])):
        made = make(Path(sys.argv[1]), float(sys.argv[2]))
        print(json.dumps(made.manifest.counts))
