"""A real service under hostile requests and images: the long forms of tests/unit/test_hostile.py.

make torture        # prints what it measures
COUNTRYREWARD_DEMO=runs/demo python -m pytest -s tests/torture/test_hostile_service.py    # with a demo that is there
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from countryreward.serving.http.gate import EXEMPT
from tests.torture.served import Served, memory, serving
from tests.unit.asgi import MULTIPART, form
from tests.unit.hostile_http import Hostile, hostile_requests, marked_out, send, send_all, slow_callers
from tests.unit.hostile_images import LARGE_WEBP, SIDE, hostile_images, noisy, plain
from tests.unit.schema_calls import call_by_schema


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(run / "model", tmp_path_factory.mktemp("served")) as service:
        yield service


def test_ten_thousand_requests_of_the_schema(served: Served):
    key, before, started = served.key(), served.replicas(), time.monotonic()
    told, faults = call_by_schema(served.url, key, 10_000, (noisy("PNG", 1), noisy("PNG", 2)), 250)
    statuses = Counter()
    for name, count in told.items():
        statuses[name.rpartition(" ")[2]] += count
    restarts = len(set(served.replicas().items()) - set(before.items()))
    print(
        f"\n{told.total():,} requests by schema in {time.monotonic() - started:.0f} s: {dict(sorted(statuses.items()))}; "
        f"faults {len(faults)}; replica restarts {restarts}"
    )
    assert len(before) == 2
    assert not faults, faults[:10]
    assert (told.total(), restarts) == (10_000, 0)


def test_two_thousand_hostile_requests(served: Served):
    key, before, started = served.key("score", "batch"), served.replicas(), time.monotonic()
    told = send_all(served.port, hostile_requests(2_000, key, noisy("PNG", 1)))
    answered = slow_callers(served.port, key, count=20, seconds=5)
    restarts = len(set(served.replicas().items()) - set(before.items()))
    print(
        f"\n{told.sent:,} hostile requests of {len(told.by_kind)} kinds in {time.monotonic() - started:.0f} s: "
        f"{dict(told.statuses)}; refused by the HTTP server itself, not in our JSON: {told.by_server}; faults "
        f"{len(told.faults)}; replica restarts {restarts}; ordinary requests while 20 slow callers hold on: all of {answered}"
    )
    assert [marked_out(one) for one in told.faults[:10]] == []
    assert restarts == 0
    assert answered > 20


def test_a_thousand_bombs(served: Served):
    key, before = served.key("score"), served.replicas()
    head = f"Authorization: Bearer {key}\r\nConnection: close\r\n{MULTIPART[0]}: {MULTIPART[1]}\r\n".encode()
    good = noisy("JPEG", 1)

    def ask(number: int, data: bytes) -> int:
        path = b"/v1/rank" if number % 2 else b"/v1/score"
        names = ("images", "images") if number % 2 else ("image_a", "image_b")
        body = form([("title", "Lamp"), ("markets", "KR")], [(names[0], good), (names[1], data)])
        request = b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (path, head, len(body)) + body
        answer = send(served.port, Hostile("image", "zqnonezq", request, patience_s=60))
        return answer[0] if answer else 0

    def ask_all(images) -> Counter:
        with ThreadPoolExecutor(4) as pool:
            return Counter(pool.map(lambda one: ask(one[0], one[1][1]()), enumerate(images)))

    warm = ask_all([("plain", lambda n=n: noisy("JPEG", 500 + n, 1_500)) for n in range(60)])
    assert warm == {200: 60}
    started = time.monotonic()
    with memory(served.actors("ServeReplica")) as rss:
        told = ask_all(hostile_images(1_000, large_every=20))
        time.sleep(2)
    seconds = time.monotonic() - started
    with memory(served.actors("ServeReplica")) as of_webp:
        webps = ask_all(
            [("webp", lambda m=m, n=n: plain(m, "WEBP", (SIDE, SIDE), n)) for n in range(4) for m, _ in LARGE_WEBP]
        )
    restarts = len(set(served.replicas().items()) - set(before.items()))
    print(
        f"\n1,000 bombs and malformed images, 50 of them allowed ones of 25 megapixels, in {seconds:.0f} s: {dict(told)}; "
        f"replica restarts {restarts}; RSS of each replica over its start: peak {rss.rise('peak')} MB, end {rss.rise('end')} "
        f"MB; with WEBP of 25 megapixels {dict(webps)}: peak {of_webp.rise('peak')} MB, end {of_webp.rise('end')} MB"
    )
    assert set(told) <= {200, 422}
    assert set(webps) <= {200, 422}
    assert restarts == 0
    assert max(rss.rise("peak")) <= 200
    assert max(rss.rise("end")) <= 200


ROUTES = [
    ("GET", "/v1/markets"), ("GET", "/v1/models"), ("GET", "/openapi.json"), ("GET", "/metrics"), ("POST", "/v1/score"),
    ("POST", "/v1/rank"), ("POST", "/v1/batch"), ("GET", "/v1/batch"), ("GET", "/v1/batch/JOB"),
    ("GET", "/v1/batch/JOB/verdicts"), ("GET", "/v1/batch/JOB/quarantine"), ("DELETE", "/v1/batch/JOB"),
]  # fmt: skip


def test_every_route_refuses_who_may_not(served: Served):
    right, revoked, other = served.key(), served.key(), served.key(tenant="other")
    served.keys.revoke(revoked[3:11])
    time.sleep(2.5)

    def ask(method: str, path: str, key: str | None, body: bytes = b"") -> tuple[int, bytes]:
        who = f"Authorization: Bearer {key}\r\n" if key else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{who}{MULTIPART[0]}: {MULTIPART[1]}\r\n"
        request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
        answer = send(served.port, Hostile("route", "zqnonezq", request))
        assert answer is not None
        return answer[0], answer[2]

    table = b"row_id,product_id,title,image_a,image_b,market\nr0,p0,Lamp,a.png,b.png,KR\n"
    status, body = ask("POST", "/v1/batch", right, form([], [("table", table)], name="pairs.csv"))
    assert status == 202, body
    job = body.partition(b'"id":"')[2].partition(b'"')[0].decode()
    known = set(json.loads(ask("GET", "/openapi.json", right)[1])["paths"])
    assert {path.replace("JOB", "{job_id}") for _, path in ROUTES} - {"/openapi.json"} == known - set(EXEMPT)
    refused, asked = 0, 0
    for method, path in ROUTES:
        place = path.replace("JOB", job)
        for key in (None, right[:12] + "a" * 43, revoked):
            asked += 1
            refused += ask(method, place, key)[0] == 401
        if "JOB" in path:  # another tenant's job is not there; what is not by job shows each its own alone
            asked += 1
            refused += ask(method, place, other)[0] == 404
    asked += 1
    refused += job.encode() not in ask("GET", "/v1/batch", other)[1]
    print(f"\n{len(ROUTES)} routes x no key, wrong key, revoked key, other tenant: {refused} of {asked} refused")
    assert refused == asked
    assert ask("GET", f"/v1/batch/{job}", right)[0] == 200
