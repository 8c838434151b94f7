"""What the gate refuses and how, over raw ASGI: who may pass, how much, and that nothing that was sent comes back."""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from countryreward.errors import UserError
from countryreward.scoring.contracts import ScoreRequest, Verdict
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.http.apps import create_app
from countryreward.serving.http.gate import EXEMPT, NEEDS
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.service_config import ServiceConfig
from tests.unit.asgi import MULTIPART, Answered, call, called, form
from tests.unit.in_threads import ThreadedScorer

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

PAIR = form([("title", "Oak desk lamp"), ("markets", "KR")], [("image_a", b"one"), ("image_b", b"two")])
SEVERAL = form([("title", "Oak desk lamp"), ("markets", "KR")], [("images", b"one"), ("images", b"two")])
VALID = {"/v1/score": PAIR, "/v1/rank": SEVERAL}
MARK = "zqmarkerqz"  # looked for in answers and logs


class Known:
    """The same verdict for every request."""

    def __init__(self) -> None:
        self.raises: Exception | None = None

    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]:
        if self.raises is not None:
            raise self.raises
        return [[self._one(market) for market, _, _ in request.questions()] for request in requests]

    @staticmethod
    def _one(market: str) -> Verdict:
        return Verdict(
            market=market,
            probability=0.75,
            calibrated_probability=0.7,
            choice="A",
            log_odds=1.1,
            evidence=(),
            past_ads=0,
            model_version="m1",
            knowledge_base_version="k1",
        )


@dataclass
class Service:
    """The app with all it was given."""

    keys: KeyStore
    scorer: Known
    asked: ThreadedScorer
    app: FastAPI
    seen: list[RequestRecord] = field(default_factory=list)

    def key(self, *scopes: str, tenant: str = "acme", rate: str = "6000/minute", days: int = 0) -> str:
        return self.keys.create(tenant, scopes or ("score",), rate, days)

    def call(self, method: str, path: str, key: str | None = None, headers=(), body=b"", **options) -> Answered:
        bearer = [("Authorization", f"Bearer {key}")] if key is not None else []
        return call(self.app, method, path, [*bearer, *headers], body, **options)

    def score(self, key: str, body: bytes = PAIR, **options) -> Answered:
        return self.call("POST", "/v1/score", key, [MULTIPART], body, **options)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Service]:
    """`make(max_body_memory=...)`: a service with this config."""

    def made(**options) -> Service:
        config = ServiceConfig(state=str(tmp_path / "state"), **options)
        keys, scorer, seen = KeyStore(tmp_path / "state" / "keys.json", 1e-9), Known(), []
        asked = ThreadedScorer(scorer, ["KR", "BR"], {"model": "m1"})
        app = create_app(
            asked,
            config,
            keys=keys,
            rates=Rates("memory://"),
            on_request=seen.append,
            metrics=lambda: b"requests 1\n",
            jobs=BatchJobs(asked, config),
        )
        return Service(keys, scorer, asked, app, seen)

    return made


@pytest.fixture
def service(make) -> Service:
    return make()


@pytest.fixture
def key(service) -> str:
    """A key with the scope score."""
    return service.key()


def test_a_body_that_stops_coming_is_not_waited_for(make):
    service = make(max_pause_s=0.05, max_body_memory=1_000)
    headers = [("Authorization", f"Bearer {service.key()}"), MULTIPART, ("Content-Length", "900")]
    for _ in range(2):  # its memory is free again
        answered = call(service.app, "POST", "/v1/score", headers, b"--edge", length=False, stalls=True)
        assert (answered.status, answered.code()) == (408, "slow_body")


JOB = "/v1/batch/b-0123456789abcdef"
ROUTES = [
    ("GET", "/v1/markets"),
    ("GET", "/v1/models"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/score"),
    ("POST", "/v1/rank"),
]
BATCH_ROUTES = [
    ("POST", "/v1/batch"),
    ("GET", "/v1/batch"),
    ("GET", JOB),
    ("GET", f"{JOB}/verdicts"),
    ("GET", f"{JOB}/quarantine"),
    ("DELETE", JOB),
]
EVERY_ROUTE = (
    [(*one, "score") for one in ROUTES] + [(*one, "batch") for one in BATCH_ROUTES] + [("GET", "/metrics", "metrics")]
)


# Who may pass


def test_every_route_is_exempt_or_needs_a_scope(service):
    for route in service.app.routes:
        path = route.path  # pyright: ignore[reportAttributeAccessIssue] - a router included without one would be closed
        starts = [start for start in NEEDS if path == start or path.startswith(start + "/")]
        assert (path in EXEMPT) + len(starts) == 1, path
    assert EXEMPT == ("/healthz", "/readyz")


def test_a_route_that_no_table_knows_is_closed(service):
    service.app.get("/v1/forgotten")(lambda: "open")
    assert service.call("GET", "/v1/forgotten", service.key("score", "batch", "metrics")).code() == "forbidden"


@pytest.mark.parametrize("path", EXEMPT)
def test_health_needs_no_key(service, path):
    answered = service.call("GET", path)
    assert (answered.status, answered.json()) == (200, {"status": "ok"})
    assert service.call("GET", path + "/").code() == "missing_key"
    assert service.call("GET", path.upper()).code() == "missing_key"


def test_the_tables_above_name_every_route(service):
    told = {(method, route.path) for route in service.app.routes for method in route.methods or ()}
    asked = {(method, path.replace(JOB, "/v1/batch/{job_id}")) for method, path, _ in EVERY_ROUTE}
    assert {one for one in told if one[0] != "HEAD"} == asked | {("GET", path) for path in EXEMPT}


@pytest.mark.parametrize(("method", "path", "scope"), EVERY_ROUTE)
@pytest.mark.parametrize("who", ["nobody", "wrong", "malformed", "revoked", "expired", "other scope"])
def test_every_route_refuses_who_may_not_and_reads_no_body(service, method, path, scope, who):
    key = service.key({"metrics": "score"}.get(scope, "metrics") if who == "other scope" else scope)
    if who == "revoked":
        service.keys.revoke(key[3:11])
    if who == "expired":
        told = json.loads(service.keys.path.read_text())
        told["keys"][key[3:11]]["expires"] = "2026-01-01T00:00:00+00:00"
        service.keys.path.write_text(json.dumps(told))
    presented = {"nobody": None, "wrong": key[:12] + "a" * 43, "malformed": "cr_xyz"}.get(who, key)
    answered = service.call(method, path, presented, [MULTIPART], VALID.get(path, b"body"))
    code = {"nobody": "missing_key", "other scope": "forbidden"}.get(who, "invalid_key")
    assert answered.code() == code
    assert answered.status == (403 if code == "forbidden" else 401)
    assert answered.header("www-authenticate") == ("Bearer" if answered.status == 401 else None)
    assert answered.reads == 0
    if code == "forbidden":
        assert re.search(f"scope .*{scope}", answered.json()["error"]["message"])
    (seen,) = service.seen
    assert (seen.status, seen.route) == (answered.status, path.replace(JOB, "/v1/batch/{job_id}"))
    assert seen.bytes_in == 0


def test_another_tenants_job_is_not_there(service):
    owner, other = service.key("batch"), service.key("batch", tenant="other")
    table = form([], [("table", b"row_id,product_id,title,image_a,image_b,market\n")], name="pairs.csv")
    job = service.call("POST", "/v1/batch", owner, [MULTIPART], table).json()["job"]["id"]
    for method, path in BATCH_ROUTES[2:]:
        place = path.replace(JOB, f"/v1/batch/{job}")
        refused, nowhere = service.call(method, place, other), service.call(method, path, other)
        assert refused.code() == nowhere.code() == "not_found"
        assert refused.json()["error"]["message"] == nowhere.json()["error"]["message"]
    assert service.call("GET", "/v1/batch", other).json()["jobs"] == []
    assert service.call("GET", f"/v1/batch/{job}", owner).json()["job"]["state"] == "waiting"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_answers_who_may(service, method, path):
    answered = service.call(method, path, service.key(), [MULTIPART], VALID.get(path, b""))
    assert answered.status == 200, answered.body
    assert re.fullmatch("[0-9a-f]{16}", answered.header("x-request-id") or "")
    assert answered.header("x-content-type-options") == "nosniff"
    assert answered.header("cache-control") == "no-store"


def test_unknown_keys_are_answered_alike(service):
    key = service.key()
    service.keys.revoke(key[3:11])
    told = [service.call("GET", "/v1/markets", one).json() for one in (key, "cr_00000000_" + "a" * 43, "x", "é")]
    assert len({(one["error"]["code"], one["error"]["message"]) for one in told}) == 1


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("authorization", "Bearer KEY")], None),
        ([("AUTHORIZATION", "bEARER KEY")], None),
        ([("x-api-key", "KEY")], None),
        ([("Authorization", "Basic eDp5"), ("X-API-Key", "KEY")], None),
        ([("Authorization", "Bearer KEY"), ("Authorization", "Bearer KEY")], None),
        ([("Authorization", "Bearer KEY"), ("Authorization", "Bearer cr_other")], "invalid_key"),
        ([("Authorization", "Bearer cr_other"), ("X-API-Key", "KEY")], "invalid_key"),
        ([("Authorization", "Bearer KEY KEY")], "invalid_key"),
        ([("Authorization", "Bearer")], "missing_key"),
        ([("Authorization", "Bearer ")], "missing_key"),
        ([("Authorization", "Basic KEY")], "missing_key"),
        ([("Authorization", "KEY")], "missing_key"),
        ([("Authorization", b"Bearer \xff\xfe\x80")], "invalid_key"),
        ([("X-API-Key", b"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87")], "invalid_key"),
        ([("Cookie", "key=KEY")], "missing_key"),
    ],
)
def test_where_a_key_is_looked_for(service, headers, code):
    key = service.key()
    sent = [(name, value.replace("KEY", key) if isinstance(value, str) else value) for name, value in headers]
    answered = service.call("GET", "/v1/markets", headers=sent)
    assert answered.status == 200 if code is None else answered.code() == code


def test_a_key_in_the_query_is_none(service):
    assert service.call("GET", f"/v1/markets?key={service.key()}").code() == "missing_key"


@pytest.mark.parametrize(
    "path", ["/", "/v2/score", "/v1/score/", "//v1/score", "/v1/score%00", "/v1/../metrics", "/docs"]
)
def test_unknown_paths_need_a_key_and_are_not_found(service, path):
    assert service.call("POST", path, body=PAIR).code() == "missing_key"
    answered = service.call("POST", path, service.key(), [MULTIPART], PAIR)
    if path != "/v1/score/":
        assert answered.code() == "not_found"
    assert answered.status == 404
    assert answered.header("location") is None
    assert answered.reads == 0


def test_behind_a_prefix_the_scope_is_the_routes(service):
    key = service.key("metrics")
    assert service.call("GET", "/v1/markets", key, root_path="/reward").code() == "forbidden"
    assert service.call("GET", "/v1/markets", service.key(), root_path="/reward").status == 200
    assert service.call("GET", "/healthz", root_path="/reward").status == 200
    assert service.call("GET", "/v1/markets", service.key(), root_path="").status == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "CONNECT", "PROPFIND", MARK.upper()])
def test_other_methods_are_refused(service, method):
    assert service.call(method, "/v1/score", body=PAIR).code() == "missing_key"
    answered = service.call(method, "/v1/score", service.key(), body=PAIR)
    assert (answered.status, answered.code(), answered.header("allow")) == (405, "method_not_allowed", "POST")
    assert answered.reads == 0
    assert service.seen[-1].method == (
        method if method in ("HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "CONNECT") else "OTHER"
    )


def test_websockets_are_closed(service):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(service.app({"type": "websocket", "path": "/v1/score", "headers": []}, None, send))  # pyright: ignore
    assert sent == [{"type": "websocket.close", "code": 1008}]


# Request ids


@pytest.mark.parametrize("good", ["a" * 8, "A-Za_z0-9", "f" * 64])
def test_a_request_id_is_kept(service, good):
    assert service.call("GET", "/healthz", headers=[("X-Request-ID", good)]).header("x-request-id") == good
    answered = service.call("GET", "/v1/markets", headers=[("x-request-id", good)])
    assert (answered.code(), answered.header("x-request-id")) == ("missing_key", good)
    assert service.seen[-1].request_id == good


@pytest.mark.parametrize(
    "bad", ["short", "f" * 65, "has space", 'quote"quote', b"\xff" * 9, "line\nfeed-here", "12345678\n"]
)
def test_a_wrong_request_id_is_replaced(service, bad):
    made = service.call("GET", "/healthz", headers=[("X-Request-ID", bad)]).header("x-request-id")
    assert re.fullmatch("[0-9a-f]{16}", made or "")


def test_answers_name_the_request(service):
    answered = service.score(service.key())
    assert answered.json()["request_id"] == answered.header("x-request-id")


# Rates and room


def test_two_tenants_rates_are_apart_and_every_verdict_counts(service):
    acme, other = service.key(rate="4/day"), service.key(tenant="other", rate="4/day")
    three = form(
        [("title", "Lamp"), *[("markets", m) for m in ("KR", "BR", "US")]], [("image_a", b"1"), ("image_b", b"2")]
    )
    assert service.score(acme, three).status == 200
    assert service.score(acme).status == 200
    refused = service.score(acme)
    assert (refused.code(), refused.status, refused.reads) == ("rate_limited", 429, 0)
    assert 0 < int(refused.header("retry-after") or 0) <= 86_400
    assert service.score(other).status == 200
    assert service.score(other, three).status == 200
    assert service.score(other).code() == "rate_limited"


def test_too_many_verdicts_for_what_is_left_are_refused(service):
    key = service.key(rate="2/day")
    three = form(
        [("title", "Lamp"), *[("markets", m) for m in ("KR", "BR", "US")]], [("image_a", b"1"), ("image_b", b"2")]
    )
    assert service.score(key, three).code() == "rate_limited"
    assert service.score(key).status == 200


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank"])
def test_a_busy_model_is_said_before_the_body_is_read(service, path):
    service.asked.busy = lambda tenant: 2.2
    refused = service.call("POST", path, service.key(), [MULTIPART], VALID[path])
    assert (refused.code(), refused.status, refused.header("retry-after"), refused.reads) == ("busy", 503, "3", 0)
    assert service.call("GET", "/v1/markets", service.key()).status == 200


def test_a_service_that_is_not_ready_says_so(service):
    service.asked.ready = lambda: False
    answered = service.call("GET", "/readyz")
    assert (answered.code(), answered.status, answered.header("retry-after")) == ("starting", 503, "1")
    assert service.call("GET", "/healthz").status == 200


def test_bodies_share_the_memory_and_give_it_back(make):
    service = make(max_body_memory=1_000)
    key, body = service.key(), form([("title", "x" * 300)], [("image_a", b"1"), ("image_b", b"2")])
    assert 500 < len(body) < 1_000

    async def both() -> list[Answered]:
        headers = [("Authorization", f"Bearer {key}"), MULTIPART]
        return await asyncio.gather(*[called(service.app, "POST", "/v1/score", headers, body) for _ in range(2)])

    assert sorted(one.status for one in asyncio.run(both())) == [200, 503]
    for _ in range(3):  # what was held came back, also after refusals
        assert service.score(key, body).status == 200
        assert service.score(key, b"x" * 900).status == 422
    assert service.score(key, [body, b"x" * 900], length=False).code() == "busy"
    assert service.score(key, body, leaves=True).status == 0
    assert service.score(key, body).status == 200


def test_a_body_that_can_never_fit_is_too_large(make):
    service = make(max_body_memory=1_000)
    refused = service.score(service.key(), b"x" * 1_001)
    assert (refused.code(), refused.status, refused.reads) == ("too_large", 413, 0)


@pytest.mark.parametrize("length", [True, False])
def test_a_body_above_the_routes_cap_is_413_also_in_chunks(make, length):
    service = make(max_image_bytes=1_000)
    body = form([("title", "Lamp")], [("image_a", b"x" * 3 * 2**19)])
    answered = service.score(service.key(), [body[at : at + 2**19] for at in range(0, len(body), 2**19)], length=length)
    assert (answered.code(), answered.status) == ("too_large", 413)
    assert answered.reads == (0 if length else 3)


@pytest.mark.parametrize("sizes", [["-1"], ["1e3"], ["ten"], ["10", "20"], ["9" * 40], [""], [b"\xb2"]])
def test_a_content_length_that_is_none_is_refused(service, sizes):
    answered = service.call(
        "POST", "/v1/score", service.key(), [MULTIPART, *[("Content-Length", one) for one in sizes]]
    )
    assert (answered.code(), answered.reads) == ("invalid_input", 0)


# What was sent never comes back


def lines(caplog: pytest.LogCaptureFixture) -> list[dict]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "countryreward.service"]


IMAGES = [("image_a", b"one"), ("image_b", b"two")]


@pytest.mark.parametrize(
    "fields",
    [
        [("title", "")],
        [("title", MARK * 500)],
        [(MARK, MARK)],
        [("title", MARK), ("markets", MARK)],
        [("title", MARK), ("markets", MARK * 50)],
        [("title", MARK), ("as_of", MARK)],
        [("title", MARK), ("evidence", MARK)],
        [("title", MARK), ("evidence", "-1")],
        [("title", MARK), ("evidence", "NaN")],
        [("title", MARK), ("evidence", "9" * 5_000)],
        [("title", MARK), ("attributes", MARK)],
        [("title", MARK), ("attributes", f'{{"{MARK}": 1}}')],
        [("title", MARK), ("attributes", f'{{"{MARK}": NaN}}')],
        [("title", MARK), ("attributes", "[" * 100_000)],
        [("title", MARK), ("attributes", "[" * 3_900)],
        [("title", MARK), ("attributes", '{"a":' * 700)],
        [("title", "\ud800" + MARK), ("as_of", "x")],
        [("title", MARK), ("attributes", f'{{"\\ud800": "{MARK}"}}')],
        [("title", MARK), *[(f"f{i}", MARK) for i in range(10_000)]],
        [("title", MARK), ("tags", MARK * 500)],
        [("title", b"\xff\xfe" + MARK.encode()), ("as_of", "x")],
        [("title\r\nX: " + MARK, MARK)],
    ],
    ids=range(22),
)
def test_wrong_forms_are_422_and_echo_nothing(service, caplog, fields):
    caplog.set_level(logging.DEBUG)
    body = form(fields, IMAGES, name=f"{MARK}.png")
    headers = [MULTIPART, ("X-Custom", MARK), ("User-Agent", MARK), ("X-Request-ID", f"{MARK} {MARK}")]
    answered = service.call("POST", f"/v1/score?{MARK}={MARK}", key := service.key(), headers, body)
    assert (answered.code(), answered.status) == ("invalid_input", 422)
    assert MARK not in answered.body.decode() + str(answered.headers) + caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", PAIR),
        ("multipart/form-data; boundary=", PAIR),
        ("multipart/form-data; boundary=" + "b" * 300, PAIR),
        (b"multipart/form-data; boundary=\xff", PAIR),
        ("multipart/form-data; boundary=edge; charset=" + MARK, PAIR[:100]),
        ("multipart/form-data; boundary=edge", PAIR[:-30]),
        ("multipart/form-data; boundary=edge", PAIR[:90]),
        ("multipart/form-data; boundary=edge", b""),
        ("multipart/form-data; boundary=edge", b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n--edge--"),
        ("multipart/form-data; boundary=edge", b"--edge\r\n" + b"X: y\r\n" * 5_000),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"title": NaN}'),
        ("application/x-www-form-urlencoded", b"title=" + b"%f" * 5_000),
        ("application/x-www-form-urlencoded", b"a=b&" * 10_000),
        (MARK, PAIR),
        ("", PAIR),
        (b"\xff", b"\x00"),
    ],
    ids=range(17),
)
def test_bodies_that_are_no_form_are_422(service, content_type, body):
    answered = service.call("POST", "/v1/score", service.key(), [("Content-Type", content_type)], body)
    assert (answered.code(), answered.status) == ("invalid_input", 422)
    assert MARK not in answered.body.decode()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), cut=st.integers(0, len(PAIR)))
def test_any_bytes_are_a_clean_error(service, key, body, cut):
    answered = service.score(key, PAIR[:cut] + body)
    assert answered.status == 200 or answered.code() in ("invalid_input", "invalid_image")


def test_a_text_where_a_file_belongs_is_422(service, key):
    answered = service.score(key, form([("title", "Lamp"), ("image_a", MARK)], [("image_b", b"two")]))
    assert (answered.code(), answered.json()["error"]["message"]) == ("invalid_input", "image_a: is wrong")


@pytest.mark.parametrize("path", [f"/{MARK}", f"/v1/score/{MARK}", f"/v1/markets?{MARK}=1", f"/%zz{MARK}"])
def test_paths_do_not_come_back(service, caplog, path):
    caplog.set_level(logging.DEBUG)
    for key in (None, service.key("metrics"), service.key()):
        answered = service.call("GET", path, key)
        assert MARK not in answered.body.decode() + str(answered.headers)
    assert MARK not in caplog.text


def test_a_field_given_twice_counts_once(service):
    twice = form(
        [("title", "Lamp"), ("title", "Desk"), ("evidence", "1"), ("evidence", "2"), ("markets", "KR")], IMAGES
    )
    assert len(service.score(service.key(), twice).json()["verdicts"]) == 1


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank"])
def test_what_goes_wrong_inside_is_500_without_its_words(service, caplog, path):
    caplog.set_level(logging.DEBUG)
    cause = ValueError(f"title {MARK}")
    service.scorer.raises = RuntimeError(f"while judging {MARK}")
    service.scorer.raises.__cause__ = cause
    answered = service.call("POST", path, service.key(), [MULTIPART], VALID[path])
    assert (answered.code(), answered.status) == ("internal", 500)
    assert MARK not in answered.body.decode() + caplog.text
    assert "Traceback" not in answered.body.decode() + caplog.text
    assert all(record.exc_info is None for record in caplog.records)
    line = lines(caplog)[-1]
    assert [one["type"] for one in line["error"]] == ["RuntimeError", "ValueError"]
    assert re.fullmatch(r"unit/test_gate\.py:\d+", line["error"][0]["frames"][-1])


def test_a_users_error_inside_is_422_without_its_value(service, caplog):
    service.scorer.raises = UserError(f"title: {MARK!r} is wrong; write another")
    answered = service.score(service.key())
    assert (answered.code(), answered.status) == ("invalid_input", 422)
    assert answered.json()["error"]["message"].startswith("title: ")
    assert MARK not in answered.body.decode() + caplog.text


def test_an_error_after_the_answer_began_ends_it(service, caplog):
    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError(MARK)

    service.app.mount("/v1/models/broken", broken)
    answered = service.call("GET", "/v1/models/broken/x", service.key())
    assert (answered.status, answered.body) == (200, b"")
    assert MARK not in caplog.text
    assert service.seen[-1].error is not None


def test_an_error_of_a_framework_becomes_ours(service):
    async def plain(scope, receive, send):
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": MARK.encode()})

    service.app.mount("/v1/models/plain", plain)
    answered = service.call("GET", "/v1/models/plain/x", service.key())
    assert (answered.code(), answered.status) == ("too_large", 413)


# The journal


def test_one_line_per_request(service, caplog):
    caplog.set_level(logging.INFO)
    key = service.key()
    body = form([("title", MARK), ("markets", "KR"), ("markets", "BR")], IMAGES)
    answered = service.score(key, body)
    (line,) = lines(caplog)
    assert line.pop("ms") >= 0
    assert line.pop("time").startswith("20")
    assert line == {
        "event": "request",
        "request_id": answered.header("x-request-id"),
        "tenant": "acme",
        "key_id": key[3:11],
        "method": "POST",
        "route": "/v1/score",
        "status": 200,
        "verdicts": 2,
        "bytes_in": len(body),
        "bytes_out": len(answered.body),
    }
    (seen,) = service.seen
    assert (seen.tenant, seen.route, seen.status, seen.verdicts) == ("acme", "/v1/score", 200, 2)
    assert MARK not in caplog.text
    assert key not in caplog.text


def test_a_caller_who_leaves_ends_quietly(service, caplog):
    caplog.set_level(logging.DEBUG)
    assert service.score(service.key(), PAIR[:50], leaves=True).status == 0
    assert service.score(service.key(), [PAIR[:50], PAIR[50:]], leaves=True).status == 0
    assert [(line["status"], "error" in line) for line in lines(caplog)] == [(499, False)] * 2
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_a_cancelled_request_is_noted_and_gives_its_memory_back(make):
    service = make(max_body_memory=len(PAIR))
    key = service.key()

    async def cancelled() -> None:
        entered = asyncio.Event()

        async def score(request):
            entered.set()
            await asyncio.sleep(3_600)
            return []

        service.asked.score = score
        headers = [("Authorization", f"Bearer {key}"), MULTIPART]
        task = asyncio.create_task(called(service.app, "POST", "/v1/score", headers, PAIR))
        await entered.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled())
    assert service.seen[-1].status == 499
    del service.asked.score
    assert service.score(key).status == 200
