"""The studio over raw ASGI: who may do what, from which page; results, tables, variants; and that all of it can be deleted."""

import asyncio
import contextlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from countryreward import cli
from countryreward.api.schemas import (
    DesignFields,
    GeneratedImage,
    GeneratedRanking,
    ImageFidelity,
    RankedImage,
)
from countryreward.scoring.contracts import Evidence, PastAd, Product, Verdict
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.durable_jobs.batch.batch_store import JobStore
from countryreward.serving.durable_jobs.generation.generation_results import write_image, write_rankings
from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.service_config import ServiceConfig, StudioConfig
from countryreward.serving.studio.campaigns import CampaignStore
from countryreward.serving.studio.guests import FILE, GuestStore
from countryreward.serving.studio.sample import Campaign
from countryreward.serving.studio.sessions import COOKIE, HEADERS, OPEN
from countryreward.serving.studio.studio_app import create_studio_app
from tests.unit.asgi import MULTIPART, Answered, call, form
from tests.unit.in_threads import ThreadedScorer, each_pair

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

PREFIX = "/studio"
OURS = [("Host", "ads.example"), ("Origin", "https://ads.example"), ("X-Studio", "1")]
JSON = ("Content-Type", "application/json")
MARK = "zqmarkerqz"


def picture(shade: int, kind: str = "PNG", px: int = 32) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((px, px, 3), shade, np.uint8)).save(file, kind)
    return file.getvalue()


DARK, LIGHT = picture(10), picture(240)


def brightness(file: bytes) -> float:
    """0 of what is no picture: refusing it is not this scorer's business."""
    with contextlib.suppress(OSError):
        return float(np.asarray(Image.open(io.BytesIO(file))).mean())
    return 0.0


def past(creative: str, lift: float, impressions: int | None) -> PastAd:
    return PastAd(
        creative_id=creative,
        product_id="p",
        title=f"Lamp {creative}",
        similarity=0.9,
        lift=lift,
        value=0.01,
        impressions=impressions,
        image_row=0,
        headline="Warm light" if creative == "a" else None,
    )


class Brighter:
    """The brighter picture wins in KR with .93; BR is too close; others have no past ads."""

    def score(self, requests):
        return [[self._one(pair) for pair in each_pair(request)] for request in requests]

    def _one(self, request) -> Verdict:
        first = brightness(request.image_a) > brightness(request.image_b)
        chance = {"KR": 0.93, "BR": 0.52}.get(request.market, 0.5)
        known = request.market in ("KR", "BR")
        ads = (Evidence(like_a=past("a", 0.2, 1000), like_b=past("b", -0.3, None), weight=1.0, vote=0.9),)
        return Verdict(
            market=request.market,
            probability=chance if first else 1 - chance,
            calibrated_probability=chance if first else 1 - chance,
            choice=("A" if first else "B") if known else None,
            log_odds=1.0,
            evidence=ads if known else (),
            past_ads=78 if known else 0,
            model_version="m1",
            knowledge_base_version="k1",
            note=None if known else "no evidence: no past ad of this market may speak",
        )


@dataclass
class Service:
    """The app with all it was given."""

    config: ServiceConfig
    guests: GuestStore
    asked: ThreadedScorer
    generations: GenerationStore
    app: FastAPI
    seen: list[RequestRecord] = field(default_factory=list)

    def session(self, tenant: str = "acme", name: str = "Ana", rate: str = "6000/minute") -> str:
        signed_in = self.guests.sign_in(self.guests.invite(tenant, name, 30, rate))
        assert signed_in
        return signed_in[0]

    def call(self, method: str, path: str, session: str = "", headers=(), body: Any = b"", **options) -> Answered:
        sent = [*headers, *([("Cookie", f"{COOKIE}={session}")] if session else [])]
        if method not in ("GET", "HEAD") and not options.pop("bare", False):
            sent += OURS
        if isinstance(body, dict):
            body, sent = json.dumps(body).encode(), [*sent, JSON]
        return call(self.app, method, path, sent, body, root_path=PREFIX, **options)

    def compare(self, session: str, pictures=(DARK, LIGHT), markets=("KR", "BR"), title="Oak desk lamp") -> Answered:
        fields = [("title", title), *(("markets", market) for market in markets)]
        body = form(fields, [("pictures", one) for one in pictures], name="lamp.png")
        return self.call("POST", "/api/results", session, [MULTIPART], body)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Service]:
    """`make(max_pictures=3)`: a studio with these options."""

    def made(static: Path | None = None, **options) -> Service:
        config = ServiceConfig(state=str(tmp_path / "state"), poll_s=0.05)
        guests, seen = GuestStore(tmp_path / "state" / FILE, 1e-9), []
        asked, generations = ThreadedScorer(Brighter(), ["KR", "BR"], {"model": "m1"}), GenerationStore(config)
        page = tmp_path / "static"
        page.mkdir(exist_ok=True)
        (page / "index.html").write_text('<script src="assets/app-ABCDEFG1.js"></script>')
        (page / "app-ABCDEFG1.js").write_text("1")
        app = create_studio_app(
            asked,
            config,
            sessions=guests,
            batch_store=JobStore(config),
            sample=Campaign(product=Product(title="Mug"), pictures=(DARK, LIGHT), note="A sample.", simulated=True),
            rates=Rates("memory://"),
            generations=generations,
            studio=StudioConfig(**options),
            on_request=seen.append,
            static=static or page,
        )
        return Service(config, guests, asked, generations, app, seen)

    return made


@pytest.fixture
def service(make) -> Service:
    return make()


RESULT, JOB, NEW = "r-" + "0" * 32, "b-0123456789abcdef", "g-0123456789abcdef"
ROUTES = [
    ("GET", "/api/me"),
    ("DELETE", "/api/session"),
    ("GET", "/api/sample"),
    ("GET", "/api/sample/pictures/0"),
    ("POST", "/api/results"),
    ("GET", "/api/results"),
    ("GET", f"/api/results/{RESULT}"),
    ("GET", f"/api/results/{RESULT}/pictures/0"),
    ("DELETE", f"/api/results/{RESULT}"),
    ("POST", f"/api/results/{RESULT}/variants"),
    ("GET", f"/api/results/{RESULT}/variants"),
    ("POST", "/api/reports"),
    ("GET", "/api/reports"),
    ("GET", f"/api/reports/{JOB}"),
    ("GET", f"/api/reports/{JOB}/file"),
    ("DELETE", f"/api/reports/{JOB}"),
    ("GET", f"/api/variants/{NEW}"),
    ("GET", f"/api/variants/{NEW}/pictures/0"),
    ("DELETE", f"/api/variants/{NEW}"),
    ("DELETE", "/api/everything"),
    ("GET", "/openapi.json"),
]
CHANGING = [one for one in ROUTES if one[0] != "GET"]


def plain(path: str) -> str:
    """As the app declares it."""
    path = path.replace(RESULT, "{result_id}").replace(JOB, "{job_id}").replace(NEW, "{job_id}")
    number = "{n}" if "/variants/{" in path else "{number}"
    return path.replace("/pictures/0", f"/pictures/{number}")


# Who may pass


def test_the_table_above_names_every_route(service):
    told = {(method, route.path) for route in service.app.routes for method in route.methods or () if method != "HEAD"}
    opened = {("GET", path) for path in OPEN} | {("POST", "/api/session"), ("GET", "/api/session")}
    assert told == {(method, plain(path)) for method, path in ROUTES} | opened


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "who", ["nobody", "a wrong one", "malformed", "two", "revoked", "expired", "an API key", "an invitation"]
)
def test_every_route_refuses_who_is_not_signed_in_and_reads_no_body(service, method, path, who):
    session = service.session()
    presented = {
        "nobody": "",
        "a wrong one": session[:12] + "a" * 43,
        "malformed": "cs_x",
        "two": f"{session}; {COOKIE}=cs_00000000_{'a' * 43}",
        "an API key": KeyStore(Path(service.config.state) / "keys.json", 1e-9).create("acme"),
        "an invitation": service.guests.invite("acme", "Eve"),
    }.get(who, session)
    if who == "two":
        answered = call(
            service.app,
            method,
            path,
            [*OURS, MULTIPART, ("Cookie", f"{COOKIE}={session}"), ("Cookie", f"{COOKIE}=cs_00000000_{'a' * 43}")],
            b"body",
            root_path=PREFIX,
        )
    else:
        if who == "revoked":
            service.guests.revoke(session[3:11])
        if who == "expired":
            told = json.loads(service.guests.path.read_text())
            told["guests"][session[3:11]]["expires"] = "2026-01-01T00:00:00+00:00"
            service.guests.path.write_text(json.dumps(told))
        answered = service.call(method, path, presented, [MULTIPART], b"body")
    assert (answered.status, answered.code(), answered.reads) == (401, "signed_out", 0)
    assert answered.header("www-authenticate") is None
    assert service.seen[-1].route == plain(path)


@pytest.mark.parametrize(("method", "path"), [*CHANGING, ("POST", "/api/session")])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Studio", "1")],
        [("Host", "ads.example"), ("Origin", "https://ads.example")],
        [("Host", "ads.example"), ("Origin", "https://evil.example"), ("X-Studio", "1")],
        [("Host", "ads.example"), ("Origin", "null"), ("X-Studio", "1")],
        [("Host", "ads.example"), ("Origin", "https://["), ("X-Studio", "1")],
        [
            ("Host", "ads.example"),
            ("Origin", "https://ads.example"),
            ("Sec-Fetch-Site", "cross-site"),
            ("X-Studio", "1"),
        ],
        [
            ("Host", "ads.example"),
            ("Origin", "https://ads.example"),
            ("Sec-Fetch-Site", "same-site"),
            ("X-Studio", "1"),
        ],
        [("Host", "ads.example"), ("Origin", "https://ads.example"), ("Sec-Fetch-Site", "none"), ("X-Studio", "1")],
    ],
)
def test_another_page_changes_nothing_even_with_the_cookie(service, method, path, headers):
    answered = service.call(method, path, service.session(), [*headers, MULTIPART], b"body", bare=True)
    assert (answered.status, answered.code(), answered.reads) == (403, "forbidden", 0)


@pytest.mark.parametrize(
    "path", ["/", "/assets/app-ABCDEFG1.js", "/api/me", "/healthz", "/nothing", "/assets/index.html"]
)
def test_every_answer_tells_the_browser_what_it_may_not(service, path):
    answered = service.call("GET", path)
    for name, value in HEADERS.items():
        assert answered.header(name) == value
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert "http" not in HEADERS["Content-Security-Policy"]


def test_the_page_and_its_files(service, make, tmp_path):
    page = service.call("GET", "/")
    assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
    assert page.header("cache-control") == "no-store"
    asset = service.call("GET", "/assets/app-ABCDEFG1.js")
    assert (asset.status, asset.body) == (200, b"1")
    assert asset.header("cache-control") == "public, max-age=31536000, immutable"
    for name in ("index.html", "..%2findex.html", "app-ABCDEFG1.jsx", "%2e%2e"):
        assert service.call("GET", f"/assets/{name}").code() == "not_found"
    bare = service.call("GET", "")
    assert (bare.status, bare.header("location")) == (308, "/studio/")
    unbuilt = make(static=tmp_path / "nowhere").call("GET", "/")
    assert b"make studio" in unbuilt.body


# Signing in and out


def test_an_invitation_lets_in_once_and_its_cookie_is_out_of_reach(service):
    code = service.guests.invite("acme", "Ana", 30)
    first = service.call("POST", "/api/session", body={"code": code})
    assert first.status == 204
    cookie = first.header("set-cookie") or ""
    token = re.match(rf"{COOKIE}=(cs_[0-9a-f]{{8}}_[\w-]{{43}}); ", cookie)
    assert token
    assert sorted(cookie.split("; ")[1:]) == [
        "HttpOnly",
        "Max-Age=2592000",
        "Path=/studio",
        "SameSite=strict",
        "Secure",
    ]
    me = service.call("GET", "/api/me", token[1]).json()
    assert (me["name"], me["team"], me["simulated"], me["variants"]) == ("Ana", "acme", True, 4)
    assert [one["code"] for one in me["markets"]] == ["BR", "KR"]
    again = service.call("POST", "/api/session", body={"code": code})
    assert (again.status, again.code()) == (401, "signed_out")
    text = service.guests.path.read_text()
    assert code not in text
    assert token[1] not in text
    assert service.guests.path.stat().st_mode & 0o777 == 0o600
    out = service.call("DELETE", "/api/session", token[1])
    assert (out.status, "Max-Age=0" in (out.header("set-cookie") or "")) == (204, True)
    assert service.call("GET", "/api/me", token[1]).code() == "signed_out"


def test_over_http_the_cookie_is_not_secure_but_otherwise_the_same(service):
    code = service.guests.invite("acme", "Ana")
    headers = [("Host", "127.0.0.1:8000"), ("Origin", "http://127.0.0.1:8000"), ("X-Studio", "1"), JSON]
    answered = service.call("POST", "/api/session", "", headers, json.dumps({"code": code}).encode(), bare=True)
    assert "Secure" not in (answered.header("set-cookie") or "Secure")


@pytest.mark.parametrize("code", ["", "ci_", "ci_00000000_" + "a" * 43, "x" * 200, "\udcff", "ключ", None, 7, ["a"]])
def test_what_is_no_invitation_lets_nobody_in(service, code):
    service.guests.invite("acme", "Ana")
    answered = service.call("POST", "/api/session", body={"code": code})
    assert answered.code() in ("signed_out", "invalid_input")
    assert answered.header("set-cookie") is None


def test_a_lapsed_or_revoked_invitation_lets_nobody_in(service):
    lapsed, revoked = service.guests.invite("acme", "Ana"), service.guests.invite("acme", "Bo")
    service.guests.revoke(revoked[3:11])
    told = json.loads(service.guests.path.read_text())
    told["guests"][lapsed[3:11]]["open_until"] = "2026-01-01T00:00:00+00:00"
    service.guests.path.write_text(json.dumps(told))
    for code in (lapsed, revoked):
        assert service.call("POST", "/api/session", body={"code": code}).code() == "signed_out"


def test_a_session_made_at_one_replica_holds_at_another_at_once(service, tmp_path):
    other = GuestStore(tmp_path / "state" / FILE, poll_s=3_600)
    code = service.guests.invite("acme", "Ana")
    assert other.check("cs_" + code[3:]) is None  # it has looked: the next look is in an hour
    signed_in = service.guests.sign_in(code)
    assert signed_in
    known = other.check(signed_in[0])
    assert known
    assert known[0].tenant == "acme"


def test_whether_somebody_is_signed_in_can_be_asked_without_an_error(service):
    session = service.session()
    assert service.call("GET", "/api/session").json() == {"signed_in": False}
    assert service.call("GET", "/api/session", "cs_x").json() == {"signed_in": False}
    assert service.call("GET", "/api/session", session).json() == {"signed_in": True}


# Bodies


@pytest.mark.parametrize(
    ("path", "size"), [("/api/session", 2_049), ("/api/results", 300 * 2**20), ("/api/reports", 600 * 2**20)]
)
def test_bodies_that_are_too_large_are_refused_unread(service, path, size):
    headers = [MULTIPART, ("Content-Length", str(size))]
    answered = service.call("POST", path, service.session(), headers, b"x", length=False)
    assert (answered.status, answered.code(), answered.reads) == (413, "too_large", 0)


def test_a_body_of_no_told_length_ends_where_it_is_too_long(service):
    answered = service.call("POST", "/api/session", "", [JSON], [b"x" * 1_000] * 9, length=False)
    assert (answered.status, answered.code()) == (413, "too_large")


def test_who_leaves_in_the_middle_leaves_no_memory_behind(make):
    service = make()
    for _ in range(3):
        service.call("POST", "/api/results", service.session(), [MULTIPART], [b"--edge"], length=False, leaves=True)
    assert service.compare(service.session()).status == 201


def test_forms_of_thousands_of_files_are_refused(service):
    body = form([("title", "Lamp")], [("pictures", b"x")] * 1_200)
    answered = service.call("POST", "/api/results", service.session(), [MULTIPART], body)
    assert answered.code() in ("invalid_input", "too_large")


# Results


def test_pictures_are_compared_market_by_market_in_plain_words(service):
    answered = service.compare(service.session(), markets=("KR", "BR", "FR"))
    assert answered.status == 201
    result = answered.json()
    korea, brazil, france = result["markets"]
    assert (korea["winner"], korea["sure"], korea["words"], korea["past_ads"]) == (1, 93, "very sure", 78)
    assert korea["ads"] == [
        {"like": 0, "title": "Lamp a", "headline": "Warm light", "effect": "+22 % clicks", "good": True},
        {"like": 1, "title": "Lamp b", "headline": "", "effect": "fell behind its product's other ads", "good": False},
    ]
    assert (korea["claim"], result["headlines"]) == ("won as delivered", ["", ""])
    assert (brazil["winner"], brazil["words"]) == (None, "not sure")
    assert "too close" in brazil["why"]
    assert (france["winner"], france["past_ads"]) == (None, 0)
    assert "no past ads from France" in france["why"]
    assert result["pictures"] == ["lamp.png", "lamp.png"]
    said = re.sub(rb'"id":"[^"]*"', b"", answered.body)
    assert not re.search(rb"probab|calibr|infer|model|abstain|embed|odds", said, re.IGNORECASE)


def test_three_pictures_the_best_beside_the_second_best(service):
    result = service.compare(service.session(), (DARK, picture(120), LIGHT), ("KR",)).json()
    (korea,) = result["markets"]
    assert (korea["winner"], korea["order"], korea["shares"]) == (2, [2, 1, 0], [7, 50, 93])


def test_one_picture_with_two_headlines_is_compared(service):
    copies = json.dumps([{"headline": "Warm light", "body": "Oak"}, None])
    fields = [("title", "Lamp"), ("markets", "KR"), ("copies", copies)]
    body = form(fields, [("pictures", DARK), ("pictures", DARK)])
    answered = service.call("POST", "/api/results", service.session(), [MULTIPART], body)
    assert (answered.status, answered.json()["headlines"]) == (201, ["Warm light", ""])
    body = form([("title", "Lamp"), ("copies", "[null]")], [("pictures", DARK), ("pictures", DARK)])
    answered = service.call("POST", "/api/results", service.session(), [MULTIPART], body)
    assert answered.json()["error"]["message"] == "copies: 1 entries for 2 images; send one, or null, for each"


def test_results_are_the_teams_own(service):
    ana, bo, eve = service.session(), service.session(name="Bo"), service.session("other")
    result_id = service.compare(ana).json()["id"]
    path = f"/api/results/{result_id}"
    assert service.call("GET", path, bo).json()["by"] == "Ana"
    shown = service.call("GET", f"{path}/pictures/1", bo)
    assert Image.open(io.BytesIO(shown.body)).size == (32, 32)
    for method, where in (("GET", path), ("GET", f"{path}/pictures/0"), ("DELETE", path), ("GET", f"{path}/variants")):
        assert service.call(method, where, eve).code() == "not_found"
    assert service.call("GET", "/api/results", eve).json() == {"results": []}
    for number in ("2", "-1", "99999999999999999999"):
        assert service.call("GET", f"{path}/pictures/{number}", ana).code() == "not_found"
    assert service.call("DELETE", path, bo).status == 204
    assert service.call("GET", path, ana).code() == "not_found"


def test_kept_pictures_are_small_and_without_what_was_hidden_in_them(service):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = MARK
    Image.fromarray(np.full((900, 1_800, 3), 200, np.uint8)).save(file, "JPEG", exif=exif)
    session = service.session()
    result = service.compare(session, (DARK, file.getvalue())).json()
    kept = service.call("GET", f"/api/results/{result['id']}/pictures/1", session).body
    assert Image.open(io.BytesIO(kept)).size == (640, 320)
    assert MARK.encode() not in kept


def test_results_are_deleted_after_their_time(service):
    result_id = service.compare(service.session()).json()["id"]
    later = CampaignStore(service.config, StudioConfig(), lambda: datetime.now(UTC) + timedelta(hours=25))
    folder = Path(service.config.state) / "studio" / "acme" / "results" / result_id
    assert folder.exists()
    assert later.results("acme") == []
    later.sweep()
    assert not folder.exists()


def test_the_oldest_results_give_way(make):
    service = make(max_results=2)
    session = service.session()
    made = [service.compare(session, title=f"Lamp {number}").json()["id"] for number in range(3)]
    shown = [one["id"] for one in service.call("GET", "/api/results", session).json()["results"]]
    assert sorted(shown) == sorted(made[1:])


@pytest.mark.parametrize(
    ("pictures", "title", "told"),
    [
        ((DARK,), "Lamp", "Choose 2 to 8 pictures"),
        ((DARK,) * 9, "Lamp", "Choose 2 to 8 pictures"),
        ((DARK, LIGHT), " ", "Say what the product is"),
        ((DARK, MARK.encode()), "Lamp", "Picture 2: it cannot be opened"),
        ((b"GIF89a", LIGHT), "Lamp", "Picture 1: it is of another kind"),
        ((DARK, b""), "Lamp", "Picture 2: the file is empty"),
        (
            (DARK, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0" + b"\0" * 50),
            "Lamp",
            "Picture 2: it has too many pixels",
        ),
    ],
)
def test_what_cannot_be_compared_says_what_to_do_and_keeps_nothing(service, pictures, title, told):
    session = service.session()
    answered = service.compare(session, pictures, title=title)
    assert answered.status == 422
    assert told in answered.json()["error"]["message"]
    assert MARK.encode() not in answered.body
    assert service.call("GET", "/api/results", session).json() == {"results": []}


def test_a_teams_guests_share_a_rate(service):
    ana, bo = service.session(rate="10/minute"), service.session(name="Bo", rate="10/minute")
    assert service.compare(ana, markets=("KR", "BR")).status == 201
    assert [service.call("GET", "/api/me", bo).status for _ in range(9)] == [200] * 8 + [429]


def test_the_sample_is_judged_once_and_marked(service):
    session = service.session()
    sample = service.call("GET", "/api/sample", session).json()
    assert (sample["note"], sample["markets"][0]["winner"], len(sample["markets"])) == ("A sample.", 1, 2)
    shown = service.call("GET", "/api/sample/pictures/1", session)
    assert (shown.body, shown.header("content-type")) == (LIGHT, "image/png")
    assert service.call("GET", "/api/sample/pictures/-1", session).code() == "not_found"


# Tables


def worked_off(service: Service) -> None:
    """As the reward's replicas do."""

    async def work() -> None:
        jobs = BatchJobs(service.asked, service.config)
        await jobs.start()
        while jobs.store.open_jobs():
            await asyncio.sleep(0.02)
        await jobs.stop()

    asyncio.run(work())


def send_table(service: Service, session: str, rows: str) -> Answered:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("a.png", DARK)
        files.writestr("b.png", LIGHT)
    header = "row_id,title,image_a,image_b,market\n"
    body = form([], [("table", (header + rows).encode()), ("images", archive.getvalue())], name="lamps.csv")
    return service.call("POST", "/api/reports", session, [MULTIPART], body)


def test_a_table_becomes_a_report_in_plain_words(service):
    session, other = service.session(), service.session("other")
    sent = send_table(service, session, "=r1,Lamp,a.png,b.png,KR\nr2,Lamp,a.png,b.png,BR\nr3,Lamp,a.png,c.png,KR\n")
    assert (sent.status, sent.json()["state"], sent.json()["name"]) == (202, "waiting", "lamps.csv")
    path = f"/api/reports/{sent.json()['id']}"
    assert service.call("GET", f"{path}/file", session).code() == "conflict"
    worked_off(service)
    report = service.call("GET", path, session).json()
    assert (report["state"], report["rows"], report["done"], report["refused"]) == ("done", 3, 3, 1)
    lines = service.call("GET", f"{path}/file", session).body.decode("utf-8-sig").splitlines()
    assert lines[0] == "row,row_id,product_id,market,country,choose,how_sure,in_a_hundred,past_ads,remark"
    assert lines[1] == "1,'=r1,,KR,South Korea,image_b,very sure,93,78,"
    assert lines[2] == "2,r2,,BR,Brazil,not sure,not sure,52,78,"
    assert lines[3].startswith("3,r3,,,,not compared,,,,image_b: the zip holds no picture of this name")
    for method, where in (("GET", path), ("GET", f"{path}/file"), ("DELETE", path)):
        assert service.call(method, where, other).code() == "not_found"
    assert service.call("DELETE", path, session).status == 204
    assert service.call("GET", "/api/reports", session).json() == {"reports": []}


def test_jobs_sent_by_key_are_not_the_studios(service):
    from countryreward.serving.durable_jobs.batch.batch_store import create_job

    job = create_job(JobStore(service.config), tenant="acme", ending="csv", table=io.BytesIO(b"row_id\n"))
    session = service.session()
    assert service.call("GET", "/api/reports", session).json() == {"reports": []}
    assert service.call("DELETE", f"/api/reports/{job.id}", session).code() == "not_found"
    service.call("DELETE", "/api/everything", session)
    assert JobStore(service.config).find("acme", job.id)[1].state == "waiting"


# Variants


def made(service: Service, job_id: str, beats: list[float]) -> None:
    """As the generator's replicas do, with a picture per number: the chance to beat the original."""
    store = service.generations
    claim = store.claim()
    assert claim
    assert claim.job.id == job_id
    design = DesignFields(foreground="No text.", background="A beach.", color_tone="Blue.", lighting="Sun.")
    for n in range(len(beats)):
        fidelity = ImageFidelity(edges=0.9, look=0.9, score=0.4 if n else 0.9)
        written = {"market": "KR", "writer": "w1"} if n else {}
        image = GeneratedImage(
            n=n, design=design, seed=n, px=32, sha256="0" * 64, fidelity=fidelity, made={}, **written
        )
        write_image(claim.folder, image, picture(200 + n))
    order = sorted(range(len(beats)), key=lambda n: -beats[n])
    images = [RankedImage(n=n, rank=rank, win_share=0.5, beats_original=beats[n]) for rank, n in enumerate(order, 1)]
    write_rankings(claim.folder, [GeneratedRanking(market="KR", images=images)])
    store.end(claim.folder, claim.job, "done")
    claim.lease.release()


def test_new_pictures_stand_beside_the_one_they_were_made_of(make):
    service = make(variants=3)
    session, other = service.session(), service.session("other")
    result_id = service.compare(session).json()["id"]
    path = f"/api/results/{result_id}/variants"
    asked = service.call("POST", path, session, body={"picture": 1, "market": "KR"})
    assert (asked.status, asked.json()["state"], asked.json()["total"]) == (202, "waiting", 3)
    new = f"/api/variants/{asked.json()['id']}"
    made(service, asked.json()["id"], [0.52, 0.2, 0.8])
    told = service.call("GET", path, session).json()["variants"]
    assert [(one["id"], one["state"], one["market"], one["picture"]) for one in told] == [
        (asked.json()["id"], "done", "KR", 1)
    ]
    keys = ("n", "place", "ahead", "sure", "words", "check", "origin")
    assert [tuple(one[key] for key in keys) for one in told[0]["variants"]] == [
        (2, 1, True, 80, "sure", True, "Made for South Korea"),
        (0, 2, None, 52, "not sure", False, "From our standard designs"),
        (1, 3, False, 80, "sure", True, "Made for South Korea"),
    ]
    shown = service.call("GET", f"{new}/pictures/2", session)
    assert (shown.header("content-type"), shown.body[:4]) == ("image/png", b"\x89PNG")
    for method, where in (("GET", new), ("GET", f"{new}/pictures/2"), ("DELETE", new)):
        assert service.call(method, where, other).code() == "not_found"
    for body in ({"picture": 2, "market": "KR"}, {"picture": 1, "market": "FR"}, {"picture": -1, "market": "KR"}, {}):
        assert service.call("POST", path, session, body=body).code() in ("not_found", "invalid_input")
    again = service.call("POST", path, session, body={"picture": 1, "market": "KR"}).json()
    assert (again["id"] != asked.json()["id"], again["state"]) == (True, "waiting")
    assert service.call("DELETE", new, session).status == 204
    assert service.call("GET", new, session).code() == "not_found"


# Deleting


def test_everything_of_the_team_and_nothing_else_is_deleted(service):
    ana, eve = service.session(), service.session("other")
    result_id = service.compare(ana).json()["id"]
    asked = service.call("POST", f"/api/results/{result_id}/variants", ana, body={"picture": 0, "market": "KR"})
    send_table(service, ana, "r1,Lamp,a.png,b.png,KR\n")
    theirs = service.compare(eve).json()["id"]
    assert asked.status == 202
    told = service.call("DELETE", "/api/everything", ana).json()
    assert told == {"results": 1, "reports": 1, "variants": 1}
    left = [path for path in Path(service.config.state).rglob("*") if path.is_file() and "acme" in path.parts]
    assert [path for path in left if path.name != ".lock"] == []
    assert service.call("GET", f"/api/results/{theirs}", eve).status == 200


@pytest.mark.parametrize("tenant", ["..", "../x", "a/b", "A", "", "~x"])
def test_a_tenant_of_an_odd_name_is_never_invited(service, tenant):
    from countryreward.errors import UserError

    with pytest.raises(UserError, match="tenant"):
        service.guests.invite(tenant, "Ana")


def test_ids_from_outside_lead_nowhere(service):
    session = service.session()
    service.compare(session)
    for odd in ("..", "%2e%2e", "r-", "r-" + "A" * 32, RESULT + "%00", "../" + RESULT, MARK):
        for where in (
            f"/api/results/{odd}",
            f"/api/results/{odd}/pictures/0",
            f"/api/reports/{odd}",
            f"/api/variants/{odd}",
        ):
            answered = service.call("GET", where, session)
            assert answered.code() in ("not_found", "invalid_input")
            assert MARK.encode() not in answered.body


def test_the_page_about_it_names_every_option_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "studio.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \|$", page, re.MULTILINE))
    assert told == {one.name: str(getattr(StudioConfig(), one.name)) for one in fields(StudioConfig)}


def test_the_command_prints_a_link_that_works_and_ends_it(service, capsys):
    state = ["--state", service.config.state]
    cli.main(
        ["keys", "invite", "--tenant", "acme", "--name", "Ana", "--days", "7", "--url", "https://ads.example/", *state]
    )
    link = capsys.readouterr().out.strip()
    url, _, code = link.partition("#invite=")
    assert url == "https://ads.example/studio/"
    assert service.call("POST", "/api/session", body={"code": code}).status == 204
    cli.main(["keys", "list", *state])
    assert re.search(rf"{code[3:11]}  signed in  acme .* studio, Ana ", capsys.readouterr().out)
    cli.main(["keys", "revoke", code[3:11], *state])
    assert [guest.state() for guest in service.guests.list()] == ["revoked"]
