"""Images named by URL: a real TLS server on this machine, a certificate for images.test, and a resolver that lies."""

import asyncio
import contextlib
import io
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fastapi import UploadFile
from starlette.testclient import TestClient

from countryreward.errors import UserError
from countryreward.scoring.contracts import ScoreRequest, Verdict
from countryreward.serving.http.apps import create_app
from countryreward.serving.http.form_fields import file_or_url
from countryreward.serving.http.image_fetcher import FetchRefused, ImageFetcher, is_public
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.service_config import ServiceConfig

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

# 127.0.0.1 stands for a public address here (an own network); 127.0.0.2 is loopback, as for everybody.
PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"


@dataclass
class Server:
    """What a host answers, and what it was asked."""

    port: int = 0
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    redirect: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A self-signed certificate for images.test, a.images.test and other.test, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: no certificate for a local TLS server")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=images.test", "-addext", "subjectAltName=DNS:images.test,DNS:other.test,DNS:a.images.test",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def server(certificate: Path) -> Iterator[Server]:
    told = Server(trust=ssl.create_default_context(cafile=certificate / "cert.pem"))

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append((self.headers["Host"], self.path))
            told.headers.append(dict(self.headers))
            if self.path == "/big-announced":
                self._answer(200, {"Content-Length": "1001"}, b"")
            elif self.path == "/big":
                self._answer(200, {"Connection": "close"}, b"x" * 1001)
            elif self.path == "/gzip":
                self._answer(200, {"Content-Encoding": "gzip", "Content-Length": "4"}, b"\x1f\x8bzz")
            elif self.path == "/slow":
                self._answer(200, {"Content-Length": "10"}, b"x")
                with contextlib.suppress(OSError):
                    self.connection.recv(1)  # says nothing more until the asker hangs up
            elif self.path == "/missing":
                self._answer(404, {"Content-Length": "6"}, b"secret")
            elif self.path == "/go":
                self._answer(302, {"Location": told.redirect, "Content-Length": "0", "Set-Cookie": "a=b"}, b"")
            elif self.path == "/empty":
                self._answer(200, {"Content-Length": "0"}, b"")
            else:
                self._answer(200, {"Content-Length": "5", "Content-Type": "text/html"}, b"image")

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    context.sni_callback = lambda _, name, __: told.names.append(name)
    http = ThreadingHTTPServer((PUBLIC, 0), Answers)
    http.daemon_threads = True
    http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    told.port = http.server_address[1]
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield told
    http.shutdown()
    http.server_close()


class Resolver:
    """Answers in the order given, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.asked = list(answers), []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def fetcher(server: Server, *answers: Sequence[str], **options) -> ImageFetcher:
    return ImageFetcher(
        **{
            "hosts": ["images.test"],
            "max_bytes": 1000,
            "timeout_s": 20,
            "resolve": Resolver(*(answers or ([PUBLIC],))),
            "ports": {server.port},
            "own_networks": [f"{PUBLIC}/32"],
            "verify": server.trust,
        }
        | options
    )


def fetched(by: ImageFetcher, url: str) -> bytes:
    return asyncio.run(by.fetch(url, field="image_a_url"))


def refused(by: ImageFetcher, url: str) -> str:
    with pytest.raises(FetchRefused) as error:
        fetched(by, url)
    message = error.value.message
    assert message.startswith("image_a_url: ")
    assert url not in message
    assert "127.0.0" not in message
    return message.removeprefix("image_a_url: ")


def test_the_connection_goes_to_the_checked_address_and_tls_asks_for_the_hosts_name(server):
    by = fetcher(server)
    assert fetched(by, f"https://IMAGES.test.:{server.port}/a.png?x=1#there") == b"image"
    assert server.asked == [(f"images.test:{server.port}", "/a.png?x=1")]
    assert server.names == ["images.test"]
    assert by._resolve.asked == [("images.test", server.port)]  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
    assert {"Cookie", "Authorization", "Proxy-Authorization"} & set(server.headers[0]) == set()
    assert server.headers[0]["Accept-Encoding"] == "identity"


def test_a_certificate_for_another_name_is_not_taken(server):
    by = fetcher(server, hosts=["elsewhere.test"])
    assert refused(by, f"https://elsewhere.test:{server.port}/a").startswith("the host did not answer")
    assert server.asked == []


def test_an_untrusted_certificate_is_not_taken(server):
    by = fetcher(server, verify=None)
    assert refused(by, f"https://images.test:{server.port}/a").startswith("the host did not answer")
    assert server.asked == []


def test_rebinding_the_name_is_looked_up_once_and_the_checked_answer_used(server):
    by = fetcher(server, [PUBLIC], [PRIVATE])
    assert fetched(by, f"https://images.test:{server.port}/a") == b"image"
    server.redirect = "/a"
    by = fetcher(server, [PUBLIC], [PRIVATE])  # a redirect is looked up anew, and checked anew
    assert refused(by, f"https://images.test:{server.port}/go") == "the host has an address that is not public"


@pytest.mark.parametrize(
    "answer",
    [[PRIVATE], [PUBLIC, PRIVATE], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:10.0.0.1"], ["fe80::1%eth0"],
     ["64:ff9b::a00:1"], ["2002:a00:1::"], ["no address"]],
)  # fmt: skip
def test_one_address_that_is_not_public_refuses_the_host(server, answer):
    assert (
        refused(fetcher(server, answer), f"https://images.test:{server.port}/a")
        == "the host has an address that is not public"
    )
    assert server.asked == []


def test_a_host_without_an_address(server):
    assert refused(fetcher(server, []), f"https://images.test:{server.port}/a") == "the host's address was not found"


def test_a_second_checked_address_is_tried_when_the_first_does_not_listen(server):
    by = fetcher(server, ["127.0.0.3", PUBLIC], own_networks=["127.0.0.3/32", f"{PUBLIC}/32"])
    assert fetched(by, f"https://images.test:{server.port}/a") == b"image"


NOT_LISTED = "this host is not on the list of hosts that images are fetched from"


def test_redirects_within_the_list_are_followed_without_cookies(server):
    server.redirect = f"https://other.test:{server.port}/a"
    by = fetcher(server, hosts=["images.test", "other.test"])
    assert fetched(by, f"https://images.test:{server.port}/go") == b"image"
    assert server.asked[1] == (f"other.test:{server.port}", "/a")
    assert server.names == ["images.test", "other.test"]
    assert "Cookie" not in server.headers[1]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://images.test/a", "only https:// is fetched, also after a redirect"),
        ("https://127.0.0.1:{port}/a", NOT_LISTED),
        ("https://[::1]:{port}/a", NOT_LISTED),
        ("https://10.0.0.1:{port}/a", NOT_LISTED),
        ("//other.test:{port}/a", NOT_LISTED),
        ("https://images.test:22/a", "this port is not fetched from; use 443"),
        ("https://a:b@images.test:{port}/a", "a URL with a user name or password is not fetched"),
        ("file:///etc/passwd", "only https:// is fetched, also after a redirect"),
        ("/go", "more than 3 redirects"),
    ],
)
def test_every_redirect_is_checked_like_the_first_url(server, location, reason):
    server.redirect = location.format(port=server.port)
    assert refused(fetcher(server), f"https://images.test:{server.port}/go") == reason
    assert {path for _, path in server.asked} == {"/go"}
    assert len(server.asked) == (4 if location == "/go" else 1)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://images.test:{port}/a", "only https:// is fetched, also after a redirect"),
        ("HTTP://images.test:{port}/a", "only https:// is fetched, also after a redirect"),
        ("images.test/a", "only https:// is fetched, also after a redirect"),
        ("https://images.test/a", "this port is not fetched from; use 443"),  # only the server's port is open here
        ("https://images.test:{port}@evil.test:{port}/a", "a URL with a user name or password is not fetched"),
        ("https://images.test@evil.test:{port}/a", "a URL with a user name or password is not fetched"),
        ("https://evil.test:{port}/a", NOT_LISTED),
        ("https://evil.test:{port}/https://images.test/", NOT_LISTED),
        ("https://evil.test:{port}#@images.test/", NOT_LISTED),
        ("https://evil.test:{port}?@images.test/", NOT_LISTED),
        ("https://evilimages.test:{port}/a", NOT_LISTED),
        ("https://images.test.evil.test:{port}/a", NOT_LISTED),
        ("https://sub.images.test:{port}/a", NOT_LISTED),
        ("https://127.0.0.1:{port}/a", NOT_LISTED),
        ("https://127。0。0。1:{port}/a", NOT_LISTED),
        ("https://2130706433:{port}/a", NOT_LISTED),
        ("https://0x7f000001:{port}/a", NOT_LISTED),
        ("https://0177.0.0.1:{port}/a", "this is no URL"),
        ("https://0177.1:{port}/a", NOT_LISTED),
        ("https://[::ffff:127.0.0.1]:{port}/a", NOT_LISTED),
        ("https://images.test%00.evil.test:{port}/a", NOT_LISTED),
        ("https://%69mages.test:{port}/a", NOT_LISTED),
        ("https://images.test:99999/a", "this port is not fetched from; use 443"),
        ("https://images.test:{port}x/a", "this is no URL"),
        ("https://ｉmages.test:{port}/a", "this is no URL"),
        ("https:///a", "this port is not fetched from; use 443"),
        ("", "only https:// is fetched, also after a redirect"),
    ],
)
def test_urls_that_are_refused_before_anything_is_looked_up(server, url, reason):
    by = fetcher(server)
    with pytest.raises(FetchRefused) as error:
        fetched(by, url.format(port=server.port))
    assert (error.value.code, error.value.message) == ("invalid_input", f"image_a_url: {reason}")
    assert by._resolve.asked == []  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]


@pytest.mark.parametrize("letter", ["\\", " ", "\t", "\n", "\r", "\x00", "\x7f"])
def test_blanks_controls_and_backslashes(server, letter):
    assert "a blank, a control or a backslash" in refused(fetcher(server), f"https://images.test{letter}@evil.test/a")


def test_an_ideographic_full_stop_is_a_dot_and_the_host_still_must_be_listed(server):
    assert fetched(fetcher(server), f"https://images。test:{server.port}/a") == b"image"
    assert server.names == ["images.test"]


def test_a_list_entry_with_a_dot_in_front_is_every_name_under_it(server):
    under = fetcher(server, hosts=[".images.test"])
    assert fetched(under, f"https://a.images.test:{server.port}/a") == b"image"
    assert refused(under, f"https://images.test:{server.port}/a") == NOT_LISTED
    assert refused(under, f"https://evilimages.test:{server.port}/a") == NOT_LISTED


@pytest.mark.parametrize("path", ["/big", "/big-announced"])
def test_a_large_file_is_left_announced_or_not(server, path):
    by = fetcher(server)
    with pytest.raises(FetchRefused) as error:
        fetched(by, f"https://images.test:{server.port}{path}")
    assert (error.value.status, error.value.message) == (
        413,
        "image_a_url: larger than 1000 bytes; shrink the file",
    )


def test_a_slow_body_ends_with_the_time_for_all(server):
    by = fetcher(server, timeout_s=0.5)
    assert refused(by, f"https://images.test:{server.port}/slow") == "the host took longer than 0.5 seconds"


def test_a_packed_body_is_never_unpacked(server):
    assert fetched(fetcher(server), f"https://images.test:{server.port}/gzip") == b"\x1f\x8bzz"


def test_other_answers(server):
    by = fetcher(server)
    assert refused(by, f"https://images.test:{server.port}/missing") == "the host answered with status 404"
    assert refused(by, f"https://images.test:{server.port}/empty") == "the file is empty"


def test_without_a_list_no_url_is_fetched():
    by = ImageFetcher([], max_bytes=1000)
    assert refused(by, "https://images.test/a") == "URLs are not fetched here; send the file itself"


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetched(fetcher(server), f"https://images.test:{server.port}/a") == b"image"


@pytest.mark.parametrize("entry", ["", ".", ".test", "https://images.test", "images.test/a", "127.0.0.1", "[::1]",
                                   "*.images.test", "images.test:443", "a@images.test", "localhost"])  # fmt: skip
def test_a_list_entry_that_is_no_host_name(entry):
    with pytest.raises(UserError, match=r"^image_hosts: .* is no host name"):
        ImageFetcher([entry], max_bytes=1000)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_public_addresses(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1", "192.0.2.1",
     "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
     "::", "::1", "::7f00:1", "fc00::1", "fe80::1", "fec0::1", "ff0e::1", "2001:db8::1", "2001:0:808:808::1",
     "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::"],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(ip_address(address))


class Echo:
    """An AsyncScorer that keeps what it was asked."""

    markets = ("KR",)

    def __init__(self) -> None:
        self.asks: list[ScoreRequest] = []

    async def about(self) -> dict[str, Any]:
        return {"model": None, "knowledge_base": None}

    def ready(self) -> bool:
        return True

    def busy(self, tenant: str = "") -> float | None:
        return None

    async def score(self, ask: ScoreRequest, /) -> list[Verdict]:
        self.asks.append(ask)
        return []


@pytest.fixture
def service(tmp_path: Path) -> tuple[Echo, TestClient]:
    """The app that fetches nothing."""
    asked, keys = Echo(), KeyStore(tmp_path / "keys.json", 0)
    app = create_app(asked, ServiceConfig(), keys=keys, rates=Rates("memory://"))
    headers = {"Authorization": f"Bearer {keys.create('t')}", "X-Request-ID": "request1"}
    return asked, TestClient(app, headers=headers)


FILE = ("a.png", b"one", "image/png")


def test_score_takes_two_files(service):
    asked, client = service
    answer = client.post("/v1/score", data={"title": "Lamp"}, files={"image_a": FILE, "image_b": ("b", b"two")})
    assert answer.json() == {"request_id": "request1", "verdicts": []}
    assert [creative.image for creative in asked.asks[0].creatives] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("urls", "files", "message"),
    [
        ({"image_b_url": "https://images.test/b"}, {"image_a": FILE},
         "image_b_url: URLs are not fetched here; send the file itself"),
        ({}, {"image_a": FILE}, "image_b: send either the file as image_b or its address as image_b_url"),
        ({"image_b_url": ""}, {"image_a": FILE}, "image_b: send either the file as image_b or its address as image_b_url"),
        ({"image_a_url": "https://images.test/a"}, {"image_a": FILE, "image_b": FILE},
         "image_a: send either the file as image_a or its address as image_a_url"),
    ],
)  # fmt: skip
def test_score_takes_of_each_image_the_file_or_the_address(service, urls, files, message):
    asked, client = service
    answer = client.post("/v1/score", data={"title": "Lamp", **urls}, files=files)
    assert answer.status_code == 422
    assert answer.json() == {"error": {"code": "invalid_input", "message": message, "request_id": "request1"}}
    assert asked.asks == []


def test_a_url_beside_a_file(server):
    upload = UploadFile(io.BytesIO(b"one"), filename="a.png")
    by, config = fetcher(server), ServiceConfig()
    assert asyncio.run(file_or_url(upload, None, "image_a", config, by)) == b"one"
    url = f"https://images.test:{server.port}/a"
    assert asyncio.run(file_or_url(None, url, "image_b", config, by)) == b"image"
