"""The Python client against a real server on this machine: the service's own app, with the failures that a test writes."""

import asyncio
import datetime as dt
import gc
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
import warnings
import zipfile
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send
from tenacity import RetryCallState, Retrying

from countryreward.client import AsyncClient, BadAnswer, Client, NotAllowed, Refused, RetryPolicy, Unavailable
from countryreward.client.retrying import AttemptFailed, CallRetries, RetryBudget, retry_after_s
from countryreward.errors import UserError
from countryreward.scoring.contracts import (
    Copy,
    Evidence,
    KnownResult,
    PairRequest,
    PastAd,
    Product,
    ScoreRequest,
    SideResult,
    Verdict,
)
from countryreward.scoring.frames import score_frame
from countryreward.serving.http.apps import create_app
from countryreward.serving.http.keys import Caller, KeyStore
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.service_config import ServiceConfig
from tests.unit.in_threads import ThreadedScorer, each_pair

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

KEY = "cr_live_0123456789abcdef"
PLATFORM = {"torch", "ray", "transformers", "faiss", "sklearn", "scipy", "cv2", "fastapi", "jsonargparse", "psutil"}
FAST = RetryPolicy(first_s=0.001, cap_s=0.01)
Part = Callable[[Send], Awaitable[None]]


class Judge:
    """Images are written as numbers, b"3" against b"1": A wins with 3 / (3 + 1). b"bad" is no image."""

    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]:
        return [[self._one(pair) for pair in each_pair(request)] for request in requests]

    def _one(self, asked: PairRequest) -> Verdict:
        if b"bad" in (asked.image_a, asked.image_b):
            raise UserError("image_a: cannot be decoded; send a PNG, JPEG or WEBP file")
        a, b = int(asked.image_a), int(asked.image_b)
        ad = PastAd(
            creative_id="c1",
            product_id="p1",
            title="灯",
            similarity=0.9,
            lift=0.1,
            value=0.02,
            impressions=10,
            image_row=0,
        )
        return Verdict(
            market=asked.market_code(),
            probability=a / (a + b),
            calibrated_probability=None,
            choice="A" if a > b else "B",
            log_odds=0.5,
            evidence=(Evidence(like_a=ad, like_b=ad, weight=1.0, vote=0.5),),
            past_ads=2,
            model_version="m1",
            knowledge_base_version="k1",
            note=json.dumps([asked.product.title, asked.product.category, asked.product.attributes, asked.product.tags])
            + str(asked.as_of),
        )


class OneKey(KeyStore):
    """Knows KEY."""

    def check(self, presented: str) -> Caller | None:
        return (
            Caller(key_id="1", tenant="t", scopes=("score", "batch"), rate="1000000/minute")
            if presented in (KEY, "from-the-environment")
            else None
        )


class Service:
    """What was asked, and how the next requests are answered; those that `script` says nothing of reach the app."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.script: deque[Part] = deque()
        self.jobs: dict[str, dict[str, Any]] = {}
        app = create_app(
            ThreadedScorer(Judge(), ("KR", "BR")),
            ServiceConfig(max_text=100),
            keys=OneKey(Path("/nowhere/keys.json"), 60),
            rates=Rates("memory://"),
        )
        _batches(app, self.jobs)
        self.app: Any = app
        self.base, self.test = "", 0

    @property
    def url(self) -> str:
        """Each test asks under an address of its own."""
        return f"{self.base}/{self.test}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, test, path = scope["path"].split("/", 2)
        if test != str(self.test):
            return  # asked by an earlier test that did not wait for the answer
        scope.update(path=f"/{path}", raw_path=f"/{path}".encode())
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)

        def again() -> Receive:
            left = deque([{"type": "http.request", "body": body}])

            async def receive_again() -> Message:
                return left.popleft() if left else {"type": "http.disconnect"}

            return receive_again

        request = Request(scope, again())
        form = (await request.form()).multi_items()
        self.seen.append(
            {
                "asked": f"{request.method} {request.url.path}",
                "headers": dict(request.headers),
                "fields": [(name, value) for name, value in form if isinstance(value, str)],
                "files": [(n, v.filename, await v.read()) for n, v in form if isinstance(v, UploadFile)],
            }
        )
        if self.script:
            await self.script.popleft()(send)
            return
        await self.app(scope, again(), send)

    def fields(self, name: str) -> list[list[str]]:
        """Of each request, the values of a form field."""
        return [[value for field, value in seen["fields"] if field == name] for seen in self.seen]


def _batches(app: FastAPI, jobs: dict[str, dict[str, Any]]) -> None:
    """Batch routes that answer from memory: waiting, running, done."""
    refused = {"table": "pairs", "row": 1, "reason": "missing_image", "field": "image_b", "way_out": "send it"}

    def told(name: str) -> JSONResponse:
        return JSONResponse({"request_id": "r-2", "job": jobs[name], "from_a_newer_service": True})

    @app.post("/v1/batch")
    async def start(request: Request) -> Response:
        name = "b-" + request.headers["idempotency-key"]
        jobs.setdefault(name, {"id": name, "state": "waiting", "created": "2026-01-01T00:00:00Z"})
        answer = told(name)
        answer.status_code = 202
        return answer

    @app.get("/v1/batch")
    def every() -> JSONResponse:
        return JSONResponse({"request_id": "r-2", "jobs": list(jobs.values())})

    @app.get("/v1/batch/{name}")
    def state(name: str) -> Response:
        if name not in jobs:
            raise Problem("not_found", "batch: there is no such job; it may have been deleted")
        job, after = jobs[name], {"waiting": "running", "running": "done"}
        answer = told(name)
        job["state"] = after.get(job["state"], job["state"])
        job |= {"rows": 2, "judged": 1, "quarantined": 1, "verdicts": 1}
        return answer

    @app.get("/v1/batch/{name}/verdicts")
    def verdicts(name: str, format: str) -> Response:
        table = io.BytesIO()
        pd.DataFrame({"row": [0], "market": ["KR"], "choice": ["A"]}).to_parquet(table, index=False)
        return Response(table.getvalue() if format == "parquet" else b"")

    @app.get("/v1/batch/{name}/quarantine")
    def quarantine(name: str) -> Response:
        return PlainTextResponse(json.dumps(refused) + "\n" if name == "b-1" else "")

    @app.delete("/v1/batch/{name}", status_code=204)
    def delete(name: str) -> None:
        if jobs.pop(name, None) is None:
            raise Problem("not_found", "batch: there is no such job; it may have been deleted")


def says(status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> Part:
    """This answer. Headers: Retry_After="1"."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]

    async def answer(send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": content})

    return answer


def error(status: int, code: str, message: str, **headers: str) -> Part:
    """An error as the service tells it."""
    return says(status, {"error": {"code": code, "message": message, "request_id": "r-9"}}, **headers)


async def cut(send: Send) -> None:
    """The connection ends in the middle of an answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})
    raise ConnectionResetError


async def slow(send: Send) -> None:
    """No answer for a while."""
    await asyncio.sleep(0.3)
    await says(200)(send)


async def trickle(send: Send) -> None:
    """An answer that keeps coming."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(30):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    service = Service()
    listening = socket.create_server(("127.0.0.1", 0))
    service.base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(service, lifespan="off", log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield service
    server.should_exit = server.force_exit = True
    thread.join()
    listening.close()


@pytest.fixture
def service(running: Service) -> Service:
    for kept in (running.seen, running.script, running.jobs):
        kept.clear()
    running.test += 1
    return running


class Awaited:
    """An asynchronous client or handle with the manners of the other, so that one test holds for both."""

    def __init__(self, asynchronous: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._it, self._loop = asynchronous, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._it, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            result = self._loop.run_until_complete(found(*args, **options))
            if type(result).__name__ == "AsyncBatchHandle":
                return Awaited(result, self._loop)
            if isinstance(result, list) and result and type(result[0]).__name__ == "AsyncBatchHandle":
                return [Awaited(one, self._loop) for one in result]
            return result

        return call

    def __repr__(self) -> str:
        return repr(self._it)


@pytest.fixture(params=["blocking", "awaited"])
def client(request: pytest.FixtureRequest, service: Service) -> Iterator[Callable[..., Any]]:
    """`client(**options)`: of either kind."""
    made: list[Any] = []
    loop = asyncio.new_event_loop()

    def make(**options: Any) -> Any:
        options = {"url": service.url, "key": KEY, "retries": FAST} | options
        made.append(Client(**options) if request.param == "blocking" else Awaited(AsyncClient(**options), loop))
        return made[-1]

    yield make
    for one in made:
        one.close()
    loop.close()


def ask(title: str, a: bytes, b: bytes, market: str, as_of: dt.date | None = None) -> PairRequest:
    return PairRequest(product=Product(title=title), image_a=a, image_b=b, market=market, as_of=as_of)


def shares(verdicts: Sequence[Verdict]) -> list[tuple[str, float]]:
    return [(verdict.market, verdict.probability) for verdict in verdicts]


class TestQuestions:
    def test_requests_are_grouped_and_answered_in_order(self, service: Service, client: Callable[..., Any]) -> None:
        asked = [
            ask("Lamp", b"3", b"1", "South Korea"),
            ask("Sofa", b"3", b"1", "KR"),
            ask("Lamp", b"3", b"1", "BR"),
            ask("Lamp", b"1", b"3", "KR"),
            ask("Lamp", b"3", b"1", "KR"),  # once more: it is not sent again
            ask("Lamp", b"3", b"1", "KR", dt.date(2026, 5, 1)),
        ]
        verdicts = client().score(asked)
        assert shares(verdicts) == [("KR", 0.75), ("KR", 0.75), ("BR", 0.75), ("KR", 0.25), ("KR", 0.75), ("KR", 0.75)]
        assert [verdict.note[:7] for verdict in verdicts] == [
            '["Lamp"',
            '["Sofa"',
            '["Lamp"',
            '["Lamp"',
            '["Lamp"',
            '["Lamp"',
        ]
        assert verdicts[5].note.endswith("2026-05-01")
        assert sorted(service.fields("markets")) == [["KR"], ["KR"], ["KR"], ["KR", "BR"]]

    def test_at_most_so_many_markets_in_a_call(self, service: Service, client: Callable[..., Any]) -> None:
        markets = ["KR", "BR", "DE", "FR", "US"]
        verdicts = client(max_verdicts=2).score([ask("Lamp", b"3", b"1", market) for market in markets])
        assert [verdict.market for verdict in verdicts] == markets
        assert sorted(service.fields("markets")) == [["DE", "FR"], ["KR", "BR"], ["US"]]

    def test_a_verdict_is_whole(self, service: Service, client: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "secret name.png").write_bytes(b"3")
        product = Product(title="灯", category="Lighting", attributes={"Material": "oak"}, tags=["warm", "a;b"])
        (verdict,) = client().score(product, tmp_path / "secret name.png", b"1", markets=["KR"])
        local = Judge().score([ScoreRequest.of_images(product, (b"3", b"1"), markets=("KR",))])
        assert [[verdict]] == local
        assert service.seen[0]["files"] == [("image_a", "image_a", b"3"), ("image_b", "image_b", b"1")]
        assert service.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"
        assert service.fields("evidence") == [["5"]]

    def test_words_and_known_results_are_sent(self, service: Service, client: Callable[..., Any]) -> None:
        words = [Copy(headline="Warm light", tags=("eve", "oak")), None]
        client().score("Lamp", b"3", b"3", markets=["KR"], copies=words)
        client().rank("Lamp", [b"1", b"3"], ["KR"], copies=words)
        known = KnownResult(market="US", kind="votes", a=SideResult(votes=3), b=SideResult(votes=1), pair=(1, 0))
        request = ScoreRequest.of_ads(
            Product(title="Lamp"), (b"1", b"3"), [None, words[0]], markets=("KR",), known=(known,)
        )
        judge = client()
        (verdict,) = judge.score([request])[0] if isinstance(judge, Client) else judge.score(request)
        assert verdict.known_used is False  # the judge of these tests says nothing of it
        assert service.fields("headline_a") == [["Warm light"], [], []]
        assert service.fields("headline_b") == [[], [], ["Warm light"]]
        assert service.fields("tags_a") == [["eve", "oak"], [], []]
        assert service.fields("copies") == [[], ['[{"headline":"Warm light","tags":["eve","oak"]},null]'], []]
        turned = '[{"pair":[0,1],"market":"US","kind":"votes","a":{"votes":1},"b":{"votes":3},"delivery":"unknown"}]'
        assert service.fields("known") == [[], [], [turned]]

    def test_each_image_has_words_or_none(self, service: Service, client: Callable[..., Any]) -> None:
        with pytest.raises(UserError, match="copies: 1 for 2 images; give one for each image"):
            client().rank("Lamp", [b"1", b"3"], ["KR"], copies=[None])
        assert service.seen == []

    def test_markets_default_to_those_of_the_model(self, service: Service, client: Callable[..., Any]) -> None:
        judge = client()
        assert shares(judge.score("Lamp", b"3", b"1")) == [("KR", 0.75), ("BR", 0.75)]
        assert [ranking.market for ranking in judge.rank("Lamp", [b"1", b"3"])] == ["KR", "BR"]
        assert judge.markets() == {"KR": "South Korea", "BR": "Brazil"}
        assert judge.models() == [{"model": None, "knowledge_base": None}]

    def test_nothing_asked_nothing_sent(self, service: Service, client: Callable[..., Any]) -> None:
        judge = client()
        assert judge.score([]) == judge.score("Lamp", b"3", b"1", markets=[]) == judge.rank("Lamp", [b"1"], []) == []
        assert service.seen == []

    def test_rank(self, service: Service, client: Callable[..., Any]) -> None:
        rankings = client(max_verdicts=7).rank("Lamp", [b"1", b"3", b"2"], ["KR", "BR", "DE", "KR"])
        assert [(ranking.market, ranking.order) for ranking in rankings] == [
            ("KR", (1, 2, 0)), ("BR", (1, 2, 0)), ("DE", (1, 2, 0)), ("KR", (1, 2, 0)),
        ]  # fmt: skip
        assert [(a, b, verdict.probability) for a, b, verdict in rankings[0].verdicts] == [
            (0, 1, 0.25), (0, 2, 1 / 3), (1, 2, 0.6),
        ]  # fmt: skip
        assert sorted(service.fields("markets")) == [["DE"], ["KR", "BR"]]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (("Lamp", "nowhere.png", b"1", ["KR"]), "image_a: nowhere.png cannot be read"),
            (("Lamp", b"1", 7, ["KR"]), "image_b: int is neither bytes nor a path"),
            (("Lamp", b"1", b"3", ["Atlantis"]), "markets: 'Atlantis' is no country"),
            (("Lamp", b"1", b"3", "KR"), "markets: 'KR' is a text; give a list"),
            ((" ", b"1", b"3", ["KR"]), "product.title: it is empty"),
            (("\ud800", b"1", b"3", ["KR"]), "title: '\\ud800' holds a character that is no Unicode"),
            ((Product(title="a", attributes={"n": 3}), b"1", b"3", ["KR"]), "attributes: 3 is no text"),  # pyright: ignore
        ],
    )
    def test_what_is_wrong_is_said_before_anything_is_sent(
        self, service: Service, client: Callable[..., Any], given: tuple[Any, ...], message: str
    ) -> None:
        product, a, b, markets = given
        with pytest.raises(UserError) as caught:
            client().score(product, a, b, markets=markets)
        assert str(caught.value).startswith(message)
        asked = ["GET /v1/markets"] if markets == ["Atlantis"] else []  # it might be a market of the service's own
        assert [request["asked"] for request in service.seen] == asked

    def test_frame_with_bad_rows(self, service: Service, client: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"4")
        frame = pd.DataFrame(
            {
                "title": ["Lamp", "Sofa", "Rug", "Bed", "L" * 200],
                "image_a": [b"3", b"bad", str(tmp_path / "a.png"), str(tmp_path / "gone.png"), b"1"],
                "image_b": [b"1", b"1", b"1", b"1", b"1"],
                "attributes": [{"Material": "oak"}, None, None, None, None],
            },
            index=[10, 11, 12, 13, 14],
        )
        answers = client().score_frame(frame, markets=["KR", "BR"], progress=False)
        assert answers["row"].tolist() == [10, 10, 11, 11, 12, 12, 13, 14, 14]
        assert answers["market"].tolist()[:6] == ["KR", "BR", "KR", "BR", "KR", "BR"]
        assert answers["probability"].tolist()[:2] == [0.75, 0.75]
        assert answers["probability"].tolist()[4:6] == [0.8, 0.8]
        refused = answers["refused"].tolist()
        assert answers["refused"].isna().tolist() == [True, True, False, False, True, True, False, False, False]
        assert refused[2] == refused[3]
        assert refused[2].startswith("image_a: it was refused")
        assert refused[6].startswith(f"image_a: {tmp_path}/gone.png cannot be read")
        assert refused[7].startswith("title: longer than 100 characters; shorten it (invalid_input, request ")
        assert (
            len(service.seen) == 4
        )  # a refused row is asked once, with all its markets; one that cannot be read never

    def test_frame_is_answered_as_by_a_local_scorer(self, client: Callable[..., Any]) -> None:
        rows = [
            ("Lamp", b"3", b"1", "KR"),
            ("Sofa", b"bad", b"1", "BR"),
            ("", b"3", b"1", "KR"),
            ("Rug", b"1", b"3", "DE"),
        ]
        frame = pd.DataFrame(rows, columns=["title", "image_a", "image_b", "market"])
        found, local = client().score_frame(frame, progress=False), score_frame(Judge(), frame)
        assert found["refused"].notna().tolist() == [False, True, True, False]
        pd.testing.assert_frame_equal(found.drop(columns="refused"), local.drop(columns="refused"))
        assert found["refused"][2] == local["refused"][2]
        one_by_one = score_frame(Judge(), frame, batch_size=1)
        pd.testing.assert_frame_equal(one_by_one, local)

    def test_frame_does_not_go_on_with_a_wrong_key(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.extend([error(401, "invalid_key", "this API key is not known")] * 2)
        frame = pd.DataFrame({"title": ["a", "b"], "image_a": [b"1", b"2"], "image_b": [b"3", b"3"]})
        with pytest.raises(NotAllowed):
            client().score_frame(frame, markets=["KR"], progress=False)

    def test_threads_do_not_wait_for_each_others_calls(self, service: Service) -> None:
        meet = threading.Barrier(6)  # all six are in flight at once, or nobody gets on

        async def together(send: Send) -> None:
            await asyncio.to_thread(meet.wait, 30)
            await says(200, {"markets": [{"code": "KR", "name": "South Korea"}], "request_id": "r"})(send)

        service.script.extend([together] * 6)
        with Client(service.url, KEY, retries=FAST, parallel=1) as judge, ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(lambda _: judge.markets(), range(6)))
        assert answers == [{"KR": "South Korea"}] * 6

    def test_eight_threads_share_a_client(self, service: Service) -> None:
        service.script.extend([cut, says(503), says(500)])
        with Client(service.url, KEY, retries=FAST) as judge, ThreadPoolExecutor(8) as threads:
            asked = [[ask(f"{i}", str(i + 1).encode(), b"1", m) for m in ("KR", "BR")] for i in range(40)]
            found = list(threads.map(lambda pairs: judge.score(pairs), asked))
        assert [shares(verdicts)[0] for verdicts in found] == [("KR", (i + 1) / (i + 2)) for i in range(40)]
        assert len(service.seen) == 43


class TestFailures:
    @pytest.mark.parametrize("failure", [cut, says(503), *map(says, (408, 429, 500, 502, 504)), says(502, b"<html>")])
    def test_what_may_pass_is_asked_again(self, service: Service, client: Callable[..., Any], failure: Part) -> None:
        service.script.append(failure)
        assert shares(client().score([ask("Lamp", b"3", b"1", "KR")])) == [("KR", 0.75)]
        assert [seen["files"] for seen in service.seen] == [
            [("image_a", "image_a", b"3"), ("image_b", "image_b", b"1")]
        ] * 2

    @pytest.mark.parametrize(
        ("status", "kind"), [(400, Refused), (401, NotAllowed), (403, NotAllowed), (404, Refused), (405, Refused),
                             (409, Refused), (413, Refused), (422, Refused), (501, BadAnswer)]
    )  # fmt: skip
    def test_what_does_not_pass_is_not(
        self, service: Service, client: Callable[..., Any], status: int, kind: type[Exception]
    ) -> None:
        service.script.append(error(status, "some_code", "field: wrong; do this"))
        with pytest.raises(kind, match=r"field: wrong; do this.*request r-9") as caught:
            client().score([ask("Lamp", b"3", b"1", "KR")])
        assert len(service.seen) == 1
        if isinstance(caught.value, Refused | NotAllowed):
            assert isinstance(caught.value, UserError)
            copied = pickle.loads(pickle.dumps(caught.value))
            assert (copied.code, copied.status, copied.request_id) == ("some_code", status, "r-9")

    def test_the_first_refusal_of_several_is_raised(self, service: Service, client: Callable[..., Any]) -> None:
        with pytest.raises(Refused, match="title: longer than 100"):
            client().score([ask("a", b"3", b"1", "KR"), ask("L" * 200, b"3", b"1", "KR"), ask("b", b"bad", b"1", "KR")])

    def test_given_up_after_five_retries(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.extend([error(503, "busy", "more is asked than can be answered now")] * 7)
        with pytest.raises(Unavailable, match="more is asked") as caught:
            client().score([ask("Lamp", b"3", b"1", "KR")])
        told = caught.value
        assert (told.attempts, told.status, told.request_id, len(service.seen)) == (6, 503, "r-9", 6)
        assert "POST v1/score: given up after 6 attempts, its 5 retries used up" in str(told)

    def test_who_waits_as_told_is_not_at_the_end_of_its_tries(
        self, service: Service, client: Callable[..., Any]
    ) -> None:
        service.script.extend([error(503, "busy", "more is asked", Retry_After="0")] * 9)
        assert shares(client().score([ask("Lamp", b"3", b"1", "KR")])) == [("KR", 0.75)]
        assert len(service.seen) == 10
        service.script.append(error(503, "busy", "more is asked", Retry_After="0"))
        with pytest.raises(Unavailable, match="its 0 retries used up"):
            client(retries=RetryPolicy(at_most=0)).markets()

    def test_nobody_there(self, client: Callable[..., Any]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            judge = client(url=f"http://127.0.0.1:{taken.getsockname()[1]}")
            with pytest.raises(Unavailable, match="ConnectError") as caught:
                judge.markets()
        assert (caught.value.attempts, caught.value.status) == (6, None)

    def test_a_dead_service_is_not_stormed(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.extend([says(500)] * 100)
        judge = client(retries=RetryPolicy(first_s=0.001, cap_s=0.01, budget=7))
        for _ in range(4):
            with pytest.raises(Unavailable) as caught:
                judge.markets()
        assert len(service.seen) == 4 + 7
        assert "the client's budget of retries used up" in str(caught.value)
        service.script.clear()
        for _ in range(5):
            judge.markets()  # each earns a fifth of a retry
        service.script.append(says(500))
        assert judge.markets() == {"KR": "South Korea", "BR": "Brazil"}

    def test_a_killed_replica_takes_all_that_was_in_flight(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.extend([cut] * 32)
        asked = [ask(f"{i}", b"3", b"1", "KR") for i in range(32)]
        assert shares(client(parallel=32).score(asked)) == [("KR", 0.75)] * 32
        assert len(service.seen) == 64

    def test_a_rate_limit_costs_no_budget(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.extend([error(429, "rate_limited", "wait", Retry_After="0")] * 3)
        assert client(retries=RetryPolicy(first_s=0.001, cap_s=0.01, budget=0)).markets()
        assert len(service.seen) == 4

    def test_asked_to_wait_beyond_the_deadline(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.append(error(503, "busy", "later", Retry_After="3600"))
        with pytest.raises(Unavailable, match=r"its 60 s used up.*asks to wait 3600 s") as caught:
            client().markets()
        assert (caught.value.attempts, len(service.seen)) == (1, 1)

    def test_slow_answers_are_asked_again_until_the_deadline(
        self, service: Service, client: Callable[..., Any]
    ) -> None:
        service.script.append(slow)
        assert client(timeout_s=0.05).markets()
        service.script.extend([slow] * 6)
        with pytest.raises(Unavailable, match="ReadTimeout"):
            client(retries=RetryPolicy(first_s=0.001, deadline_s=0.1)).markets()

    def test_an_answer_that_trickles_ends_at_the_deadline(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.extend([trickle] * 6)
        with pytest.raises(Unavailable, match=r"did not end within 0.1 s"):
            client(retries=RetryPolicy(first_s=0.001, deadline_s=0.1)).markets()

    @pytest.mark.parametrize(
        "body", [b"<html>fine</html>", b"", b"[]", b'{"request_id": "r-3", "markets": 7}', b'{"markets": []}', b"\xff"]
    )
    def test_another_server_answers(self, service: Service, client: Callable[..., Any], body: bytes) -> None:
        service.script.append(says(200, body, X_Request_ID="r-3"))
        with pytest.raises(BadAnswer, match="request r-3") as caught:
            client().markets()
        assert "fine" not in str(caught.value)

    def test_verdicts_of_other_markets(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.append(says(200, {"request_id": "r-4", "verdicts": []}))
        with pytest.raises(BadAnswer, match="markets: the service answered 0 markets"):
            client().score([ask("Lamp", b"3", b"1", "KR")])

    def test_a_page_of_another_server_is_not_repeated(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.append(says(404, b"<html>nginx</html>"))
        with pytest.raises(Refused, match="url: not an answer of a CountryReward service") as caught:
            client().markets()
        assert "nginx" not in str(caught.value)

    def test_a_newer_service(self, service: Service, client: Callable[..., Any]) -> None:
        market = {"code": "KR", "name": "South Korea", "continent": "Asia"}
        service.script.append(says(200, {"request_id": "r-5", "markets": [market], "planet": "Earth"}))
        assert client().markets() == {"KR": "South Korea"}


class TestRetries:
    def test_waits(self) -> None:
        retries = CallRetries("GET x", RetryPolicy(), RetryBudget(RetryPolicy(), 4), timeout_s=30)

        def waits(attempt: int, retry_after: float | None) -> list[float]:
            state = RetryCallState(Retrying(), None, (), {})
            state.attempt_number = attempt
            failed = AttemptFailed("busy", retry_after_s=retry_after)
            state.set_exception((AttemptFailed, failed, None))
            return [retries.tenacity_options()["wait"](state) for _ in range(2_000)]

        for attempt, most in ((1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (9, 8.0)):
            found = waits(attempt, None)
            assert 0 <= min(found) < 0.05 * most
            assert 0.95 * most < max(found) <= most
        assert 7 <= min(waits(1, 7.0)) < max(waits(1, 7.0)) <= 7.5

    @pytest.mark.parametrize(
        ("header", "found"),
        [("7", 7), (" 0 ", 0), (None, None), ("", None), ("soon", None), ("-1", None), ("nan", None), ("1e3", None),
         ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
    )  # fmt: skip
    def test_retry_after(self, header: str | None, found: float | None) -> None:
        assert retry_after_s(header) == found

    def test_retry_after_as_a_date(self) -> None:
        later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3_600))
        assert 3_500 < (retry_after_s(later) or 0) <= 3_600

    def test_options_are_checked(self) -> None:
        with pytest.raises(UserError, match=r"retries\.at_most: -1 must be 0 or more"):
            RetryPolicy(at_most=-1)
        with pytest.raises(UserError, match="parallel: 0 must be at least 1"):
            Client("https://a", "k", parallel=0)
        with pytest.raises(UserError, match=r"retries\.deadline_s: nan must be above 0"):
            RetryPolicy(deadline_s=float("nan"))


class TestKey:
    def test_it_goes_to_no_other_host(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.append(says(307, Location=service.url.replace("127.0.0.1", "localhost") + "/v1/markets"))
        with pytest.raises(Refused, match="url: it leads elsewhere"):
            client().markets()
        assert len(service.seen) == 1

    @pytest.mark.parametrize("failure", [error(401, "invalid_key", "unknown"), says(302), says(200, b"{}"), says(400)])
    def test_it_is_in_no_message(self, service: Service, client: Callable[..., Any], failure: Part) -> None:
        service.script.append(failure)
        judge = client()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each kind has its own test
            judge.markets()
        told = [
            repr(judge),
            str(caught.value),
            repr(caught.value),
            repr(vars(caught.value)),
            repr(caught.value.__cause__),
        ]
        assert KEY not in " ".join(told)

    def test_a_broken_key_is_not_repeated(self, client: Callable[..., Any]) -> None:
        for broken in ("cr_live\n12", "cr live", "schlüssel-cr"):
            with pytest.raises(UserError, match="key: it holds a character that no key has") as caught:
                client(key=broken)
            assert broken not in str(caught.value)

    def test_from_the_environment(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COUNTRYREWARD_URL", service.url + "/")
        monkeypatch.setenv("COUNTRYREWARD_KEY", "from-the-environment")
        with Client() as judge:
            assert judge.markets()
        assert service.seen[0]["headers"]["authorization"] == "Bearer from-the-environment"
        monkeypatch.delenv("COUNTRYREWARD_KEY")
        with pytest.raises(UserError, match="key: it is missing; give your API key or set COUNTRYREWARD_KEY"):
            Client()
        monkeypatch.delenv("COUNTRYREWARD_URL")
        with pytest.raises(UserError, match="url: it is missing"):
            Client(key="k")

    @pytest.mark.parametrize(
        "url", ["example.com", "ftp://a", "https://", "https://u:p@a", "https://a?k=1", "http://a:x"]
    )
    def test_addresses_that_are_none(self, client: Callable[..., Any], url: str) -> None:
        with pytest.raises(UserError, match="url: it"):
            client(url=url)

    def test_in_the_clear(self, client: Callable[..., Any]) -> None:
        with pytest.warns(UserWarning, match=r"go to example\.com unencrypted"):
            client(url="http://example.com")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for url in ("https://example.com", "http://localhost:1", "http://127.0.0.1", "http://[::1]:80"):
                client(url=url)

    def test_a_path_before_the_routes(self, service: Service, client: Callable[..., Any]) -> None:
        with pytest.raises(Refused):
            client(url=service.url + "/ads").markets()
        assert service.seen[0]["asked"] == "GET /ads/v1/markets"


class TestBatch:
    def test_the_whole_way(self, service: Service, client: Callable[..., Any], tmp_path: Path) -> None:
        table = tmp_path / "pairs of 2026.csv"
        table.write_text("title,image_a,image_b\nLamp,a.png,b.png\n")
        with zipfile.ZipFile(tmp_path / "ads.zip", "w") as pack:
            pack.writestr("a.png", b"3")
        judge = client()
        handle = judge.batch(str(table), tmp_path / "ads.zip", markets=["South Korea", "BR"], idempotency_key="1")
        sent = service.seen[0]
        assert (sent["asked"], sent["headers"]["idempotency-key"]) == ("POST /v1/batch", "1")
        assert sent["fields"] == [("markets", "KR"), ("markets", "BR")]
        assert sent["files"] == [
            ("table", "table.csv", table.read_bytes()),
            ("images", "images.zip", (tmp_path / "ads.zip").read_bytes()),
        ]
        assert (handle.id, handle.job.state) == ("b-1", "waiting")
        assert handle.state().state == "waiting"
        assert handle.wait(progress=False, poll_s=0.001).state == "done"
        assert (handle.job.rows, handle.job.judged, handle.job.quarantined) == (2, 1, 1)
        assert handle.verdicts().to_dict("records") == [{"row": 0, "market": "KR", "choice": "A"}]
        assert handle.quarantine()[["row", "reason"]].to_dict("records") == [{"row": 1, "reason": "missing_image"}]
        assert [one.id for one in judge.batches()] == ["b-1"]
        assert judge.open_batch("b-1").job.state == "done"
        handle.delete()
        with pytest.raises(Refused, match="batch: there is no such job") as caught:
            handle.state()
        assert caught.value.status == 404

    def test_one_key_over_all_retries(self, service: Service, client: Callable[..., Any]) -> None:
        service.script.extend([cut, says(503), says(500)])
        frame = pd.DataFrame({"title": ["Lamp"], "image_a": [b"3"], "image_b": [b"1"]})
        judge = client()
        assert judge.batch(frame).job.state == "waiting"
        keys = [seen["headers"]["idempotency-key"] for seen in service.seen]
        assert (len(keys), len(set(keys)), len(keys[0])) == (4, 1, 32)
        assert len({seen["files"][0][2] for seen in service.seen}) == 1  # the file was read anew each time, whole
        judge.batch(frame)
        assert service.seen[-1]["headers"]["idempotency-key"] != keys[0]

    def test_a_frame_becomes_parquet(self, service: Service, client: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"4")
        frame = pd.DataFrame(
            {
                "title": ["Lamp", "Rug"],
                "image_a": [tmp_path / "a.png", b"2"],
                "image_b": [b"1", None],
                "attributes": [{"Material": "oak"}, None],
                "tags": [["warm", "a;b"], np.array(["new"])],
            },
            index=["x", "y"],
        )
        client().batch(frame)
        ((field, name, content),) = service.seen[0]["files"]
        assert (field, name) == ("table", "table.parquet")
        found = pd.read_parquet(io.BytesIO(content)).astype(object)
        assert found.where(found.notna(), None).to_dict("records") == [
            {
                "title": "Lamp",
                "image_a": b"4",
                "image_b": b"1",
                "attributes": '{"Material": "oak"}',
                "tags": '["warm", "a;b"]',
            },
            {"title": "Rug", "image_a": b"2", "image_b": None, "attributes": None, "tags": '["new"]'},
        ]
        assert frame["tags"].tolist()[0] == ["warm", "a;b"]  # the caller's own is left alone

    def test_a_folder_becomes_a_zip(self, service: Service, client: Callable[..., Any], tmp_path: Path) -> None:
        (tmp_path / "ads" / "kr").mkdir(parents=True)
        for name in ("b.PNG", "kr/a.webp", "passwords.txt"):
            (tmp_path / "ads" / name).write_bytes(name.encode())
        frame = pd.DataFrame({"title": ["Lamp"], "image_a": ["b.PNG"], "image_b": ["kr/a.webp"]})
        for _ in range(2):
            client().batch(frame, tmp_path / "ads")
        first, second = (seen["files"][1] for seen in service.seen)
        assert first == second
        assert first[:2] == ("images", "images.zip")
        with zipfile.ZipFile(io.BytesIO(first[2])) as pack:
            assert {name: pack.read(name) for name in pack.namelist()} == {"b.PNG": b"b.PNG", "kr/a.webp": b"kr/a.webp"}

    def test_what_cannot_be_sent(self, service: Service, client: Callable[..., Any], tmp_path: Path) -> None:
        named = pd.DataFrame({"title": ["Lamp"], "image_a": ["a.png"], "image_b": ["b.png"]})
        (tmp_path / "empty").mkdir()
        judge = client()
        for given, message in (
            ((named,), "images: column image_a names files; give the folder or the zip they are in"),
            ((named, tmp_path / "empty"), f"images: {tmp_path}/empty is neither a zip nor a folder"),
            ((named.drop(columns="title"),), "table: it lacks the column title; it has image_a, image_b"),
            ((named.assign(image_a=b"1", image_b=b"1", price=[1j]),), "table: it cannot be written as Parquet"),
            ((tmp_path / "gone.csv",), f"table: {tmp_path}/gone.csv is no such file; give a .csv or .parquet file"),
        ):
            with pytest.raises(UserError) as caught:
                judge.batch(*given)
            assert str(caught.value).startswith(message)
        with pytest.raises(UserError, match="idempotency_key"):
            judge.batch(named.assign(image_a=b"1", image_b=b"1"), idempotency_key="a\nb")
        assert service.seen == []

    def test_a_job_that_failed(self, service: Service, client: Callable[..., Any]) -> None:
        job = {
            "id": "b-7",
            "state": "failed",
            "created": "2026-01-01T00:00:00Z",
            "error": "table: not a table; send CSV",
        }
        service.jobs["b-7"] = job
        with pytest.raises(UserError, match="batch b-7: it is failed; table: not a table; send CSV"):
            client().open_batch("b-7").wait(progress=False)

    def test_nothing_refused(self, service: Service, client: Callable[..., Any]) -> None:
        service.jobs["b-8"] = {"id": "b-8", "state": "done", "created": "2026-01-01T00:00:00Z"}
        refused = client().open_batch("b-8").quarantine()
        assert len(refused) == 0
        assert {"row", "reason", "field", "way_out"} <= set(refused.columns)

    def test_a_deletion_whose_answer_was_lost(self, service: Service, client: Callable[..., Any]) -> None:
        service.jobs["b-9"] = {"id": "b-9", "state": "done", "created": "2026-01-01T00:00:00Z"}
        handle = client().open_batch("b-9")
        service.jobs.clear()
        service.script.append(cut)
        handle.cancel()
        with pytest.raises(Refused, match="no such job"):
            handle.cancel()

    def test_a_download_that_breaks_off_starts_over(self, service: Service, client: Callable[..., Any]) -> None:
        service.jobs["b-1"] = {"id": "b-1", "state": "done", "created": "2026-01-01T00:00:00Z"}
        handle = client().open_batch("b-1")
        service.script.append(cut)
        assert handle.verdicts()["market"].tolist() == ["KR"]
        service.script.append(says(200, b"<html>", X_Request_ID="r-6"))
        with pytest.raises(BadAnswer, match="verdicts: the answer is no Parquet file, request r-6"):
            handle.verdicts()


def test_an_awaited_call_can_be_cancelled(service: Service) -> None:
    async def run() -> None:
        async with AsyncClient(service.url, KEY, retries=FAST) as judge:
            service.script.append(slow)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await judge.score([ask("Lamp", b"3", b"1", "KR"), ask("Sofa", b"3", b"1", "KR")])
            service.script.clear()
            assert await judge.markets()

    asyncio.run(run())


def in_a_process(code: str, service: Service, **environment: str) -> str:
    """What a fresh interpreter prints that has `judge`, a `Client` of the service."""
    start = f"from countryreward.client import Client\njudge = Client({service.url!r}, {KEY!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def client_threads() -> list[str]:
    """Names of the threads of all clients of this process."""
    return sorted(one.name for one in threading.enumerate() if one.name.startswith(("countryreward-", "asyncio_")))


class TestThread:
    """The blocking client's own thread."""

    def test_none_is_left_after_close(self, service: Service, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"3")
        with Client(service.url, KEY, retries=FAST) as judge:
            assert judge.score("Lamp", tmp_path / "a.png", b"1")
            assert set(client_threads()) >= {"asyncio_0", "countryreward-client"}  # the first reads files
        assert client_threads() == []
        judge.close()
        with pytest.raises(RuntimeError, match="the client is closed; make another one"):
            judge.markets()

    def test_a_client_works_where_a_loop_runs(self, service: Service) -> None:
        async def run() -> None:
            with Client(service.url, KEY) as judge:
                assert judge.markets()

        asyncio.run(run())

    def test_close_ends_what_runs_in_other_threads(self, service: Service) -> None:
        service.script.append(says(500))
        judge = Client(service.url, KEY, retries=RetryPolicy(first_s=1_000, cap_s=1_000, deadline_s=10_000))
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(judge.markets)
            while not service.seen:
                time.sleep(0.01)
            judge.close()
            with pytest.raises(RuntimeError, match="the client was closed while this call ran"):
                call.result()

    def test_a_handle_keeps_it_and_the_last_reference_ends_it(self, service: Service) -> None:
        service.jobs["b-1"] = {"id": "b-1", "state": "done", "created": "2026-01-01T00:00:00Z"}
        handle = Client(service.url, KEY).open_batch("b-1")
        gc.collect()
        assert handle.state().state == "done"
        del handle
        gc.collect()
        until = time.monotonic() + 10
        while client_threads():
            assert time.monotonic() < until
            time.sleep(0.01)

    def test_a_forgotten_client_keeps_no_process(self, service: Service) -> None:
        printed = "{'KR': 'South Korea', 'BR': 'Brazil'}"
        assert in_a_process("print(judge.markets())", service) == printed
        code = """
            print(judge.markets())
            class Cycle: pass
            cycle = Cycle()
            cycle.itself, cycle.judge = cycle, judge
            del cycle, judge
        """
        assert in_a_process(code, service) == printed

    def test_ctrl_c_cancels_what_runs(self, service: Service, tmp_path: Path) -> None:
        async def never(send: Send) -> None:
            await asyncio.sleep(3_600)

        service.script.append(never)
        code = """
            import os, pandas, pathlib, signal, tempfile, threading, time
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
            def uploads():
                return list(pathlib.Path(tempfile.gettempdir()).glob("countryreward-*"))
            def interrupt():
                while not uploads():
                    time.sleep(0.01)
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGINT)
            threading.Thread(target=interrupt).start()
            try:
                judge.batch(pandas.DataFrame({"title": ["Lamp"], "image_a": [b"3"], "image_b": [b"1"]}))
            except KeyboardInterrupt:
                while uploads():
                    time.sleep(0.01)
                print(judge.markets())
        """
        assert in_a_process(code, service, TMPDIR=str(tmp_path)).startswith("{'KR'")


def test_it_needs_nothing_of_a_judge_s_machine(service: Service) -> None:
    code = f"""
        import sys
        class Forbidden:
            def find_spec(self, name, path=None, target=None):
                assert name.partition(".")[0] not in {PLATFORM}, name
        assert not {PLATFORM} & {{name.partition(".")[0] for name in sys.modules}}
        sys.meta_path.insert(0, Forbidden())
        import pandas
        import countryreward.client.remote_services
        print([verdict.choice for verdict in judge.score("Lamp", b"3", b"1", markets=["South Korea"])])
        table = pandas.DataFrame({{"title": ["Lamp"], "image_a": [b"3"], "image_b": [b"1"]}})
        print(judge.score_frame(table, ["KR"])["choice"].tolist(), judge.batch(table).job.state)
        judge.close()
    """
    assert in_a_process(code, service).splitlines()[0::2] == ["['A']", "['A'] waiting"]


def test_the_package_without_extras_is_what_the_client_needs() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert names == {
        "numpy", "pandas", "pyarrow", "pillow", "pycountry", "rich", "pydantic", "httpx2", "anyio", "tenacity",
    }  # fmt: skip
    extras = project["optional-dependencies"]
    assert extras["client"] == []
    assert all("countryreward[platform" in extras[name][0] for name in ("cpu", "gpu", "dev"))


def test_the_old_name_of_the_retry_policy() -> None:
    with pytest.warns(FutureWarning, match="Retries is RetryPolicy now"):
        from countryreward.client import Retries  # pyright: ignore[reportAttributeAccessIssue]
    assert Retries is RetryPolicy
