"""The service on Ray while replicas die, versions change and too much is asked. One Ray with Serve for all of it.

The tests go on from each other's deployment, in the order of this file. Long forms: tests/torture/test_service_under_fire.py.
"""

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from countryreward import CountryReward, PairRequest, Product, ScoreRequest, Verdict
from countryreward.client import Client
from countryreward.errors import UserError
from countryreward.on_ray.retry import call_with_retries
from countryreward.on_ray.serve_handles import HandleScorer
from tests.cluster.demo_run import MARKETS, Run
from tests.cluster.service_harness import (
    TOKENS,
    Service,
    publish_emulated,
    service,
    small_pair,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own

PER_PASS = 2
"""Pairs of a full pass of the emulated model."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.fixture(scope="module")
def link(running: Service) -> Path:
    """Where versions of the emulated model are published; three replicas answer with the first."""
    link = publish_emulated(running.state.parent / "model", "first")
    running.deploy(link, num_replicas=3, config={"batch_tokens": PER_PASS * TOKENS})
    return link


@pytest.fixture(scope="module")
def pair(running: Service) -> tuple[tuple[str, str, str], ...]:
    return small_pair(running.state.parent)


def test_nothing_listens_for_http_beyond_loopback(running: Service, link: Path):
    doors = running.doors()
    assert set().union(*doors.values()) == {"127.0.0.1"}
    assert {"haproxy", "ray::ServeReplica:reward:reward"[:15]} <= {name[:15] for name in doors}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/-/routes", 404, "not_found"), ("/v1/none", 401, "missing_key"), ("*", 404, "not_found")],
)
def test_what_stands_before_the_replicas_answers_as_they_do(
    running: Service, link: Path, path: str, status: int, code: str
):
    response, body = raw(running.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: \xff\r\n\r\n")
    error = json.loads(body)["error"]
    assert (response.status, error["code"]) == (status, code)
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("head", ["secret words", "GET / HTTP/1.1\r\nsecret words", f"GET /{'secret' * 5000} HTTP/1.1"])
def test_what_is_no_http_is_answered_400_and_not_repeated(running: Service, link: Path, head: str):
    response, body = raw(running.port, f"{head}\r\n\r\n")
    assert response.status == 400
    assert b"secret" not in body
    assert len(body) < 200


def raw(port: int, sent: str) -> tuple[HTTPResponse, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        wire.sendall(sent.encode("latin-1"))
        response = HTTPResponse(wire)
        response.begin()
        return response, response.read()


def test_a_killed_replica_fails_no_request_of_the_client(running: Service, link: Path, pair):
    load = running.load(pair, rate=30, seconds=6)
    time.sleep(2)
    running.replicas()[0].kill()
    outcome = load.wait()
    assert (len(outcome.answers), outcome.failed) == (180, []), outcome


def test_a_killed_replica_fails_no_call_by_handle(running: Service, link: Path, pair):
    from ray import serve

    title, *images = pair[0]
    a, b = (Path(image).read_bytes() for image in images)
    requests = [
        ScoreRequest.of_images(Product(title=f"{title} {n}"), (a, b), markets=(MARKETS[n % 2],)) for n in range(60)
    ]
    scorer = HandleScorer(serve.get_app_handle("reward"))

    async def score_all() -> list[list[Verdict]]:
        calls = (call_with_retries(partial(scorer.score, request), "reward", 60) for request in requests)
        return await asyncio.gather(*calls)

    time.sleep(1)
    victim = running.replicas()[0]
    threading.Timer(0.1, victim.kill).start()
    answers = asyncio.run(score_all())
    assert [verdict.market for (verdict,) in answers] == [request.markets[0] for request in requests]
    assert not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE


def test_a_newer_model_is_taken_in_and_a_broken_one_is_not_while_all_is_answered(running: Service, link: Path, pair):
    load = running.load(pair, rate=20, seconds=6)
    time.sleep(1)
    publish_emulated(link, "second")
    time.sleep(2)
    publish_emulated(link, "broken", broken=True)
    outcome = load.wait()
    versions = outcome.versions()
    assert (len(versions), outcome.failed) == (120, []), outcome
    assert set(versions) == {"first", "second"}
    assert versions[0] == "first"
    assert set(versions[-20:]) == {"second"}
    with Client(running.url, running.key) as client:
        (told,) = client.models()
    assert told["model"] == "second"
    assert told["refused"] == [{"version": "broken", "reason": "model: its folder is damaged"}]


def test_what_is_too_much_is_refused_and_forgotten(running: Service, link: Path, pair):
    publish_emulated(link, "slow", pass_s=0.5)  # 3 x 2 pairs in .5 s
    wait_until(lambda: set(running.load(pair, closed=6, seconds=0.1).wait().versions()) == {"slow"})
    outcome = running.load(pair, rate=60, seconds=3, retries=False).wait()
    kinds = outcome.kinds()
    assert set(kinds) == {"ok", "503"}, kinds
    assert kinds["503"] > kinds["ok"] >= 6
    assert all(int(one.retry_after or 0) >= 1 for one in outcome.failed)
    publish_emulated(link, "quick")
    outcome = running.load(pair, rate=10, seconds=4).wait()
    assert outcome.failed == []


@pytest.mark.long
def test_a_deployment_rolls_and_scales_while_all_is_answered(running: Service, link: Path, pair):
    scaling = {
        "min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2, "upscale_delay_s": 0.5,
        "downscale_delay_s": 1, "metrics_interval_s": 0.5, "look_back_period_s": 1,
    }  # fmt: skip
    load = running.load(pair, rate=10, seconds=15)
    running.deploy(link, autoscaling_config=scaling, config={"batch_tokens": PER_PASS * TOKENS})
    assert load.wait().failed == []
    wait_until(lambda: running.running() == 1)
    load = running.load(pair, closed=16, seconds=60)
    try:
        wait_until(lambda: running.running() == 2)
    finally:
        load.process.terminate()
    wait_until(lambda: running.running() == 1)


def test_a_damaged_model_is_refused_before_anything_is_touched(running: Service, link: Path, pair, demo: Run):
    damaged = Path(shutil.copytree(demo.model, running.state.parent / "damaged"))
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    before = running.replicas()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        running.deploy(damaged, emulated=False)
    assert running.replicas() == before
    assert running.load(pair, closed=1, seconds=0.1).wait().failed == []


@dataclass(frozen=True)
class Real:
    """The demo's model behind Serve and in this process, and products with their images to ask both about."""

    client: Client
    local: CountryReward
    products: list[tuple[Product, list[bytes]]]


@pytest.fixture(scope="module")
def real(running: Service, demo: Run) -> Iterator[Real]:
    """Two replicas."""
    running.remove()
    running.deploy(demo.model, emulated=False, num_replicas=2)
    export = demo.folder / "export"
    names = pd.read_csv(export / "creatives.csv").groupby("product_id")["image_uri"].agg(list)
    products = []
    for row in pd.read_csv(export / "products.csv").head(6).to_dict("records"):
        images = [(export / "images" / name).read_bytes() for name in names[row["product_id"]][:4]]
        products.append((Product(title=row["title"], category=row["category"]), images))
    with Client(running.url, running.key) as client:
        yield Real(client, CountryReward.from_pretrained(demo.model), products)


def counted(running: Service, name: str, **labels: str) -> float:
    """Of /metrics, all replicas together."""
    import httpx2
    from prometheus_client.parser import text_string_to_metric_families

    text = httpx2.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {running.key}"}).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def test_scores_are_those_of_the_model_in_this_process(running: Service, real: Real):
    asked = counted(running, "countryreward_requests_total", route="/v1/score", status="200")
    requests = [
        PairRequest(product=product, image_a=images[0], image_b=images[1], market=market)
        for product, images in real.products
        for market in MARKETS
    ]
    told, known = real.client.score(requests), real.local.score(requests)
    for one, other in zip(told, known, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
        assert (one.market, one.choice, one.past_ads, one.model_version) == (
            other.market, other.choice, other.past_ads, other.model_version,
        )  # fmt: skip
    # One call for all markets of a pair, counted by whichever of the two replicas answered it.
    now = counted(running, "countryreward_requests_total", route="/v1/score", status="200")
    assert now - asked == len(real.products)


def test_all_markets_of_a_pair_encode_its_images_once(running: Service, real: Real):
    product, images = real.products[0]
    fresh = [images[2] + b"\0", images[3] + b"\0"]  # other bytes, the same picture: nothing is kept of these
    before = [counted(running, f"countryreward_{name}_total") for name in ("images_encoded", "verdicts")]
    assert len(real.client.score(product, *fresh, markets=MARKETS)) == len(MARKETS)
    after = [counted(running, f"countryreward_{name}_total") for name in ("images_encoded", "verdicts")]
    assert np.subtract(after, before).tolist() == [2, len(MARKETS)]


def test_rankings_are_those_of_the_model_in_this_process(real: Real):
    product, images = real.products[1]
    told, known = real.client.rank(product, images, MARKETS), real.local.rank(product, images, MARKETS)
    for one, other in zip(told, known, strict=True):
        assert (one.market, one.order) == (other.market, other.order)
        assert one.win_share == pytest.approx(other.win_share, abs=1e-5)


def test_a_batch_job_says_what_a_call_says(real: Real):
    rows = [
        {
            "row_id": str(n),
            "title": product.title,
            "category": product.category,
            "image_a": images[0],
            "image_b": images[1],
        }
        for n, (product, images) in enumerate(real.products)
    ]
    job = real.client.batch(pd.DataFrame(rows), markets=["KR"])
    assert job.wait(progress=False, poll_s=0.3).judged == len(rows)
    told = job.verdicts().sort_values("row_id")
    known = real.local.score(
        [PairRequest(product=p, image_a=images[0], image_b=images[1], market="KR") for p, images in real.products]
    )
    assert told["row_id"].tolist() == [row["row_id"] for row in rows]
    assert told["probability"].tolist() == pytest.approx([one.probability for one in known], abs=1e-5)
