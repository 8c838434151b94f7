"""One request and its answer on their way through: held to the memory for bodies, counted, the answer with its headers.

`ProxyMiddleware` does it before Ray Serve's own HTTP proxy, in the proxy's process, so that nothing a caller sends breaks it or
comes back: the proxy reads some headers for itself, bytes that are no UTF-8 in them end in its 500, whatever stands in
X-Request-ID it repeats, and its own refusals (no route, a full queue) are plain text. Ray takes it in where the environment of
its processes says RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=countryreward.serving.http.request_guard:front.
"""

import asyncio
import contextlib
import re
import secrets
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from countryreward.serving.http.problems import Problem, of_status

SPOOLED = 2**20
"""Bytes of an upload that stay in memory where the rest goes to disk."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


def request_id_of(headers: Headers) -> str:
    """The request's id: the one in X-Request-ID where it is one, otherwise a new one."""
    sent = headers.getlist("x-request-id")
    return sent[0] if len(sent) == 1 and _REQUEST_ID.fullmatch(sent[0]) else secrets.token_hex(8)


@dataclass
class BodyMemory:
    """Bytes of request bodies that may be held at a time."""

    free: int

    def take(self, count: int) -> bool:
        """Whether there was room for so many more."""
        fits = count <= self.free
        if fits:
            self.free -= count
        return fits


class RequestGuard:
    """`receive` and `send` of one request, to be handed on in the server's place."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        memory: BodyMemory,
        spooled: bool,
        pause_s: float | None = None,
    ) -> None:
        """pause_s: longest wait for the next piece of the body; None: as long as the server lets it."""
        self._scope, self._receive, self._send = scope, receive, send
        self._request_id, self._memory, self._most = request_id, memory, SPOOLED if spooled else None
        self._held = 0
        self._replaced = self._whole = False
        self._pause_s = pause_s
        self.status: int | None = None
        self.gone = False
        self.bytes_in = self.bytes_out = 0

    def hold(self, size: int) -> bool:
        """Reserve memory for a body of this size, as far as it is not reserved yet. False: there is none."""
        more = min(size, size if self._most is None else self._most) - self._held
        if more > 0 and not self._memory.take(more):
            return False
        self._held += max(0, more)
        return True

    def release(self) -> None:
        """Give the memory back."""
        self._memory.free += self._held
        self._held = 0

    async def receive(self) -> Message:
        """The next piece of the body. Raises HTTPException: 503 when there is no memory for it, 408 when it takes too long."""
        try:
            async with asyncio.timeout(None if self._whole else self._pause_s):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408) from None
        self._whole = self._whole or not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            self.gone = self.gone or self.status is None
        else:
            self.bytes_in += len(message.get("body", b""))
            if not self.hold(self.bytes_in):
                raise HTTPException(503, headers={"Retry-After": "1"})  # a Problem would not pass FastAPI's parser
        return message

    async def send(self, message: Message) -> None:
        """The next piece of the answer. An error that is not our JSON, such as a framework's own 413, is made it."""
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            if message["status"] >= 400 and headers.get("content-type") != "application/json":
                problem, wait = of_status(message["status"]), headers.get("retry-after", "")
                problem.retry_after = float(wait) if wait.isdecimal() else 1.0 if problem.status == 503 else None
                await self.answer(problem)
                self._replaced = True
                return
            self.status = message["status"]
            headers["X-Request-ID"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")  # pages' files of a hashed name say otherwise
            message = {**message, "headers": headers.raw}
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
        await self._send(message)

    async def answer(self, problem: Problem) -> None:
        """Answer with an error, unless an answer has begun. Nobody may be there to hear it."""
        if self.status is None:
            with contextlib.suppress(ClientDisconnect, OSError):
                await problem.response(self._request_id)(self._scope, self._receive, self.send)


IMPORT_PATH = "countryreward.serving.http.request_guard:front"
_RAYS = (b"x-request-id", b"serve-multiplexed-model-id", b"x-session-id", b"x-serve-router-")
_ROUTES = "/-/routes"  # Ray tells there which applications run, to whoever asks


class ProxyMiddleware:
    """ASGI middleware: takes the headers that Ray reads out of a request, puts one request id in, makes errors our JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in scope["headers"] if not header[0].replace(b"_", b"-").lower().startswith(_RAYS)]
        if scope["type"] != "http":
            await self.app({**scope, "headers": headers}, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        headers.append((b"x-request-id", request_id.encode()))
        scope = {**scope, "headers": headers}
        guard = RequestGuard(scope, receive, send, request_id=request_id, memory=BodyMemory(0), spooled=False)
        if scope["path"] == _ROUTES:
            await guard.answer(Problem("not_found"))
            return
        try:
            await self.app(scope, receive, guard.send)
        except Exception:
            await guard.answer(Problem("internal"))
            raise


def front() -> list[Middleware]:
    """What Ray puts before its proxy."""
    return [Middleware(ProxyMiddleware)]
