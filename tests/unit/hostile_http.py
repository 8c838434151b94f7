"""Hostile HTTP requests down to the byte, and a caller that sends them over a socket and looks at what comes back."""

import contextlib
import gzip
import http.client
import json
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import uvicorn

from tests.unit.asgi import BOUNDARY, form

FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n".encode()
ROUTES = ("/v1/score", "/v1/rank", "/v1/batch")
GETS = ("/v1/markets", "/v1/models", "/v1/batch", "/openapi.json", "/metrics", "/healthz", "/readyz")
OWN = {
    b"Invalid HTTP request received.",
    b"Failed to open a WebSocket connection: missing Sec-WebSocket-Key header.\n",
    b"Failed to open a WebSocket connection: invalid Sec-WebSocket-Version header: 8.\n",
    b"<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n</body></html>\n",
    b"<html><body><h1>422 Unprocessable Content</h1>\nThe server cannot process the contained instructions.\n</body></html>\n",
    b"",
}
"""Bodies of refusals by the HTTP server itself, uvicorn or HAProxy, which never reach the app: constant texts."""
Build = Callable[[random.Random, str], bytes]


@dataclass(frozen=True)
class Hostile:
    """One request."""

    kind: str
    mark: str
    """Planted in it; must not come back."""
    data: bytes
    half_closed: bool = False
    patience_s: float = 10.0


@dataclass
class Told:
    """What came back from many."""

    by_kind: dict[str, Counter] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """Answers that must not be: 5xx, echoes, errors of another form."""
    by_server: int = 0
    """Refusals by the HTTP server itself, before the app: no JSON, constant text."""

    @property
    def sent(self) -> int:
        return sum(counter.total() for counter in self.by_kind.values())

    @property
    def statuses(self) -> Counter:
        return sum(self.by_kind.values(), Counter())


def fault(status: int, headers: Sequence[tuple[str, str]], body: bytes, mark: str) -> str | None:
    """What is wrong with an answer, None: nothing. A HEAD's answer has no body."""
    if status >= 500:
        return f"status {status}: {body[:200]!r}"
    if mark.encode() in body or mark in str(headers):
        return f"status {status} repeats what was sent: {body[:200]!r} {headers}"
    if status < 400 or body in OWN:
        return None
    if len(body) > 4_096:
        return f"status {status}: {len(body)} bytes"
    try:
        told = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"status {status} without our JSON: {body[:200]!r}"
    ids = {value for name, value in headers if name.lower() == "x-request-id"}
    whole = set(told) == {"code", "message", "request_id"} and ids == {told["request_id"]}
    return None if whole else f"status {status}: {told}, header {ids}"


def send(port: int, request: Hostile) -> tuple[int, list[tuple[str, str]], bytes] | None:
    """None: no answer, the server hung up or kept silent."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=request.patience_s)) as wire:
        with contextlib.suppress(OSError):  # it may answer and hang up before all is sent
            wire.sendall(request.data)
            if request.half_closed:
                wire.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(wire, method="HEAD" if request.data.startswith(b"HEAD") else "GET")
        try:
            answer.begin()
            return answer.status, answer.getheaders(), answer.read()
        except (OSError, http.client.HTTPException):
            return None


def send_all(port: int, requests: Sequence[Hostile], at_once: int = 4) -> Told:
    told = Told()
    with ThreadPoolExecutor(at_once) as pool:
        for request, answer in zip(requests, pool.map(lambda one: send(port, one), requests), strict=True):
            status = answer[0] if answer else "none"
            told.by_kind.setdefault(request.kind, Counter())[status] += 1
            if answer is None:
                continue
            told.by_server += answer[0] >= 400 and answer[2] in OWN and not request.data.startswith(b"HEAD")
            if wrong := fault(*answer, request.mark):
                told.faults.append(f"{request.kind}: {wrong}")
    return told


@contextlib.contextmanager
def listening(app) -> Iterator[int]:
    """The app behind uvicorn on a free port, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def hostile_requests(count: int, key: str, picture: bytes, seed: int = 0) -> list[Hostile]:
    """Every kind in turn, each time with other routes and values. picture: a valid image file."""
    rng = random.Random(seed)
    kinds = _kinds(key.encode(), picture)
    made = []
    for number in range(count):
        kind, build = kinds[number % len(kinds)]
        mark = f"zq{rng.randrange(16**10):010x}zq"
        waits = kind.startswith("never")
        made.append(Hostile(kind, mark, build(rng, mark), kind.startswith("half"), 0.5 if waits else 10.0))
    return made


def number_of_kinds() -> int:
    return len(_kinds(b"", b""))


def _kinds(key: bytes, picture: bytes) -> list[tuple[str, Build]]:
    who = b"Authorization: Bearer " + key + b"\r\nConnection: close\r\n"

    def get(target: bytes, more: bytes = b"", version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
        return method + b" " + target + b" " + version + b"\r\nHost: x\r\n" + who + more + b"\r\n"

    def post(target: str, body: bytes, more: bytes = FORM, length: int | None = None) -> bytes:
        size = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
        return b"POST " + target.encode() + b" HTTP/1.1\r\nHost: x\r\n" + who + size + more + b"\r\n" + body

    def asked(fields: Sequence[tuple[str, str | bytes]], route: str = "/v1/score", name: str = "a.png") -> bytes:
        files = {
            "/v1/score": [("image_a", picture), ("image_b", picture + b"\0")],
            "/v1/rank": [("images", picture), ("images", picture + b"\0")],
            "/v1/batch": [("table", b"row_id,title\n")],
        }[route]
        return post(route, form(fields, files, name))

    def chunked(pieces: bytes, more: bytes = FORM) -> bytes:
        head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n" + who + more + b"Transfer-Encoding: chunked\r\n\r\n"
        return head + pieces

    def bad_value(rng: random.Random, mark: str) -> bytes:
        name = rng.choice(["evidence", "as_of", "markets", "attributes", "title", "category", "tags", "product_id"])
        value = rng.choice([
            "NaN", "Infinity", "-Infinity", "1e400", "-1", "9" * 5_000, "0x10", "true", "null", "[]", "{}", "\0", "",
            "1e5", "２", "²", "-0", "0001-01-01", "9999-99-99", "2026-02-30", "10000-01-01", "../../etc/passwd",
            "%s%n%x", "{{7*7}}", "${jndi:ldap://x}", "' OR 1=1 --", "<script>", "\r\nX: y", "\u202e", "\ud800", "\udfff",
        ])  # fmt: skip
        return asked([("title", "Lamp"), (name, value + mark)], rng.choice(ROUTES))

    def many(rng: random.Random, fields: list[tuple[str, str]]) -> bytes:
        return asked([("title", "Lamp"), *fields], rng.choice(ROUTES))

    def names(rng: random.Random, mark: str) -> bytes:
        return asked([("title", "Lamp"), (mark + '"; x="', mark)], rng.choice(ROUTES), mark + '.png"; name="title')

    def bad_json(rng: random.Random, mark: str) -> bytes:
        value = rng.choice([
            '{"%s": NaN}', '{"%s": Infinity}', '{"%s": 1e400}', '{"%s": "\\ud800"}', '{"\\ud800%s": "x"}', '{"%s": null}',
            '["%s"]', '"%s"', "[" * 100_000 + "%s", "[" * 3_900 + "%s", '{"a":' * 700 + "%s", '{"%s": ' + "9" * 3_000 + "}",
            '{"%s": "a", "%s": "b"}', '{"%s": "\\u0000"}', "{'%s': 1}", '\ufeff{"%s": "x"}', '{"%s": "x"} {}',
        ])  # fmt: skip
        return asked([("title", "Lamp"), ("attributes", value.replace("%s", mark))], rng.choice(ROUTES[:2]))

    def raw_field(rng: random.Random, mark: str) -> bytes:
        bytes_ = rng.choice([b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\0", b"\x1b[2J", b"\x80" * 100])
        name = rng.choice(["title", "attributes", "markets", "as_of", "evidence"])
        return asked([(name, bytes_ + mark.encode())], rng.choice(ROUTES))

    def json_body(rng: random.Random, mark: str) -> bytes:
        body = rng.choice(
            [b"[" * 100_000, b'{"title": NaN}', b'{"title": "\\ud800"}', b'{"a":1e400}', b"null", b"\xff"]
        )
        return post(rng.choice(ROUTES), body + mark.encode(), b"Content-Type: application/json\r\n")

    def boundary(rng: random.Random, mark: str) -> bytes:
        kind = rng.choice([
            b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"b" * 300,
            b"multipart/form-data; boundary=\xff", b"multipart/form-data; boundary=edge; boundary=" + mark.encode(),
            b"multipart/form-data; boundary=" + mark.encode(), b'multipart/form-data; boundary="e\\"dge', b"text/plain",
            b"multipart/mixed; boundary=edge", b"multipart/form-data; boundary=edge; charset=" + mark.encode(), b"",
        ])  # fmt: skip
        return post(rng.choice(ROUTES), form([("title", mark)]), b"Content-Type: " + kind + b"\r\n")

    def broken_form(rng: random.Random, mark: str) -> bytes:
        whole = form([("title", mark), ("markets", "KR")], [("image_a", picture), ("image_b", picture)])
        body = rng.choice([
            whole[: rng.randrange(len(whole))], whole[rng.randrange(len(whole)) :], whole * 3,
            whole.replace(b"name=", b"nam="), whole.replace(b"\r\n", b"\n"), whole.replace(b"edge", b"egde", 1),
            b"--edge\r\n" + b"X: y\r\n" * 5_000, b"--edge--", b"--edge\r\n\r\n\r\n--edge--", b"", b"\0" * 1_000,
            whole.replace(b"Content-Disposition", b"Content-Disposition: x\r\nContent-Disposition"),
            whole.replace(b'filename="a.png"', b'filename="' + b"../" * 2_000 + mark.encode() + b'"'),
            whole.replace(b'filename="a.png"', b"filename*=UTF-8''%ff%fe" + mark.encode()),
            whole.replace(b'filename="a.png"', b'filename="\0"\r\nContent-Transfer-Encoding: base64'),
        ])  # fmt: skip
        return post(rng.choice(ROUTES), body)

    def flipped(rng: random.Random, mark: str) -> bytes:
        whole = bytearray(form([("title", mark), ("markets", "KR")], [("image_a", picture), ("image_b", picture)]))
        for _ in range(rng.randint(1, 8)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        return post(rng.choice(ROUTES[:2]), bytes(whole))

    def path(rng: random.Random, mark: str) -> bytes:
        target = rng.choice([
            "/%", "/v1/%00", "/v1/%ff%fe", "/..%2f..%2fetc/passwd/%", "/v1/batch/..%2f..%2fkeys.json?%", "//%", "/v1/../%",
            "/v1/score/../batch/%", "/v1/batch/%/verdicts?format=../../x", "/v1/batch/b-0000000000000000?%",
            "/v1/batch/%2e%2e%2f%", "/v1/score;%", "/v1/markets?%=" + "y" * 30_000, "/v1/score#%", "/" + "a/" * 10_000 + "%",
            "/v1/batch/" + "%61" * 5_000 + "%", "/v1/markets%", "/.git/%", "/v1/batch/CON%", "/v1/batch/b-%/quarantine",
        ])  # fmt: skip
        return get(target.replace("%", mark, 1).encode() if "%%" in target else target.encode() + mark.encode())

    def absolute(rng: random.Random, mark: str) -> bytes:
        start = rng.choice(["http://x", "https://169.254.169.254", "ftp://x", f"http://{mark}", "http://[::1]"])
        return get(start.encode() + rng.choice(GETS).encode() + b"?" + mark.encode())

    def target(rng: random.Random, mark: str) -> bytes:
        return get(
            rng.choice([b"*", b"", b"x:443", b"markets", b"\\v1", mark.encode()]),
            method=rng.choice([b"GET", b"OPTIONS", b"CONNECT"]),
        )

    def method(rng: random.Random, mark: str) -> bytes:
        name = rng.choice(
            ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "", mark, "A" * 9_000]
        )
        return get(rng.choice(GETS + ROUTES).encode() + b"?" + mark.encode(), method=name.encode())

    def version(rng: random.Random, mark: str) -> bytes:
        said = rng.choice(
            [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.1.1", b"http/1.1", b"", mark.encode()]
        )
        return get(rng.choice(GETS).encode(), version=said)

    def header(rng: random.Random, mark: str) -> bytes:
        line = rng.choice([
            b"X-Request-ID: \xff\xfe\x80", b"X-Request-ID: a b\"", b"X-Request-ID: " + b"r" * 5_000, b"X-Request-ID: ",
            b"serve_multiplexed_model_id: \xff\xfe", b"serve_multiplexed_model_id: ", b"x-session-id: \xff", b"X-Session-ID: ",
            b"X-Serve-Router-x: ", b"Idempotency-Key: \xff", b"Cookie: \xff", b"Content-Encoding: gzip", b"Accept: \xff",
            b"Range: bytes=0-", b"X-HTTP-Method-Override: DELETE", b"Forwarded: for=\"_x\"", b"X-Forwarded-Host: ",
            b"X-Forwarded-For: ", b"X-Forwarded-Prefix: /", b"traceparent: 00-x-y-", b"Host: ", b"Trailer: ", b"TE: ",
            b"Expect: ", b"Connection: close, ", b"X : ", b": ", b"X: a\r\n ", b"X: \0", b"X: \r", b"Upgrade: ",
            b"X-Request-ID: ok-12345678\r\nX-Request-ID: ",
        ])  # fmt: skip
        return get(rng.choice(GETS).encode(), line + mark.encode() + b"\r\n")

    def flood(rng: random.Random, mark: str) -> bytes:
        return get(
            b"/v1/markets", b"".join(b"X-%d: %s\r\n" % (i, mark.encode()) for i in range(rng.choice([100, 1_000])))
        )

    def long_header(rng: random.Random, mark: str) -> bytes:
        name = rng.choice([b"X", b"X-API-Key", b"Cookie", b"User-Agent", b"X-Request-ID"])
        return get(b"/v1/markets", name + b": " + mark.encode() + b"z" * rng.choice([65_536, 300_000]) + b"\r\n")

    def key_of(rng: random.Random, mark: str) -> bytes:
        value = rng.choice(
            [b"cr_\xff", b"", b"cr_00000000_" + b"a" * 43, mark.encode(), b"Bearer Bearer", b"\0", b"x" * 9_000]
        )
        return (
            b"GET /v1/markets HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
            + value
            + mark.encode()
            + b"\r\n\r\n"
        )

    def upgrade(rng: random.Random, mark: str) -> bytes:
        more = rng.choice([
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk", b"Upgrade: websocket", b"Upgrade: TLS/1.0",
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ])  # fmt: skip
        head = get(rng.choice(GETS + ROUTES).encode() + b"?" + mark.encode()).replace(
            b"Connection: close", b"Connection: Upgrade, close"
        )
        return head[:-2] + more + b"\r\n\r\n"

    def chunk(rng: random.Random, mark: str) -> bytes:
        start = form([("title", mark)])
        pieces = rng.choice([
            mark.encode() + b"\r\nhello\r\n0\r\n\r\n", b"-2\r\n--\r\n0\r\n\r\n", b"f" * 18 + b"\r\n--\r\n0\r\n\r\n",
            b"%x\r\n" % len(start) + start + b"\r\n0\r\n\r\n", b"1;" + mark.encode() + b"=x\r\n-\r\n0\r\n\r\n",
            b"1\r\n-\r\n" * 3_000 + b"0\r\n\r\n", b"2\r\n--XX\r\n0\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 500 + b"\r\n", b"\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n",
        ])  # fmt: skip
        return chunked(pieces)

    def smuggle(rng: random.Random, mark: str) -> bytes:
        more = rng.choice([
            b"Content-Length: 3\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
            b"Transfer-Encoding: \x0bchunked\r\n", b"Content-Length: +3\r\n", b"Content-Length: 3, 3\r\n",
        ])  # fmt: skip
        return chunked(b"0\r\n\r\nGET /v1/markets?" + mark.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n", more + FORM)

    def length(rng: random.Random, mark: str) -> bytes:
        size = rng.choice(
            [b"-1", b"1e3", b"ten", b"9" * 40, b"", b"\xb2", b"3\r\nContent-Length: 4", b"0x3", b"18446744073709551616"]
        )
        head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n" + who + FORM + b"Content-Length: " + size + b"\r\n\r\n"
        return head + mark.encode()

    def huge(rng: random.Random, mark: str) -> bytes:
        return post(rng.choice(ROUTES), mark.encode(), length=rng.choice([2**31, 2**40, 10**17]))

    def short(rng: random.Random, mark: str) -> bytes:
        return post(rng.choice(ROUTES), form([("title", mark)]), length=rng.randrange(50))

    def zipped(rng: random.Random, mark: str) -> bytes:
        body = gzip.compress(b"\0" * 20_000_000) if rng.random() < 0.5 else gzip.compress(form([("title", mark)]))
        return post(
            rng.choice(ROUTES),
            body,
            FORM + rng.choice([b"Content-Encoding: gzip\r\n", b"Content-Encoding: br, " + mark.encode() + b"\r\n"]),
        )

    def noise(rng: random.Random, mark: str) -> bytes:
        return rng.choice([
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            rng.randbytes(500) + b"\r\n\r\n", b"\r\n" * 1_000 + get(b"/v1/markets"), b"SSH-2.0-x\r\n\r\n", b"\0" * 5_000,
            b"EHLO " + mark.encode() + b"\r\n\r\n", b"*1\r\n$4\r\nPING\r\n\r\n", get(b"/v1/markets").replace(b"\r\n", b"\n"),
        ])  # fmt: skip

    def pipelined(rng: random.Random, mark: str) -> bytes:
        first = get(rng.choice(GETS).encode() + b"?" + mark.encode()).replace(b"Connection: close\r\n", b"")
        return first * rng.randint(2, 20) + get(b"/healthz")

    def expects(rng: random.Random, mark: str) -> bytes:
        return post(
            rng.choice(ROUTES),
            form([("title", mark)]),
            FORM + rng.choice([b"Expect: 100-continue\r\n", b"Expect: 200-ok\r\n"]),
        )

    return [
        ("wrong values", bad_value),
        ("wrong JSON in attributes", bad_json),
        ("wrong bytes in a field", raw_field),
        ("bodies of JSON", json_body),
        ("a megabyte of tags", lambda rng, mark: many(rng, [("tags", mark + "x" * 9_900)] * 100)),
        ("ten thousand parts", lambda rng, mark: many(rng, [(f"f{i}", mark) for i in range(10_000)])),
        ("ten thousand files", lambda rng, mark: post("/v1/rank", form([("title", mark)], [("images", b"")] * 10_000))),
        ("names of fields and files", names),
        ("wrong boundaries", boundary),
        ("broken forms", broken_form),
        ("flipped bytes of a form", flipped),
        ("paths", path),
        ("absolute targets", absolute),
        ("odd targets", target),
        ("methods", method),
        ("versions", version),
        ("headers", header),
        ("more headers", header),
        ("floods of headers", flood),
        ("long headers", long_header),
        ("keys", key_of),
        ("upgrades", upgrade),
        ("chunks", chunk),
        ("two lengths", smuggle),
        ("wrong lengths", length),
        ("huge lengths", huge),
        ("short lengths", short),
        ("never arrives", lambda rng, mark: post(rng.choice(ROUTES), form([("title", mark)])[:-20], length=5_000)),
        ("half closed", lambda rng, mark: post(rng.choice(ROUTES), form([("title", mark)])[:-20], length=5_000)),
        ("half closed after a question", lambda rng, mark: asked([("title", mark)])),
        ("compressed", zipped),
        ("no HTTP", noise),
        ("pipelined", pipelined),
        ("expectations", expects),
    ]  # fmt: skip


def slow_callers(port: int, key: str, count: int, seconds: float) -> int:
    """So many connections send a byte a second at most for so long; how many of ordinary requests were answered meanwhile."""
    head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 9000\r\n".encode()
    wires = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    ordinary = Hostile("ordinary", "zqnonezq", b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    for number, wire in enumerate(wires):  # half in the middle of the headers, half in the middle of the body
        wire.sendall(head + (FORM + b"\r\n--ed" if number % 2 else b""))
    answered, done = 0, threading.Event()
    timer = threading.Timer(seconds, done.set)
    timer.start()
    asked = 0
    while not done.wait(0.1):
        asked += 1
        answer = send(port, ordinary)
        answered += answer is not None and answer[0] == 200
        for number, wire in enumerate(wires):
            with contextlib.suppress(OSError):
                wire.send(b"g" if number % 2 else b"X: y\r\n")
    for wire in wires:
        wire.close()
    assert asked
    return answered if answered == asked else -1


def marked_out(text: str) -> str:
    """Without the planted marks, for assertions' texts."""
    return re.sub(r"zq[0-9a-f]{10}zq", "MARK", text)
