"""Generation jobs of the service: pictures in, images and rankings out, whatever is killed, cancelled or hostile. No model."""

import asyncio
import contextlib
import datetime as dt
import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.scoring.contracts import Product, ScoreRequest, Verdict
from countryreward.serving.durable_jobs.generation import generation_results as results
from countryreward.serving.durable_jobs.generation.create_generation import create_generation
from countryreward.serving.durable_jobs.generation.generation_routes import create_generator_app
from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs
from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore
from countryreward.serving.durable_jobs.job_folders import MAX_STARTS, take_lease
from countryreward.serving.http.keys import FILE, KeyStore
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.service_config import ServiceConfig
from tests.unit.literal_renderer import STUDIO, LiteralRenderer

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

MUG = Product(title="Oak mug")


def picture(value: int = 120, side: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def designs(count: int, word: str = "Ribbon") -> list[Design]:
    return [
        Design(foreground=f"{word} {n}.", background="A beach.", color_tone="Warm.", lighting="Golden.")
        for n in range(count)
    ]


def texts(count: int, word: str = "Ribbon") -> list[str]:
    return [design.as_text() for design in designs(count, word)]


class BestFirst:
    """An image beats another one with .75 where it stands before it, in KR; in BR the other way round. The last loses always."""

    markets = ("BR", "KR")

    def __init__(self, failures: int = 0, there: bool = True, refuses: str = "") -> None:
        self.failures, self.there, self.refuses, self.asked = failures, there, refuses, []

    async def about(self) -> dict[str, Any]:
        return {"model": "m1", "knowledge_base": "k1"}

    def ready(self) -> bool:
        return self.there

    def busy(self, tenant: str = "") -> float | None:
        return None

    async def score(self, ask: ScoreRequest, /) -> list[Verdict]:
        self.asked.append(ask)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the model's process died")
        if self.refuses and self.refuses in ask.product.title:
            raise UserError("title: the model takes no such title; shorten it")
        last = len(ask.creatives) - 1
        return [
            verdict(market, 0.9 if b == last else 0.75 if market == "KR" else 0.25)
            for market in ask.markets
            for _, b in ask.pairs
        ]


def verdict(market: str, probability: float) -> Verdict:
    return Verdict(
        market=market,
        probability=0.5,
        calibrated_probability=probability,
        choice="A",
        log_odds=0.0,
        evidence=(),
        past_ads=3,
        model_version="m1",
        knowledge_base_version="k1",
        note="few past ads" if market == "BR" else None,
    )


def config(folder: Path, **options: Any) -> ServiceConfig:
    return ServiceConfig(state=str(folder / "state"), **{"poll_s": 0.02, "max_image_bytes": 100_000, **options})


class Service:
    """The whole app, gate included, with keys of tenants."""

    def __init__(self, client: TestClient, jobs: GenerationJobs, keys: KeyStore) -> None:
        self.client, self.jobs, self.store, self.keys = client, jobs, jobs.store, keys
        self._known: dict[str, str] = {}

    def call(self, method: str, path: str = "", *, tenant: str = "acme", headers: Any = None, **more: Any) -> Any:
        if tenant not in self._known:
            self._known[tenant] = self.keys.create(tenant, ("generate",))
        sent = {"Authorization": f"Bearer {self._known[tenant]}", **(headers or {})}
        return self.client.request(method, f"/v1/generate{path}", headers=sent, **more)

    def send(self, image: bytes | None = None, headers: Any = None, tenant: str = "acme", **fields: Any) -> Any:
        data = {"title": "Oak mug", "design": texts(2), **fields}
        files = {"image": ("../../x.png", picture() if image is None else image)}
        return self.call("POST", tenant=tenant, headers=headers, data=data, files=files)

    def wait(self, job_id: str, *states: str, tenant: str = "acme") -> dict[str, Any]:
        """The job as soon as it is in one of the states; by default in a final one."""
        for _ in range(3_000):
            job = self.call("GET", f"/{job_id}", tenant=tenant).json()["job"]
            if job["state"] in (states or ("done", "failed", "cancelled")):
                return job
            time.sleep(0.01)
        raise AssertionError(f"still {job}")

    def finish(self, **more: Any) -> dict[str, Any]:
        answer = self.send(**more)
        assert answer.status_code == 202, answer.text
        return self.wait(answer.json()["job"]["id"])


@contextlib.contextmanager
def service(
    folder: Path,
    renderer: Any = None,
    *,
    running: bool = True,
    writer: Any = None,
    scorer: Any = None,
    now: Any = None,
    watching: Any = None,
    **options: Any,
) -> Iterator[Service]:
    settings = config(folder, **options)
    extra = {"writer": writer, "scorer": scorer, "watching": watching} | ({"now": now} if now else {})
    jobs = GenerationJobs(renderer or LiteralRenderer(), settings, first_pause_s=0.001, tries=3, wait_s=0.1, **extra)
    keys = KeyStore(folder / "state" / FILE, 1e-9)
    app = create_generator_app(jobs, settings, keys=keys, rates=Rates("memory://"), metrics=lambda: b"requests 1\n")
    if not running:

        async def nothing() -> None: ...

        jobs.start = nothing  # pyright: ignore[reportAttributeAccessIssue]
    with TestClient(app) as client:
        yield Service(client, jobs, keys)


def test_images_are_made_and_ranked(tmp_path: Path) -> None:
    renderer, scorer = LiteralRenderer(), BestFirst()
    with service(tmp_path, renderer, scorer=scorer) as running:
        job = running.finish(
            design=[*texts(2), json.dumps({**STUDIO.__dict__, "foreground": "A forbidden thing."})],
            markets=["KR", "Brazil"],
            seed=7,
            keep=1,
            category="Kitchen",
            attributes='{"Material": "oak"}',
            tags=["warm"],
        )
        assert (job["state"], job["done"], job["total"], job["position"]) == ("done", 3, 3, None)
        assert (job["note"], job["error"], job["markets"]) == (None, None, ["KR", "BR"])
        assert [(one["n"], one["seed"], one["px"]) for one in job["images"]] == [(0, 7, 64), (1, 8, 64)]
        assert job["images"][1]["design"]["foreground"] == "Ribbon 1."
        assert job["images"][0]["fidelity"] == {"edges": 0.5, "look": 0.75, "score": 0.6}
        assert job["images"][0]["made"]["renderer"] == "literal"
        (refused,) = job["refused"]
        assert (refused["n"], refused["reason"]) == (2, "design: this renderer cannot do it; write another")
        korea, brazil = job["rankings"]
        assert (korea["market"], korea["note"], korea["model_version"]) == ("KR", None, "m1")
        assert korea["images"] == [{"n": 0, "rank": 1, "win_share": 0.75, "beats_original": 0.9}]
        assert (brazil["market"], brazil["note"]) == ("BR", "few past ads")
        assert brazil["images"] == [{"n": 1, "rank": 1, "win_share": 0.75, "beats_original": 0.9}]
        answer = running.call("GET", f"/{job['id']}/images/1")
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"] == f'attachment; filename="{job["id"]}-1.png"'
        assert hashlib.sha256(answer.content).hexdigest() == job["images"][1]["sha256"]
        assert np.asarray(Image.open(io.BytesIO(answer.content))).shape == (64, 64, 3)
        for odd in ("2", "3", "-1", "0001x", "99999999999999999999"):
            assert running.call("GET", f"/{job['id']}/images/{odd}").status_code in (404, 422)
        assert [one["id"] for one in running.call("GET").json()["jobs"]] == [job["id"]]
        folder, _ = running.store.find("acme", job["id"])
    # a job is told as done before what it needs no longer is removed, so look when the runner has stopped
    assert sorted(path.name for path in folder.iterdir()) == ["images", "job.json", "lease", "rankings.json"]
    assert "Oak mug" not in (folder / "job.json").read_text()
    assert folder.stat().st_mode & 0o777 == 0o700
    (ask,) = scorer.asked
    assert (ask.tenant, ask.urgent, ask.evidence, ask.pairs) == ("acme", False, 0, ((0, 1), (0, 2), (1, 2)))
    assert ask.product == Product(title="Oak mug", category="Kitchen", attributes={"Material": "oak"}, tags=["warm"])
    assert ask.creatives[2].image == picture()


def test_a_job_without_designs_draws_them(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        job = running.finish(design=[], count=3, seed=5)
        told = running.call("GET", "/designs?count=3&seed=5").json()["designs"]
        assert [one["design"] for one in job["images"]] == told
        assert (job["total"], job["rankings"], job["note"]) == (3, [], None)
        assert running.call("GET", "/designs?count=99").status_code == 422


def test_the_same_request_is_not_rendered_again(tmp_path: Path) -> None:
    renderer = LiteralRenderer()
    with service(tmp_path, renderer, scorer=BestFirst()) as running:
        first = running.finish(markets=["KR"])
        again = running.send(markets=["KR"]).json()["job"]
        assert (again["id"], again["state"], again["images"]) == (first["id"], "done", first["images"])
        key = {"Idempotency-Key": "my-key-0001"}
        assert running.send(markets=["KR"], headers=key).json()["job"]["id"] == first["id"]
        conflict = running.send(markets=["KR"], seed=1, headers=key)
        assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "conflict")
        others = [
            running.finish(markets=["KR"], seed=1),
            running.finish(markets=["BR"]),
            running.finish(markets=["KR"], keep=1),
            running.finish(markets=["KR"], px=72),
            running.finish(markets=["KR"], steps=3),
            running.finish(markets=["KR"], title="Oak cup"),
            running.finish(markets=["KR"], product_id="p1"),
            running.finish(markets=["KR"], design=texts(1)),
            running.finish(markets=["KR"], image=picture(121)),
        ]
        assert len({first["id"], *(one["id"] for one in others)}) == 10
        theirs = running.send(markets=["KR"], tenant="beta").json()["job"]
        assert theirs["id"] != first["id"]
        running.wait(theirs["id"], tenant="beta")
        made = len(renderer.passes)
    with service(tmp_path, renderer, scorer=BestFirst()) as running:
        assert running.finish(markets=["KR"])["id"] == first["id"]
        assert len(renderer.passes) == made
    with service(tmp_path, newer := LiteralRenderer(version="2"), scorer=BestFirst()) as running:
        time.sleep(0.1)
        assert running.finish(markets=["KR"])["id"] != first["id"]
        assert len(newer.passes) >= 2


def test_a_key_names_one_job_and_the_line_has_an_end(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "my-key-0001"}
    with service(tmp_path, running=False, max_generations=2) as running:
        first = running.send(headers=key).json()["job"]
        assert running.send(headers=key).json()["job"]["id"] == first["id"]
        second = running.send(seed=1, tenant="acme").json()["job"]
        full = running.send(seed=2)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "quota")
        assert running.send(headers=key).status_code == 202  # a repeated call is no new job
        third = running.send(seed=2, tenant="beta").json()["job"]
        assert [one["position"] for one in (first, second, third)] == [0, 1, 2]
        assert [one["position"] for one in running.call("GET").json()["jobs"]] == [1, 0]
        assert running.call("DELETE", f"/{first['id']}").status_code == 204
        assert running.call("GET", f"/{second['id']}").json()["job"]["position"] == 0
        assert running.call("GET", f"/{third['id']}", tenant="beta").json()["job"]["position"] == 1
        assert running.send(seed=2).status_code == 202  # the slot is free
        renewed = running.send(headers=key).json()["job"]
        assert (renewed["id"], renewed["state"]) == (first["id"], "cancelled")  # a key names one job while it is there


def test_a_job_is_its_tenants_alone(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        job = running.finish()
        for call, path in [("GET", ""), ("GET", "/images/0"), ("DELETE", "")]:
            theirs = running.call(call, f"/{job['id']}{path}", tenant="beta")
            nobodys = running.call(call, f"/g-0000000000000000{path}", tenant="beta")
            assert (theirs.status_code, nobodys.status_code) == (404, 404)
            assert theirs.json()["error"]["code"] == nobodys.json()["error"]["code"] == "not_found"
        assert running.call("GET", tenant="beta").json()["jobs"] == []
        for odd in ("..", "%2e%2e", "g-x", ".trash-1", "g-0000000000000000%2f..%2f", "b-0123456789abcdef"):
            assert running.call("GET", f"/{odd}/images/0").status_code == 404
        assert running.call("GET", f"/{job['id']}").status_code == 200
        without = running.client.get(f"/v1/generate/{job['id']}")
        assert (without.status_code, without.json()["error"]["code"]) == (401, "missing_key")
        other = running.keys.create("acme", ("score", "batch"))
        for path in ("", f"/{job['id']}", "/designs", "/openapi.json", "/metrics"):
            answer = running.client.get(f"/v1/generate{path}", headers={"X-API-Key": other})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert running.call("GET", "/metrics").json()["error"]["code"] == "forbidden"
        assert "/v1/generate/{job_id}" in running.call("GET", "/openapi.json").json()["paths"]
        metrics = {"X-API-Key": running.keys.create("acme", ("metrics",))}
        assert running.client.get("/v1/generate/metrics", headers=metrics).text == "requests 1\n"
        assert running.client.get("/v1/generate/readyz").json() == {"status": "ok"}
        assert running.client.get("/readyz").status_code == 401


MARK = "zqmarkerqz"
LONG = "x" * 4_001


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"image": b""}, 422, "image: the file is empty"),
        ({"image": MARK.encode()}, 422, "image: undecodable_image"),
        ({"image": b"GIF89a" + MARK.encode()}, 422, "image: unsupported_format"),
        ({"image": picture()[:60]}, 422, "image: undecodable_image"),
        ({"image": picture(side=200)}, 422, "image: pixel_bomb"),
        ({"image": bytes(100_001)}, 413, "image: larger than"),
        ({"title": ""}, 422, "title"),
        ({"title": LONG}, 422, "title: longer"),
        ({"attributes": "[" * 4_000}, 422, "attributes: must be"),
        ({"markets": [MARK]}, 422, "markets: number 1 is no country"),
        ({"design": [MARK]}, 422, "design: number 1 must be four lines"),
        ({"design": [texts(1)[0], "Foreground: a\nForeground: b"]}, 422, "design: number 2 must be"),
        ({"design": ['{"foreground": "' + MARK + '"}']}, 422, "design: number 1 must be"),
        ({"design": ['{"foreground": 1, "background": 2, "color_tone": 3, "lighting": 4}']}, 422, "design: number 1"),
        ({"design": ['{"a":' * 700]}, 422, "design: number 1 must be"),
        ({"design": [json.dumps(dict.fromkeys(STUDIO.__dict__, "\ud800"))]}, 422, "design: number 1"),
        ({"design": [json.dumps(dict.fromkeys(STUDIO.__dict__, " "))]}, 422, "design: number 1 must be"),
        ({"design": [LONG]}, 422, "design: number 1 is longer"),
        ({"design": texts(5)}, 422, "design: more than 4"),
        ({"design": [], "count": 5}, 422, "count: it must be 1 to 4"),
        ({"count": 0}, 422, "count: it must be 1 to 4"),
        ({"keep": -1}, 422, "keep: it must be 1 to 4"),
        ({"seed": -1}, 422, "seed: it must be 0 to 2147483647"),
        ({"seed": 2**31}, 422, "seed: it must be"),
        ({"seed": "9" * 5_000}, 422, "seed"),
        ({"seed": MARK}, 422, "seed"),
        ({"px": 63}, 422, "px: it must be 64 to 128"),
        ({"px": 129}, 422, "px: it must be"),
        ({"steps": 51}, 422, "steps: it must be 1 to 50"),
        ({"headers": {"Idempotency-Key": "../../etc"}}, 422, "8 to 128"),
    ],
)
def test_what_is_of_no_use_is_refused_and_leaves_nothing(
    tmp_path: Path, fields: dict[str, Any], status: int, words: str
) -> None:
    with service(tmp_path, running=False, max_designs=4, max_px=128, max_pixels=30_000) as running:
        answer = running.send(**fields)
        assert (answer.status_code, words in answer.text, MARK in answer.text) == (status, True, False), answer.text
        assert running.call("GET").json()["jobs"] == []
        assert [path.name for path in (running.store.root / "acme").glob("*") if path.name != ".lock"] == []


def test_bodies_are_judged_before_they_are_read(tmp_path: Path) -> None:
    with service(tmp_path, running=False) as running:
        assert running.send(image=bytes(2**21)).status_code == 413
        many = running.call(
            "POST", files=[("image", ("a.png", picture())) for _ in range(3)], data={"title": "Oak mug"}
        )
        assert many.status_code == 422
        flood = running.call("POST", files={"image": picture()}, data={"title": "x", "tags": ["t"] * 500})
        assert flood.status_code == 422


def test_cancel_while_it_runs_and_while_it_waits(tmp_path: Path) -> None:
    renderer = LiteralRenderer(pause_s=0.05)
    with service(tmp_path, renderer, max_generations=2) as running:
        first = running.send(design=texts(16)).json()["job"]["id"]
        second = running.send(design=texts(16), seed=1).json()["job"]["id"]
        assert running.send(seed=2).status_code == 429
        while not running.call("GET", f"/{first}").json()["job"]["images"]:
            time.sleep(0.01)
        early = running.call("GET", f"/{first}/images/0")
        assert early.status_code == 200
        for job_id in (second, first):
            assert running.call("DELETE", f"/{job_id}").status_code == 204
            job = running.call("GET", f"/{job_id}").json()["job"]
            assert (job["state"], job["images"], job["error"]) == ("cancelled", [], None)
            assert running.call("GET", f"/{job_id}/images/0").status_code == 404
        assert running.finish(seed=3)["state"] == "done"  # the slot is free, and the runner goes on
        assert len(renderer.passes) < 32
        folder, _ = running.store.find("acme", first)
        assert {path.name for path in folder.iterdir()} == {"job.json", "lease", "cancel"}
        assert running.call("DELETE", f"/{first}").status_code == 204
        assert running.call("GET", f"/{first}").status_code == 404


def test_a_finished_job_is_removed_on_demand_and_in_time(tmp_path: Path) -> None:
    clock = [dt.datetime(2026, 4, 1, tzinfo=dt.UTC)]
    with service(tmp_path, now=lambda: clock[0], retention_hours=24) as running:
        job, other = running.finish(), running.finish(seed=1)
        assert (job["finished"], job["deleted_after"]) == ("2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z")
        for _ in range(100):  # its runner may hold it for another moment
            running.call("DELETE", f"/{other['id']}")
            if running.call("GET", f"/{other['id']}").status_code == 404:
                break
            time.sleep(0.01)
        clock[0] += dt.timedelta(hours=23)
        running.store.sweep()
        assert running.call("GET", f"/{job['id']}/images/0").status_code == 200
        clock[0] += dt.timedelta(hours=2)
        while running.call("GET", f"/{job['id']}").status_code == 200:
            running.store.sweep()
        assert not list((running.store.root / "acme").glob("*g-*"))


def test_without_a_reward_model_nothing_is_ranked_and_the_note_says_so(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        job = running.finish(markets=["KR"])
        assert (job["state"], len(job["images"]), job["rankings"]) == ("done", 2, [])
        assert job["note"] == "there is no reward model here, so nothing was ranked"
    for asked in (BestFirst(failures=3), BestFirst(there=False)):
        with service(tmp_path, scorer=asked) as running:
            job = running.finish(markets=["KR"], seed=2)
            assert job["note"] == (
                "the reward model did not answer, so nothing was ranked; send the request again later"
            )
    with service(tmp_path, scorer=BestFirst()) as running:
        time.sleep(0.1)
        assert running.finish(markets=["KR"], seed=2)["note"] is None  # asked again, for now it is there
    with service(tmp_path, scorer=BestFirst(failures=2, refuses="Oak cup")) as running:
        assert running.finish(markets=["KR"], seed=3)["note"] is None
        assert "takes no such title" in running.finish(markets=["KR"], title="Oak cup")["note"]


def test_verdicts_are_asked_in_shares(tmp_path: Path) -> None:
    with service(tmp_path, scorer=(scorer := BestFirst()), max_verdicts=7) as running:
        job = running.finish(markets=["KR", "BR", "US"])
        assert [one["market"] for one in job["rankings"]] == ["KR", "BR", "US"]
    assert [ask.markets for ask in scorer.asked] == [("KR", "BR"), ("US",)]


def test_images_share_passes_and_one_that_is_refused_spoils_no_other(tmp_path: Path) -> None:
    asked = [*texts(3), *texts(1, "A late refusal"), *texts(1, "A forbidden thing")]
    with service(tmp_path, renderer := LiteralRenderer(), designs_per_pass=5) as running:
        job = running.finish(design=asked)
        assert [one["n"] for one in job["images"]] == [0, 1, 2]
        assert [one["n"] for one in job["refused"]] == [3, 4]
        assert renderer.passes == [[0, 1, 2, 3], [0], [1], [2], [3]]
        nothing = running.finish(design=texts(1, "A forbidden thing"), markets=["KR"])
        assert (nothing["state"], nothing["images"], len(nothing["refused"])) == ("done", [], 1)


def test_a_design_that_breaks_the_renderer_again_and_again_is_refused(tmp_path: Path) -> None:
    with service(tmp_path, renderer := LiteralRenderer()) as running:
        job = running.finish(design=[*texts(1), *texts(1, "A broken thing"), *texts(1, "Bow")])
        assert (job["state"], [one["n"] for one in job["images"]]) == ("done", [0, 2])
        assert [one["reason"] for one in job["refused"]] == [
            "the renderer failed on it again and again; change the design"
        ]
        assert renderer.passes.count([1]) == MAX_STARTS


def test_replicas_that_get_the_same_call_at_once_make_one_job(tmp_path: Path) -> None:
    stores = [GenerationStore(config(tmp_path, max_generations=2)) for _ in range(8)]
    for key, seeds in (("key-00000001", [0] * 8), (None, [1] * 8), (None, list(range(2, 10)))):
        made, gate = [], threading.Barrier(8)

        def post(store: GenerationStore, seed: int, key: str | None = key, made: Any = made, gate: Any = gate) -> None:
            gate.wait()
            try:
                made.append(
                    create_generation(store, tenant="acme", image=picture(), product=MUG, seed=seed, key=key).id
                )
            except Problem as problem:
                made.append(problem.code)

        threads = [threading.Thread(target=post, args=pair) for pair in zip(stores, seeds, strict=True)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(set(made)) == 1
        assert (made[0] == "quota") == (key is None and seeds[0] == 2)
    left = sorted(path.name[:2] for path in (stores[0].root / "acme").iterdir())
    assert left == [".l", "g-", "g-"]  # the lock and two jobs: nothing half made


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.unit.literal_renderer import LiteralRenderer
from tests.unit.test_generator_jobs import BestFirst, GenerationJobs, config

async def main():
    folder = Path(sys.argv[1])
    renderer = LiteralRenderer(pause_s=0.05, log=folder / "made.log")
    jobs = GenerationJobs(renderer, config(folder), scorer=BestFirst())
    await jobs.start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


def replica(folder: Path, program: str = KILLED) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(path for path in sys.path if path)
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], env=os.environ | {"PYTHONPATH": path}, cwd=root
    )


def test_killed_in_the_middle_no_image_is_lost_or_doubled(tmp_path: Path) -> None:
    with service(tmp_path, running=False) as running:
        job_id = running.send(design=texts(16), markets=["KR"]).json()["job"]["id"]
        folder, _ = running.store.find("acme", job_id)
    before: dict[str, tuple[int, bytes]] = {}
    for images in (3, 9):  # killed twice, then finished by this process
        process = replica(tmp_path)
        try:
            deadline = time.monotonic() + 120
            while len(results.finished(folder)) < images:
                assert process.poll() is None, "the replica ended by itself"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert take_lease(folder) is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        files = {path.name: path for path in (folder / "images").glob("????.json")}
        for name, told in before.items():
            assert (files[name].stat().st_mtime_ns, files[name].read_bytes()) == told  # never made again
        before = {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in files.items()}
    assert json.loads((folder / "job.json").read_text())["state"] == "running"
    with service(tmp_path, renderer := LiteralRenderer(), scorer=BestFirst()) as running:
        job = running.wait(job_id)
        assert (job["state"], [one["n"] for one in job["images"]]) == ("done", list(range(16)))
        assert sum(map(len, renderer.passes)) == 16 - len(before)
        best = [(one["n"], one["rank"]) for one in job["rankings"][0]["images"]]
        assert best == [(0, 1), (1, 2), (2, 3), (3, 4)]
    made = (tmp_path / "made.log").read_text().splitlines()
    assert len(made) <= len(before) + 2  # at most the one in the making when it was killed, each time


def test_a_design_that_kills_its_replica_costs_itself_alone(tmp_path: Path) -> None:
    with service(tmp_path, running=False) as running:
        asked = [*texts(1), *texts(1, "A deadly thing"), *texts(1, "Bow")]
        job_id = running.send(design=asked).json()["job"]["id"]
        deaths = 0
        for _ in range(MAX_STARTS + 1):
            process = replica(tmp_path)
            while process.poll() is None and running.call("GET", f"/{job_id}").json()["job"]["state"] != "done":
                time.sleep(0.02)
            deaths += process.poll() is not None
            process.kill()
            process.wait()
        job = running.call("GET", f"/{job_id}").json()["job"]
        assert (job["state"], [one["n"] for one in job["images"]], job["refused"][0]["n"]) == ("done", [0, 2], 1)
        assert deaths <= MAX_STARTS


def test_stop_leaves_the_job_to_the_next_start(tmp_path: Path) -> None:
    with service(tmp_path, LiteralRenderer(pause_s=0.05)) as running:
        job_id = running.send(design=texts(16)).json()["job"]["id"]
        while len(running.call("GET", f"/{job_id}").json()["job"]["images"]) < 3:
            time.sleep(0.01)
    with service(tmp_path, second := LiteralRenderer()) as running:
        assert running.wait(job_id)["done"] == 16
    assert len(second.passes) <= 13


def test_another_renderer_begins_anew(tmp_path: Path) -> None:
    with service(tmp_path, LiteralRenderer(pause_s=0.05)) as running:
        job_id = running.send(design=texts(16)).json()["job"]["id"]
        while len(running.call("GET", f"/{job_id}").json()["job"]["images"]) < 3:
            time.sleep(0.01)
    with service(tmp_path, second := LiteralRenderer(version="2")) as running:
        job = running.wait(job_id)
        assert {one["made"]["version"] for one in job["images"]} == {"2"}
    assert sum(map(len, second.passes)) == 16


def test_many_jobs_and_two_replicas_in_turn(tmp_path: Path) -> None:
    """Two workers of one process: every image is made once."""
    log = tmp_path / "made.log"

    async def both(store: GenerationStore, ids: list[str]) -> None:
        workers = [GenerationJobs(LiteralRenderer(log=log), settings) for _ in range(2)]
        for worker in workers:
            await worker.start()
        while any(store.find("acme", job_id)[1].state != "done" for job_id in ids):
            await asyncio.sleep(0.02)
        for worker in workers:
            await worker.stop()

    settings = config(tmp_path, max_generations=100)
    store = GenerationStore(settings)
    ids = [
        create_generation(
            store, tenant="acme", image=picture(), product=Product(title=f"mug{i}"), designs=designs(3), seed=10 * i
        ).id
        for i in range(12)
    ]
    asyncio.run(both(store, ids))
    wanted = sorted(f"mug{i} {10 * i + n}" for i, n in itertools.product(range(12), range(3)))
    assert sorted(log.read_text().splitlines()) == wanted
