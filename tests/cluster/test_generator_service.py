"""The generator on Ray beside the reward: its paths, jobs that outlive a killed replica, a cancelled job's slot.

The tests go on from each other's deployment, in the order of this file. Long form: tests/torture/test_generator_under_fire.py.
"""

import asyncio
import dataclasses
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from countryreward.client import AsyncClient, Client, Refused
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Refusal, RenderedFile, RenderJob
from countryreward.scoring.contracts import Product
from tests.cluster.generator_harness import APP, Generating
from tests.cluster.service_harness import ROOT, Service, publish_emulated, service, small_pair, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("generator")) as started:
        started.deploy(publish_emulated(started.state.parent / "model", "first"), num_replicas=1)
        yield started


@pytest.fixture(scope="module")
def generating(running: Service) -> Generating:
    generating = Generating(running)
    generating.deploy(pause_s=0.05, writer="w1", num_replicas=2, config={"max_generations": 40})
    return generating


@pytest.fixture(scope="module")
def client(generating: Generating) -> Iterator[Client]:
    with generating.client() as made:
        yield made


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 40, 3), 200, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def designs(count: int) -> list[Design]:
    return [
        Design(foreground=f"Ribbon {n}.", background="A beach.", color_tone="Warm.", lighting="Golden.")
        for n in range(count)
    ]


def test_both_applications_are_reached_by_their_documented_paths(
    running: Service, generating: Generating, client: Client, tmp_path: Path
):
    drawn = client.designs(3, seed=1)
    assert len(drawn) == 3
    job = client.generate("Oak mug", picture(), markets=["KR", "BR"], designs=drawn, keep=2, seed=3)
    assert (job.job.total, job.job.markets) == (3, ["KR", "BR"])
    done = job.wait(progress=False, poll_s=0.1)
    assert [(one.n, one.seed) for one in done.images] == [(0, 3), (1, 4), (2, 5)]
    assert [one.design.design() for one in done.images] == drawn
    assert (done.note, [one.market for one in done.rankings]) == (None, ["KR", "BR"])
    assert done.rankings[0].model_version == "first"  # the reward of the other application, asked by its handle
    assert [(one.rank, one.win_share) for one in done.rankings[0].images] == [(1, 0.5), (2, 0.5)]
    (first, *_) = paths = job.save(tmp_path / "ads")
    assert [path.name for path in paths] == [f"{job.id}-{n}.png" for n in range(3)]
    assert Image.open(first).size == (64, 64)
    assert job.image(1) == paths[1].read_bytes()
    assert [one.id for one in client.generations()] == [job.id]
    assert client.generate("Oak mug", picture(), markets=["KR", "BR"], designs=drawn, keep=2, seed=3).id == job.id
    assert client.open_generation(job.id).job == done
    with pytest.raises(Refused) as refused:
        job.image(3)
    assert (refused.value.status, refused.value.code) == (404, "not_found")
    with Client(running.url, running.key) as other:  # the reward answers beside it
        ((title, a, b),) = small_pair(tmp_path)
        assert other.score(title, a, b, markets=["KR"])[0].model_version == "first"
        with pytest.raises(UserError, match="lacks the scope generate"):
            other.designs()


def test_designs_are_written_for_the_markets(client: Client):
    done = client.generate("Oak mug", picture(), markets=["KR", "BR"], count=3).wait(progress=False, poll_s=0.1)
    assert [(one.market, one.writer) for one in done.images] == [("KR", "w1"), ("BR", "w1"), ("KR", "w1")]
    assert [one.design.background for one in done.images][:2] == ["A street in KR, 0.", "A street in BR, 1."]
    assert (done.note, [one.market for one in done.rankings]) == (None, ["KR", "BR"])


def test_others_on_this_ray_render_by_handle(generating: Generating):
    from ray import serve

    job = RenderJob(
        design=designs(1)[0],
        product=Product(title="Oak mug"),
        image=np.full((48, 40, 3), 200, np.uint8),
        image_hash="0" * 64,
    )
    handle = serve.get_deployment_handle("generator", APP)
    told = handle.about_renderer.remote().result(timeout_s=60)
    made, refused = handle.render.remote([job, dataclasses.replace(job, px=63)]).result(timeout_s=60)
    assert told == {"name": "literal", "version": "1", "px": 64}
    assert isinstance(made, RenderedFile)
    assert Image.open(io.BytesIO(made.png)).size == (64, 64)
    assert refused == Refusal(reason="px: 63 is no multiple of 8; write another")


def test_a_broken_writer_is_refused_before_anything_is_touched(generating: Generating, tmp_path: Path):
    from countryreward.on_ray.deployments.generator_deployment import GeneratorArgs, build

    with pytest.raises(UserError, match="manifest"):
        build(GeneratorArgs(writer=str(tmp_path)))


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/generate", 401, "missing_key"),
        ("/v1/generate/readyz", 200, None),
        ("/v1/generate/healthz", 200, None),
        ("/v1/generate/none/at/all", 401, "missing_key"),
        ("/v1/generatex", 401, "missing_key"),
        ("/v1/generate/", 401, "missing_key"),
        ("/readyz", 200, None),
    ],
)
def test_paths_without_a_key(running: Service, generating: Generating, path: str, status: int, code: str | None):
    import httpx2

    answer = httpx2.get(running.url + path)
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["error"]["code"] == code


def test_twelve_jobs_and_a_killed_replica(generating: Generating, client: Client):
    before = len(generating.made())
    jobs = [client.generate(f"Lamp {n}", picture(), markets=["KR"], designs=designs(4), seed=10 * n) for n in range(12)]
    waiting = [one.job.position for one in reversed(client.generations()) if one.job.position is not None]
    assert len(waiting) > 4
    assert waiting == list(range(waiting[0], waiting[0] + len(waiting)))
    wait_until(lambda: generating.at_work() is not None and len(generating.made()) > before + 6)
    victim = generating.at_work()
    assert victim is not None
    victim.kill()
    for job in jobs:
        job.wait(progress=False, poll_s=0.2)
    assert [[one.n for one in job.job.images] for job in jobs] == [[0, 1, 2, 3]] * 12
    assert all(len(job.job.rankings) == 1 and job.job.note is None for job in jobs)
    made = generating.made()[before:]
    wanted = {f"Lamp {n} {10 * n + i}" for n in range(12) for i in range(4)}
    assert set(made) == wanted
    assert len(made) <= len(wanted) + 1  # at most the image that was under way is made twice, and kept once
    wait_until(lambda: len(generating.replicas()) == 2)


def test_a_cancelled_job_frees_its_slot(generating: Generating, client: Client):
    generating.deploy(pause_s=0.2, num_replicas=1, config={"max_generations": 1})
    wait_until(lambda: len(generating.replicas()) == 1)

    async def in_line() -> float:
        async with AsyncClient(generating.url, generating.key()) as one:
            long = await one.generate("Sofa", picture(), designs=designs(16))
            while (await long.state()).state != "running":
                await asyncio.sleep(0.05)
            await long.cancel()
            began = time.monotonic()
            short = await one.generate("Chair", picture(), designs=designs(1))
            await short.wait(progress=False, poll_s=0.05)
            with pytest.raises(UserError, match="it is cancelled"):
                await long.wait(progress=False)
            return time.monotonic() - began

    assert asyncio.run(in_line()) < 5  # and not the 3.2 s of the other one on top
    assert sum(line.startswith("Sofa") for line in generating.made()) < 16


@pytest.mark.long
def test_replicas_come_and_go_with_the_queue(generating: Generating, client: Client):
    scaling = {
        "min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2, "upscale_delay_s": 0.5,
        "downscale_delay_s": 1, "metrics_interval_s": 0.5, "look_back_period_s": 1,
        "policy": {"policy_function": "countryreward.on_ray.autoscaling:by_backlog"},
    }  # fmt: skip
    generating.deploy(pause_s=0.2, autoscaling_config=scaling, config={"max_generations": 40})
    jobs = [client.generate(f"Vase {n}", picture(), designs=designs(16)) for n in range(30)]
    wait_until(lambda: generating.running_replicas() == 2, 120)  # nobody asks over HTTP meanwhile
    for job in jobs[2:]:
        job.cancel()
    for job in jobs[:2]:
        assert job.wait(progress=False).done == 16
    wait_until(lambda: generating.running_replicas() == 1, 120)


def test_the_yaml_names_both_applications():
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from countryreward.on_ray.deployments.generator_deployment import ROUTE_PREFIX, Generator, GeneratorArgs

    told = yaml.safe_load((ROOT / "serve_apps" / "generator.yaml").read_text(encoding="utf-8"))
    applications = {one.name: one for one in ServeDeploySchema(**told).applications}
    assert {name: one.route_prefix for name, one in applications.items()} == {"reward": "/", "generator": ROUTE_PREFIX}
    args = GeneratorArgs(**applications["generator"].args)
    assert (args.reward, args.renderer.kind, args.service.state) == ("reward", "drawer", "runs/service")
    assert args.writer == ""
    (deployment,) = applications["generator"].deployments
    assert deployment.name == Generator.name
    scaling: Any = Generator._deployment_config.autoscaling_config
    listed: Any = deployment.autoscaling_config
    assert scaling.policy.policy_function == listed["policy"]["policy_function"]
