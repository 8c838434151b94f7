"""Batch jobs of the service: uploads in, verdicts and quarantine out, whatever is killed, cancelled or hostile. No model."""

import asyncio
import contextlib
import datetime as dt
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from countryreward.errors import UserError
from countryreward.scoring.contracts import RequestImageError, ScoreRequest, Verdict
from countryreward.serving.durable_jobs.batch import batch_runner as runner
from countryreward.serving.durable_jobs.batch.batch_routes import add_batch_routes
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.durable_jobs.batch.batch_store import JobStore, create_job
from countryreward.serving.durable_jobs.job_folders import MAX_STARTS, cancelled, take_lease
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import ServiceConfig

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

HEADER = "row_id,product_id,title,image_a,image_b,market\n"
GOOD = "r{0},p{0},Oak lamp {0},a.png,b.png,KR\n"


class Literal:
    """Says A with probability .75; refuses images that begin with "bad" and titles that end with "Atlantis"."""

    markets = ("BR", "KR")

    def __init__(self, pause_s: float = 0.0, failures: int = 0) -> None:
        self.pause_s, self.failures = pause_s, failures
        self.asked: list[ScoreRequest] = []

    async def about(self) -> dict[str, Any]:
        return {"model": "m1", "knowledge_base": "k1"}

    def ready(self) -> bool:
        return True

    def busy(self, tenant: str = "") -> float | None:
        return None

    async def score(self, ask: ScoreRequest, /) -> list[Verdict]:
        self.asked.append(ask)
        await asyncio.sleep(self.pause_s)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the model's process died")
        for position, creative in enumerate(ask.creatives):
            if creative.image.startswith(b"bad"):
                raise RequestImageError(position, "undecodable_image", "starts with bad")
        if ask.product.title.endswith("Atlantis"):
            raise UserError("title: names another market; correct it")
        return [verdict(market) for market in ask.markets]


def verdict(market: str) -> Verdict:
    return Verdict(
        market=market,
        probability=0.75,
        calibrated_probability=None,
        choice="A",
        log_odds=-1.5,
        evidence=(),
        past_ads=3,
        model_version=None,
        knowledge_base_version="k1",
        note="=1+1",
    )


def config(folder: Path, **options: Any) -> ServiceConfig:
    return ServiceConfig(state=str(folder / "state"), **{"poll_s": 0.02, "max_image_bytes": 1_000, **options})


def app_of(jobs: BatchJobs, *, running: bool = True) -> FastAPI:
    """The routes behind a gate that believes the header X-Tenant."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if running:
            await jobs.start()
        yield
        await jobs.stop()

    app = FastAPI(lifespan=lifespan)
    add_batch_routes(app, jobs, jobs.config)

    @app.middleware("http")
    async def gate(request: Request, call_next: Callable[..., Any]) -> Any:
        request.state.caller = SimpleNamespace(tenant=request.headers.get("x-tenant", "acme"))
        request.state.request_id = "0123456789abcdef"
        return await call_next(request)

    @app.exception_handler(Problem)
    def problem(request: Request, error: Problem) -> Any:
        return error.response("0123456789abcdef")

    return app


@contextlib.contextmanager
def service(
    folder: Path, scorer: Any = None, *, running: bool = True, now: Any = None, **options: Any
) -> Iterator[Any]:
    """(client, jobs)."""
    extra = {"now": now} if now else {}
    jobs = BatchJobs(scorer or Literal(), config(folder, **options), first_pause_s=0.001, tries=4, **extra)
    with TestClient(app_of(jobs, running=running)) as client:
        yield client, jobs


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return buffer.getvalue()


IMAGES = archive({"a.png": b"good a", "b.png": b"good b"})


def send(
    client: TestClient, table: str | bytes, name: str = "pairs.csv", images: bytes | None = IMAGES, **more: Any
) -> Any:
    files = {"table": (name, table if isinstance(table, bytes) else table.encode())}
    if images is not None:
        files["images"] = ("images.zip", images)
    return client.post("/v1/batch", files=files, **more)


def wait(client: TestClient, job_id: str, *states: str, **more: Any) -> dict[str, Any]:
    """The job as soon as it is in one of the states; by default in a final one."""
    for _ in range(3_000):
        job = client.get(f"/v1/batch/{job_id}", **more).json()["job"]
        if job["state"] in (states or ("done", "failed", "cancelled")):
            return job
        time.sleep(0.01)
    raise AssertionError(f"still {job}")


def finish(client: TestClient, table: str | bytes, **more: Any) -> dict[str, Any]:
    answer = send(client, table, **more)
    assert answer.status_code == 202, answer.text
    return wait(client, answer.json()["job"]["id"])


def refused(client: TestClient, job: dict[str, Any]) -> dict[int, tuple[str, str]]:
    """Row -> reason, field."""
    lines = client.get(f"/v1/batch/{job['id']}/quarantine").text.splitlines()
    return {told["row"]: (told["reason"], told["field"]) for told in map(json.loads, lines)}


def frame(client: TestClient, job: dict[str, Any]) -> pd.DataFrame:
    return pq.read_table(io.BytesIO(client.get(f"/v1/batch/{job['id']}/verdicts").content)).to_pandas()


def test_thousand_rows_with_eight_kinds_of_bad_ones(tmp_path: Path) -> None:
    long = "x" * 5_000
    bad = {
        10: (",p,Oak lamp,a.png,b.png,KR\n", ("missing_value", "row_id")),
        110: ("r110,p,,a.png,b.png,KR\n", ("missing_value", "title")),
        210: ("r209,p,Oak lamp,a.png,b.png,KR\n", ("duplicate_key", "row_id")),
        310: ("r310,p,Oak lamp,a.png,b.png\n", ("malformed_row", "row")),
        410: ("r410,p,Oak lamp,a.png,b.png,Atlantis\n", ("unknown_market", "market")),
        510: ("r510,p,Oak lamp,gone.png,b.png,KR\n", ("missing_image", "image_a")),
        610: ("r610,p,Oak lamp,a.png,../../keys.json,KR\n", ("forbidden_uri", "image_b")),
        710: ("r710,p,Oak lamp,a.png,bad.png,KR\n", ("undecodable_image", "image_b")),
        810: ("r810,p,Oak lamp,large.png,b.png,KR\n", ("image_too_large", "image_a")),
        910: (f"r910,p,{long},a.png,b.png,KR\n", ("text_too_long", "title")),
        911: ("r911,p,Lamp of Atlantis,a.png,b.png,KR\n", ("refused_prompt", "row")),
    }
    images = archive({"a.png": b"good a", "b.png": b"good b", "bad.png": b"bad", "large.png": b"x" * 1_001})
    table = HEADER + "".join(bad[i][0] if i in bad else GOOD.format(i) for i in range(1_000))
    scorer = Literal()
    with service(tmp_path, scorer) as (client, _):
        job = finish(client, table, images=images)
        assert (job["state"], job["rows"], job["judged"], job["quarantined"], job["verdicts"]) == (
            "done",
            1000,
            989,
            11,
            989,
        )
        assert job["reasons"] == dict(Counter(reason for _, (reason, _) in bad.values()))
        assert refused(client, job) == {row: told for row, (_, told) in bad.items()}
        verdicts = frame(client, job)
        assert verdicts["row"].tolist() == [i for i in range(1_000) if i not in bad]
        assert verdicts[["row_id", "market", "choice", "past_ads"]].to_numpy().tolist()[0] == ["r0", "KR", "A", 3]
        keys = client.get(f"/v1/batch/{job['id']}/quarantine").text
        assert str(tmp_path) not in keys
    assert {(ask.tenant, ask.evidence, ask.urgent) for ask in scorer.asked} == {("acme", 0, False)}
    folder = tmp_path / "state" / "jobs" / "acme" / job["id"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "job.json",
        "lease",
        "quarantine.jsonl",
        "verdicts.parquet",
    ]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["x.tsv", "x.jsonl", "a.b/../c.PARQUET"])
def test_other_formats_and_markets_of_the_call(tmp_path: Path, name: str) -> None:
    rows = [{"title": f"Lamp {i}", "image_a": "a.png", "image_b": "b.png"} for i in range(3)]
    buffer = io.BytesIO()
    if name.endswith("PARQUET"):
        pq.write_table(pa.Table.from_pylist(rows), buffer)
    elif name.endswith("jsonl"):
        pd.DataFrame(rows).to_json(buffer, orient="records", lines=True)
    else:
        pd.DataFrame(rows).to_csv(buffer, sep="\t", index=False)
    with service(tmp_path) as (client, _):
        named = finish(client, buffer.getvalue(), name=name, data={"markets": ["Japan", "US"]})
        assert frame(client, named)["market"].tolist() == ["JP", "US"] * 3
        trained = finish(client, buffer.getvalue(), name=name)
        assert frame(client, trained)["market"].tolist() == ["BR", "KR"] * 3


def test_images_in_the_table_need_no_archive(tmp_path: Path) -> None:
    rows = [
        {"title": "Lamp", "image_a": b"good a", "image_b": b"good b"},
        {"title": "L", "image_a": b"bad", "image_b": b""},
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    with service(tmp_path, scorer := Literal()) as (client, _):
        job = finish(client, buffer.getvalue(), name="x.parquet", images=None)
        assert (job["judged"], refused(client, job)) == (1, {1: ("missing_value", "image_b")})
    assert [creative.image for creative in scorer.asked[0].creatives] == [b"good a", b"good b"]


def test_nothing_of_the_machine_can_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"good secret")
    hostile = {
        str(secret): "forbidden_uri",
        secret.as_uri(): "forbidden_uri",
        "file:///etc/passwd": "forbidden_uri",
        "../" * 9 + str(secret)[1:]: "forbidden_uri",
        "http://127.0.0.1/a.png": "forbidden_uri",
        "https://example.com/a.png": "forbidden_uri",
        "s3://bucket/a.png": "forbidden_uri",
        "data:image/png;base64,AAAA": "forbidden_uri",
        "a.png/../../x": "forbidden_uri",
        "..\\x.png": "forbidden_uri",
        "/proc/self/environ": "forbidden_uri",
        ".": "missing_image",
        "work/rows.parquet": "missing_image",
        "table.csv": "missing_image",
    }
    rows = [f'Lamp,"{uri}",a.png\n' for uri in hostile] + ["Lamp,link.png,a.png\n", "Lamp,../../out.png,a.png\n"]
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO(archive({"a.png": b"good a", "../../out.png": b"good out"}))
    with zipfile.ZipFile(buffer, "a") as target:
        target.writestr(link, str(secret))
    with service(tmp_path, scorer := Literal()) as (client, _):
        job = finish(
            client, "title,image_a,image_b\n" + "".join(rows), images=buffer.getvalue(), data={"markets": "KR"}
        )
        told = refused(client, job)
        assert [told[i][0] for i in range(len(hostile))] == list(hostile.values())
        # a link in an archive is a small file that holds a path: no image, and never followed
        assert {ask.creatives[0].image for ask in scorer.asked} == {str(secret).encode()}
        assert told[len(rows) - 1] == ("forbidden_uri", "image_a")
        without = finish(client, "title,image_a,image_b\n" + "".join(rows), images=None, data={"markets": "KR"})
        assert without["judged"] == 0
        assert set(without["reasons"]) == {"forbidden_uri", "missing_image"}


def bomb(declared: int) -> bytes:
    """An archive whose a.png unpacks to 5 MB and claims to have `declared` bytes."""
    data = bytearray(archive({"a.png": bytes(5_000_000), "b.png": b"good b"}))
    for place in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[place : place + 4] = declared.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("declared", [5_000_000, 500])
def test_archive_that_unpacks_to_much_costs_its_rows_only(tmp_path: Path, declared: int) -> None:
    with service(tmp_path, max_image_bytes=1_000) as (client, _):
        job = finish(
            client,
            "title,image_a,image_b\nL,a.png,b.png\nL,b.png,b.png\n",
            images=bomb(declared),
            data={"markets": "KR"},
        )
        assert (job["state"], job["judged"], job["quarantined"]) == ("done", 1, 1)


def test_uploads_that_are_of_no_use(tmp_path: Path) -> None:
    """Those that can be told at once get a problem, the others a job that failed and says why."""
    with service(tmp_path, max_table_bytes=20_000, max_table_rows=5) as (client, _):
        for table, more, status, words in [
            (b"x", {"name": "pairs.xlsx"}, 422, "must end in .csv"),
            (b"x", {"name": "csv"}, 202, ""),
            (b"", {}, 422, "table: the file is empty"),
            (b"x", {"images": b""}, 422, "images: the file is empty"),
            (b"x", {"images": b"no zip"}, 422, "no zip archive"),
            (b"x", {"data": {"markets": "Atlantis"}}, 422, "number 1 is no country"),
            (b"x", {"headers": {"Idempotency-Key": "../../etc"}}, 422, "8 to 128"),
            (bytes(2**20 + 30_000), {}, 413, ""),
        ]:
            answer = send(client, table, **more)
            assert (answer.status_code, words in answer.text) == (status, True), answer.text
            if status == 202:
                wait(client, answer.json()["job"]["id"])
        assert client.post("/v1/batch", data={"markets": "KR"}).status_code == 422
        squeezed = io.BytesIO()
        pq.write_table(pa.table({"title": ["x" * 10_000] * 5, "image_a": ["a"] * 5, "image_b": ["a"] * 5}), squeezed)
        nested = io.BytesIO()
        pq.write_table(
            pa.table({"title": ["x"], "image_a": ["a"], "image_b": ["a"], "tags": [["y" * 1_000] * 50]}), nested
        )
        assert max(len(squeezed.getvalue()), len(nested.getvalue())) < 15_000
        for table, name, words in [
            (b"title,image_a\nLamp,a.png\n", "x.csv", "column 'image_b' is not in the table, which has title, image_a"),
            (b"\xff" * 18, "x.csv", "UTF-8"),
            (b'title,image_a,image_b\n"', "x.csv", "cannot be read as CSV"),
            (b"PAR1 no parquet PAR1", "x.parquet", "damaged"),
            (squeezed.getvalue()[:-40] + squeezed.getvalue()[-8:], "x.parquet", "damaged"),
            (squeezed.getvalue(), "x.parquet", "more than 20000 bytes when unpacked"),
            (nested.getvalue(), "x.parquet", "more than 20000 bytes when unpacked"),
            (b"\n\n", "x.jsonl", "empty"),
            (b",".join([b"c"] * 300), "x.csv", "more than 256 columns"),
            (b"title,image_a,image_b\n" + b"L,a,a\n" * 6, "x.csv", "more than 5 rows"),
            (b"{}\n" * 6, "x.jsonl", "more than 5 rows"),
            (b'{"c": 1}\n' * 5, "x.jsonl", "column 'title'"),
            (json.dumps({f"c{i}": 1 for i in range(300)}).encode(), "x.jsonl", "more than 256 columns"),
        ]:
            job = finish(client, table, name=name)
            assert job["state"] == "failed"
            assert words in job["error"], job["error"]
            assert str(tmp_path) not in job["error"]
            assert client.get(f"/v1/batch/{job['id']}/verdicts").status_code == 409


def test_archives_that_share_bytes_or_hold_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = archive({f"{i}.png": bytes(900) for i in range(100)})
    table = "title,image_a,image_b\nL,1.png,2.png\n"
    with service(tmp_path, max_table_bytes=20_000) as (client, _):
        assert "more than 80000 bytes when unpacked" in finish(client, table, images=many)["error"]
        monkeypatch.setattr("countryreward.serving.durable_jobs.batch.batch_table.MAX_FILES", 99)
        assert "more than 99 files" in finish(client, table, images=many)["error"]
        broken = IMAGES.replace(b"PK\x01\x02", b"PK\x01\x03")
        assert "damaged" in finish(client, table, images=broken)["error"]


def test_a_table_without_rows_is_done_at_once(tmp_path: Path) -> None:
    with service(tmp_path) as (client, _):
        job = finish(client, HEADER)
        assert (job["state"], job["rows"], job["judged"], job["quarantined"]) == ("done", 0, 0, 0)
        assert len(frame(client, job)) == 0
        csv = client.get(f"/v1/batch/{job['id']}/verdicts", params={"format": "csv"}).text
        assert csv.startswith("row,row_id,product_id,market,choice")


def test_csv_runs_no_formula(tmp_path: Path) -> None:
    cells = ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", "plain", "a=b"]
    rows = [
        {"row_id": f"{cell}{i}", "title": "L", "image_a": "a.png", "image_b": "b.png"} for i, cell in enumerate(cells)
    ]
    table = "".join(json.dumps(row) + "\n" for row in rows)
    with service(tmp_path) as (client, _):
        job = finish(client, table, name="x.jsonl", data={"markets": "KR"})
        answer = client.get(f"/v1/batch/{job['id']}/verdicts?format=csv")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == f'attachment; filename="{job["id"]}.csv"'
        told = pd.read_csv(io.StringIO(answer.text))
        assert told["row_id"].tolist() == ["'=HYPERLINK(1)0", "'+11", "'-12", "'@x3", "'\tx4", "plain5", "a=b6"]
        assert (told["log_odds"][0], told["note"][0]) == (-1.5, "'=1+1")
        assert client.get(f"/v1/batch/{job['id']}/verdicts?format=xls").status_code == 422


def test_a_job_is_its_tenants_alone(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "my-key-0001"}
    with service(tmp_path) as (client, jobs):
        job = finish(client, HEADER + GOOD.format(1), headers=key)
        other = {"X-Tenant": "../acme"}
        for call, path in [("GET", ""), ("GET", "/verdicts"), ("GET", "/quarantine"), ("DELETE", "")]:
            theirs = client.request(call, f"/v1/batch/{job['id']}{path}", headers=other)
            nobodys = client.request(call, f"/v1/batch/b-0000000000000000{path}", headers=other)
            assert (theirs.status_code, theirs.text) == (nobodys.status_code, nobodys.text) == (404, theirs.text)
        assert client.get("/v1/batch", headers=other).json()["jobs"] == []
        second = send(client, HEADER, headers={**other, **key}).json()["job"]
        assert second["id"] != job["id"]
        assert [found["id"] for found in client.get("/v1/batch").json()["jobs"]] == [job["id"]]
        for odd in ("..", "%2e%2e", "b-x", ".trash-1", "b-0000000000000000%2f..%2f"):
            assert client.get(f"/v1/batch/{odd}/verdicts").status_code == 404
        assert all(path.parent == jobs.store.root for path in jobs.store.root.glob("*/"))


def test_a_key_names_one_job(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "my-key-0001"}
    with service(tmp_path, running=False, max_jobs=2) as (client, _):
        first = send(client, HEADER, headers=key).json()["job"]
        assert send(client, HEADER, name="other.csv", headers=key).json()["job"]["id"] == first["id"]
        for other in [
            send(client, HEADER + GOOD.format(1), headers=key),
            send(client, HEADER, images=None, headers=key),
            send(client, HEADER, headers=key, data={"markets": "KR"}),
            send(client, HEADER, name="x.tsv", headers=key),
        ]:
            assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
        assert send(client, HEADER).json()["job"]["id"] != first["id"]
        full = send(client, HEADER)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "quota")
        assert send(client, HEADER, headers=key).status_code == 202  # a repeated call is no new job
        assert send(client, HEADER, headers={"X-Tenant": "beta"}).status_code == 202


def test_replicas_that_get_the_same_call_at_once_make_one_job(tmp_path: Path) -> None:
    stores = [JobStore(config(tmp_path, max_jobs=1)) for _ in range(8)]
    made, gate = [], threading.Barrier(8)

    def post(store: JobStore, key: str | None) -> None:
        gate.wait()
        try:
            made.append(create_job(store, tenant="acme", ending="csv", table=io.BytesIO(b"x"), key=key).id)
        except Problem as problem:
            made.append(problem.code)

    for key, expected in [("key-00000001", dict.fromkeys(["b-"], 8)), (None, {"quota": 8})]:
        made.clear()
        threads = [threading.Thread(target=post, args=(store, key)) for store in stores]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert Counter(name[:2] if key else name for name in made) == expected
        assert len(set(made)) == 1
    left = sorted(path.name[:2] for path in (stores[0].root / "acme").iterdir())
    assert left == [".l", "b-"]  # the lock and one job: nothing half made


def test_cancel_while_it_runs_and_while_it_waits(tmp_path: Path) -> None:
    table = HEADER + "".join(GOOD.format(i) for i in range(200))
    with service(tmp_path, scorer := Literal(pause_s=0.05)) as (client, jobs):
        running, waiting = (send(client, table).json()["job"]["id"] for _ in range(2))
        wait(client, running, "running")
        while not scorer.asked:
            time.sleep(0.01)
        early = client.get(f"/v1/batch/{waiting}/verdicts")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "conflict")
        for job_id in (waiting, running):
            assert client.delete(f"/v1/batch/{job_id}").status_code == 204
            assert client.get(f"/v1/batch/{job_id}").json()["job"]["state"] == "cancelled"
        for folder in (jobs.store.root / "acme").glob("b-*"):
            for _ in range(1_000):
                if not (folder / "table.csv").exists() and not (folder / "work").exists():
                    break
                time.sleep(0.01)
            assert {path.name for path in folder.iterdir()} <= {"job.json", "lease", "cancel"}
        finish(client, HEADER)  # the runner goes on
        assert len(scorer.asked) < 200
        assert client.delete(f"/v1/batch/{running}").status_code == 204
        assert client.get(f"/v1/batch/{running}").status_code == 404


def test_a_finished_job_is_removed_on_demand(tmp_path: Path) -> None:
    with service(tmp_path) as (client, _):
        job = finish(client, HEADER + GOOD.format(1))
        for _ in range(100):  # its runner may hold it for another moment
            client.delete(f"/v1/batch/{job['id']}")
            if client.get(f"/v1/batch/{job['id']}").status_code == 404:
                break
            time.sleep(0.01)
        assert not list((tmp_path / "state" / "jobs" / "acme").glob("*b-*"))


def test_what_is_past_its_time_is_removed(tmp_path: Path) -> None:
    clock = [dt.datetime(2026, 4, 1, tzinfo=dt.UTC)]
    with service(tmp_path, now=lambda: clock[0], retention_hours=24) as (client, jobs):
        job = finish(client, HEADER + GOOD.format(1))
        assert (job["finished"], job["deleted_after"]) == ("2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z")
        place = jobs.store.root / "acme"
        (place / ".new-1").mkdir()
        (place / ".trash-1").mkdir()
        clock[0] += dt.timedelta(hours=23)
        jobs.store.sweep()
        assert client.get(f"/v1/batch/{job['id']}").status_code == 200
        assert not list(place.glob(".new-*")) + list(place.glob(".trash-*"))
        clock[0] += dt.timedelta(hours=2)
        while client.get(f"/v1/batch/{job['id']}").status_code == 200:
            jobs.store.sweep()
    with service(tmp_path, now=lambda: clock[0], running=False) as (client, jobs):
        late = send(client, HEADER).json()["job"]["id"]
        clock[0] += dt.timedelta(days=8)
        jobs.store.sweep()
        told = client.get(f"/v1/batch/{late}").json()["job"]
        assert (told["state"], told["error"]) == ("failed", "the job waited too long; send the table again")
        assert not (place / late / "table.csv").exists()


def test_a_scorer_that_fails_is_asked_again_and_then_the_job_fails(tmp_path: Path) -> None:
    with service(tmp_path, Literal(failures=3)) as (client, _):
        assert finish(client, HEADER + GOOD.format(1))["judged"] == 1
    with service(tmp_path, Literal(failures=4)) as (client, _):
        job = finish(client, HEADER + GOOD.format(1))
        assert (job["state"], job["error"]) == (
            "failed",
            "the model did not answer in 4 tries; send the table again later",
        )


def test_a_job_that_never_gets_on_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(runner, "read_job", broken)
    with service(tmp_path) as (client, _):
        job = finish(client, HEADER)
        assert (job["state"], f"started {MAX_STARTS} times" in job["error"]) == ("failed", True)
        monkeypatch.undo()
        assert finish(client, HEADER)["state"] == "done"


def test_one_lease_at_a_time(tmp_path: Path) -> None:
    first = take_lease(tmp_path)
    assert first is not None
    assert take_lease(tmp_path) is None
    first.release()
    again = take_lease(tmp_path)
    assert again is not None
    again.release()
    assert take_lease(tmp_path / "gone") is None


def test_stop_leaves_the_job_to_the_next_start(tmp_path: Path) -> None:
    table = HEADER + "".join(GOOD.format(i) for i in range(300))
    with service(tmp_path, scorer := Literal(pause_s=0.02)) as (client, jobs):
        job_id = send(client, table).json()["job"]["id"]
        while len(scorer.asked) < 100:
            time.sleep(0.01)
    assert not cancelled(jobs.store.root / "acme" / job_id)
    with service(tmp_path, second := Literal()) as (client, _):
        job = wait(client, job_id)
        assert (job["state"], job["judged"]) == ("done", 300)
        assert frame(client, job)["row"].tolist() == list(range(300))
    assert len(second.asked) <= 300 - 64


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_batch_jobs import BatchJobs, Literal, config

async def main():
    jobs = BatchJobs(Literal(pause_s=0.02), config(Path(sys.argv[1])))
    await jobs.start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_killed_in_the_middle_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    lines = [GOOD.format(i) if i % 50 else f"r{i},p,Oak lamp,bad.png,b.png,KR\n" for i in range(600)]
    lines[599] = "r599,p,,a.png,b.png,KR\n"
    images = archive({"a.png": b"good a", "b.png": b"good b", "bad.png": b"bad"})
    with service(tmp_path, running=False) as (client, jobs):
        job_id = send(client, HEADER + "".join(lines), images=images).json()["job"]["id"]
        folder = jobs.store.root / "acme" / job_id
    script = KILLED.format(tests=str(Path(__file__).parent))
    for parts in (2, 5):  # killed twice, then finished by this process
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], env=os.environ | {"PYTHONPATH": _PATH}
        )
        try:
            deadline = time.monotonic() + 120
            while len(list(folder.glob("work/parts-*/*.parquet"))) < parts:
                assert process.poll() is None, "the replica ended by itself"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert take_lease(folder) is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert json.loads((folder / "job.json").read_text())["state"] == "running"
    with service(tmp_path, scorer := Literal()) as (client, _):
        job = wait(client, job_id)
        bad = [*range(0, 600, 50), 599]
        assert (job["state"], job["rows"], job["judged"], job["quarantined"]) == ("done", 600, 600 - len(bad), len(bad))
        assert job["reasons"] == {"undecodable_image": 12, "missing_value": 1}
        assert frame(client, job)["row"].tolist() == [i for i in range(600) if i not in bad]
        assert sorted(refused(client, job)) == bad
    assert len(scorer.asked) <= 600 - 5 * 64


_PATH = os.pathsep.join(path for path in sys.path if path)
