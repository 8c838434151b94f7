"""The gate before every route: request id, key, scope, room, rate. Whatever it refuses, it refuses before the body is read."""

import re
import time
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from countryreward.serving.http import request_log
from countryreward.serving.http.keys import Caller, KeyStore
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_guard import BodyMemory, RequestGuard, request_id_of
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.inference.served_scorer import Backend
from countryreward.serving.service_config import SharedServiceConfig

EXEMPT = ("/healthz", "/readyz")
"""Routes that need no key; `under` what all paths of an app begin with."""
NEEDS: dict[str, tuple[str, ...]] = {
    "/v1/score": ("score",),
    "/v1/rank": ("score",),
    "/v1/batch": ("batch",),
    "/v1/generate/metrics": ("metrics",),
    "/v1/generate": ("generate",),
    "/v1/markets": ("score", "batch"),
    "/v1/models": ("score", "batch"),
    "/openapi.json": ("score", "batch"),
    "/metrics": ("metrics",),
}
"""Route, with all that lies under it -> the scopes of which a key must have one; the first counts.

A route in neither table is closed."""
_ASKING = ("/v1/score", "/v1/rank")
_SPOOLED = "/v1/batch"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


class Gate:
    """ASGI middleware. The scope is that of the route which the app itself will choose, so no spelling of a path gets around it.

    Whoever is let in is `request.state.caller`; `request.state.request_id` is set for all.
    behind: what answers; asked only whether it has room. on_request: called once per request, with its record. under: what
    all paths of the app begin with.
    """

    asking: tuple[str, ...] = _ASKING
    """Routes whose POST waits for the model: refused while that has no room."""
    spooled: str = _SPOOLED
    """The route, with all under it, whose uploads go to disk."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        behind: Backend,
        config: SharedServiceConfig,
        keys: KeyStore,
        rates: Rates,
        on_request: Callable[[RequestRecord], None] | None = None,
        under: str = "",
    ) -> None:
        self._exempt = tuple(under + path for path in EXEMPT)
        self.app, self.behind, self.config, self.keys, self.rates, self.on_request = (
            app,
            behind,
            config,
            keys,
            rates,
            on_request,
        )
        self._memory = BodyMemory(config.max_body_memory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        route, headers = _route(scope), Headers(scope=scope)
        path = getattr(route, "path", "unknown")
        request_id = request_id_of(headers)
        state = scope["state"] = {**scope.get("state", {}), "request_id": request_id, "caller": None}
        guard = RequestGuard(
            scope,
            receive,
            send,
            request_id=request_id,
            memory=self._memory,
            spooled=_under(path, self.spooled),
            pause_s=self.config.max_pause_s,
        )
        error = None
        try:
            await self.admit(scope, route, headers, guard)
            await self.app(scope, guard.receive, guard.send)
        except Problem as problem:
            await guard.answer(problem)
        except ClientDisconnect:
            guard.gone = True
        except Exception as uncaught:
            if not (guard.gone and isinstance(uncaught, OSError)):  # which says no more than that the caller has gone
                error = uncaught
            if not guard.gone:
                await guard.answer(Problem("internal"))
        finally:
            guard.release()
            self._record(
                RequestRecord(
                    request_id=request_id,
                    tenant=state["caller"].tenant if state["caller"] else None,
                    key_id=state["caller"].key_id if state["caller"] else None,
                    method=scope["method"] if scope["method"] in _METHODS else "OTHER",
                    route=path,
                    status=499 if guard.gone or guard.status is None else guard.status,
                    seconds=time.perf_counter() - started,
                    verdicts=state.get("verdicts", 0),
                    bytes_in=guard.bytes_in,
                    bytes_out=guard.bytes_out,
                    error=error,
                )
            )

    async def admit(self, scope: Scope, route: BaseRoute | None, headers: Headers, guard: RequestGuard) -> None:
        """Let in, and say who: `scope["state"]["caller"]`. Raises `Problem`."""
        path = getattr(route, "path", "unknown")
        if path in self._exempt:
            return
        scope["state"]["caller"] = caller = self._caller(headers)
        if route is not None:
            _permit(caller, path)
        self.room(scope, route, headers, guard, caller.tenant)
        await run_in_threadpool(self.rates.charge, caller, 1)

    def _record(self, record: RequestRecord) -> None:
        request_log.write(record)
        if self.on_request is not None:
            self.on_request(record)

    def _caller(self, headers: Headers) -> Caller:
        """Of the one key presented; two different ones are no key."""
        bearers = [value.partition(" ") for value in headers.getlist("authorization")]
        presented = {token.strip() for kind, _, token in bearers if kind.lower() == "bearer"}
        presented |= {value.strip() for value in headers.getlist("x-api-key")}
        presented.discard("")
        if not presented:
            raise Problem("missing_key")
        caller = self.keys.check(presented.pop()) if len(presented) == 1 else None
        if caller is None:
            raise Problem("invalid_key")
        return caller

    def room(self, scope: Scope, route: BaseRoute | None, headers: Headers, guard: RequestGuard, tenant: str) -> None:
        """Raises `Problem` when the question cannot be taken now, or its body never."""
        path = getattr(route, "path", "unknown")
        if path in self.asking and scope["method"] == "POST" and (wait := self.behind.busy(tenant)) is not None:
            raise Problem("busy", retry_after=wait)
        sizes = set(headers.getlist("content-length"))
        if not sizes:
            return
        size = sizes.pop()
        if sizes or not re.fullmatch(r"[0-9]{1,18}", size):
            raise Problem("invalid_input", "Content-Length: write the body's size in bytes, once")
        most = getattr(route, "max_body_size", None)
        never = not _under(path, self.spooled) and int(size) > self.config.max_body_memory
        if never or (most is not None and int(size) > most):
            raise Problem("too_large")
        if not guard.hold(int(size)):
            raise Problem("busy", retry_after=1)


def _route(scope: Scope) -> BaseRoute | None:
    """The route that the app will choose, by the rule of Starlette's router."""
    partial = None
    for route in scope["app"].routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route
        if match is Match.PARTIAL:
            partial = partial or route
    return partial


def _permit(caller: Caller, path: str) -> None:
    needed = next((scopes for start, scopes in NEEDS.items() if _under(path, start)), ())
    if not set(needed) & set(caller.scopes):
        named = " or ".join(needed) or "one that no key has"
        raise Problem("forbidden", f"this API key lacks the scope {named}; ask your administrator for one that has it")


def _under(path: str, start: str) -> bool:
    return path == start or path.startswith(f"{start}/")
