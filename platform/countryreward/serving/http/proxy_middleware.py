"""What stands before Ray Serve's own HTTP proxy, in the proxy's process, so that nothing a caller sends breaks it or comes back.

The proxy reads some headers for itself: bytes that are no UTF-8 in them end in its 500, and whatever stands in X-Request-ID it
repeats. Its own refusals (no route, a full queue) are plain text. Ray takes this in where the environment of its processes says
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=countryreward.serving.http.proxy_middleware:front.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from countryreward.serving.http.problems import Problem
from countryreward.serving.http.request_guard import BodyMemory, RequestGuard, request_id_of

IMPORT_PATH = "countryreward.serving.http.proxy_middleware:front"
_RAYS = (b"x-request-id", b"serve-multiplexed-model-id", b"x-session-id", b"x-serve-router-")
_ROUTES = "/-/routes"  # Ray tells there which applications run, to whoever asks


class ProxyMiddleware:
    """ASGI middleware: takes the headers that Ray reads out of a request, puts one request id in, makes errors our JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [one for one in scope["headers"] if not one[0].replace(b"_", b"-").lower().startswith(_RAYS)]
        if scope["type"] != "http":
            await self.app({**scope, "headers": headers}, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        headers.append((b"x-request-id", request_id.encode()))
        scope = {**scope, "headers": headers}
        exchange = RequestGuard(scope, receive, send, request_id=request_id, memory=BodyMemory(0), spooled=False)
        if scope["path"] == _ROUTES:
            await exchange.answer(Problem("not_found"))
            return
        try:
            await self.app(scope, receive, exchange.send)
        except Exception:
            await exchange.answer(Problem("internal"))
            raise


def front() -> list[Middleware]:
    """For Ray."""
    return [Middleware(ProxyMiddleware)]
