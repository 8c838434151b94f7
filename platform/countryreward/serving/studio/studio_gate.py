"""The studio's gate: the same as before the API, but whoever comes shows a session's cookie, and only our own page may act.

It puts on every answer what keeps a browser from running, framing or sending anything that is not ours.
"""

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from countryreward.serving.http.gate import Gate
from countryreward.serving.http.keys import Caller
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_guard import BodyMemory, RequestGuard
from countryreward.serving.http.request_log import RequestLog
from countryreward.serving.inference.async_scorer import Answering
from countryreward.serving.service_config import ServiceConfig
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
        behind: Answering,
        config: ServiceConfig,
        guests: GuestStore,
        rates: Rates,
        seen: Callable[[RequestLog], None] | None = None,
    ) -> None:
        self.app, self.behind, self.config, self.guests, self.rates, self.seen = (
            app,
            behind,
            config,
            guests,
            rates,
            seen,
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

    async def admit(self, scope: Scope, route: BaseRoute | None, headers: Headers, exchange: RequestGuard) -> None:
        """See `Gate`. One tenant's guests share one rate."""
        path, method = getattr(route, "path", "unknown"), scope["method"]
        if path in (*OPEN, SIGN_IN) and method in ("GET", "HEAD"):
            return
        if method not in ("GET", "HEAD"):
            _demand_our_page(headers)
        if (method, path) == ("POST", SIGN_IN):
            self.room(scope, route, headers, exchange, "")
            return
        known = self.guests.check(session_of(headers))
        if known is None:
            raise Problem("signed_out")
        scope["state"]["caller"], scope["state"]["guest"] = caller, _ = known
        self.room(scope, route, headers, exchange, caller.tenant)
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
