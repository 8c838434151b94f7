"""The studio's sessions: signing in and out, what the page needs to know of whoever is there, and the gate before the studio.

The gate is that of the API, but whoever comes shows a session's cookie, and only our own page may act. It puts on every answer
what keeps a browser from running, framing or sending anything that is not ours.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Body, FastAPI, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from countryreward import markets
from countryreward.api.schemas import Market
from countryreward.serving.http.gate import Gate
from countryreward.serving.http.keys import Caller
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_guard import BodyMemory, RequestGuard
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.inference.served_scorer import Backend, ServedScorer
from countryreward.serving.service_config import SharedServiceConfig, StudioConfig, StudioServiceConfig
from countryreward.serving.studio.guests import GuestStore

COOKIE = "countryreward_studio"
OPEN = ("", "/", "/assets/{name}", "/healthz", "/readyz")
"""Routes that need no session."""
SIGN_IN = "/api/session"
"""Neither do GET and POST of this one, but only our own page may post."""
ASKED_BY = "x-studio"
"""A header that a page of another site cannot send, with the value 1, on everything that changes something."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer."""


class SessionGate(Gate):
    """ASGI middleware. Whoever is let in is `request.state.caller`, and `request.state.guest` with a name."""

    asking = ("/api/results",)
    spooled = "/api/reports"

    def __init__(
        self,
        app: ASGIApp,
        *,
        behind: Backend,
        config: SharedServiceConfig,
        guests: GuestStore,
        rates: Rates,
        on_request: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        self.app, self.behind, self.config, self.guests, self.rates, self.on_request = (
            app,
            behind,
            config,
            guests,
            rates,
            on_request,
        )
        self._memory = BodyMemory(config.max_body_memory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                headers.update(HEADERS)
                message = {**message, "headers": headers.raw}
            await send(message)

        await super().__call__(scope, receive, send_safely)

    async def admit(self, scope: Scope, route: BaseRoute | None, headers: Headers, guard: RequestGuard) -> None:
        """Let in, and say who: `scope["state"]`, `caller` and `guest`. One tenant's guests share one rate. Raises `Problem`."""
        path, method = getattr(route, "path", "unknown"), scope["method"]
        if path in (*OPEN, SIGN_IN) and method in ("GET", "HEAD"):
            return
        if method not in ("GET", "HEAD"):
            _demand_our_page(headers)
        if (method, path) == ("POST", SIGN_IN):
            self.room(scope, route, headers, guard, "")
            return
        session = self.guests.check(session_of(headers))
        if session is None:
            raise Problem("signed_out")
        scope["state"]["caller"], scope["state"]["guest"] = caller, _ = session
        self.room(scope, route, headers, guard, caller.tenant)
        await run_in_threadpool(self.rates.charge, shared(caller), 1)


def shared(caller: Caller) -> Caller:
    """The caller as rates count it: all guests of a tenant together."""
    return replace(caller, key_id="studio")


def session_of(headers: Headers) -> str:
    """The one session presented; two different ones are none."""
    sent = {cookie_parser(header).get(COOKIE, "") for header in headers.getlist("cookie")} - {""}
    return sent.pop() if len(sent) == 1 else ""


def _demand_our_page(headers: Headers) -> None:
    """Raises `Problem` unless a page of this very address asks. A browser lets no page forge these headers."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    ours = site == "same-origin" if site is not None else bool(origin) and _host(origin or "") == headers.get("host")
    if not ours or headers.get(ASKED_BY) != "1":
        raise Problem("forbidden", "only the studio's own page may do that; open the studio and try again there")


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


_USED = "this link was used already, is older than three days, or is not complete; ask for a new one"


class Me(BaseModel):
    """What the page is told."""

    name: str
    team: str
    markets: list[Market]
    """Those that were learned; others can be asked, too."""
    others: list[Market]
    max_pictures: int
    max_picture_mb: int
    max_table_mb: int
    kept_hours: float
    simulated: bool
    """Everything known comes from simulated clicks."""
    variants: int
    """Pictures that are made at a time; 0: none can be made."""


def add_session_routes(
    app: FastAPI,
    scorer: ServedScorer,
    config: StudioServiceConfig,
    studio: StudioConfig,
    guests: GuestStore,
    *,
    simulated: bool,
    variants: bool = False,
) -> None:
    """The routes. Only /api/session can be called without a session."""

    @app.post("/api/session", tags=["session"], status_code=204, max_body_size=2_048)
    def sign_in(request: Request, code: Annotated[str, Body(embed=True, max_length=200)]) -> Response:
        """Use an invitation up. The session lies in a cookie that no script can read."""
        signed_in = guests.sign_in(code)
        if signed_in is None:
            raise Problem("signed_out", _USED)
        token, guest = signed_in
        answer = Response(status_code=204)
        _cookie(answer, request, token, guest.days * 86_400)
        return answer

    @app.get("/api/session", tags=["session"])
    def signed_in(request: Request) -> dict[str, bool]:
        """Whether somebody is: an answer that no browser writes into its console as an error."""
        return {"signed_in": guests.check(session_of(request.headers)) is not None}

    @app.delete("/api/session", tags=["session"], status_code=204)
    def sign_out(request: Request) -> Response:
        """End this session for good."""
        guests.revoke(request.state.caller.key_id)
        answer = Response(status_code=204)
        _cookie(answer, request, "", 0)
        return answer

    @app.get("/api/me", tags=["session"])
    def me(request: Request) -> Me:
        """Who is there, and what can be asked. 503 while nothing has told yet what was learned."""
        if not scorer.markets:
            raise Problem("starting", retry_after=2)
        learned = sorted((_market(code) for code in scorer.markets), key=lambda market: market.name)
        trained = set(scorer.markets)
        return Me(
            name=request.state.guest.name,
            team=request.state.caller.tenant,
            markets=learned,
            others=sorted(
                (_market(code) for code in markets.codes() if code not in trained), key=lambda market: market.name
            ),
            max_pictures=studio.max_pictures,
            max_picture_mb=config.max_image_bytes // 2**20,
            max_table_mb=config.max_table_bytes // 2**20,
            kept_hours=config.retention_hours,
            simulated=simulated,
            variants=studio.variants if variants else 0,
        )


def _market(code: str) -> Market:
    return Market(code=code, name=markets.name(code))


def _cookie(answer: Response, request: Request, token: str, seconds: int) -> None:
    """Sent only to this app, only by its own page, never shown to a script; over https only where the page came by https."""
    origin = urlsplit(request.headers.get("origin", ""))
    answer.set_cookie(
        COOKIE,
        token,
        max_age=seconds,
        path=request.scope.get("root_path", "") or "/",
        secure=origin.scheme == "https",
        httponly=True,
        samesite="strict",
    )
