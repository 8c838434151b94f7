"""The generator's HTTP service as a FastAPI app, beside the reward's behind the same port. docs/api.md tells callers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from countryreward.serving.durable_jobs.generation.generation_routes import ROUTE, add_generator_routes
from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs
from countryreward.serving.http.base_app import bare_app
from countryreward.serving.http.gate import Gate
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestLog
from countryreward.serving.service_config import ServiceConfig


def create_generator_app(
    jobs: GenerationJobs,
    config: ServiceConfig,
    *,
    keys: KeyStore,
    rates: Rates,
    seen: Callable[[RequestLog], None] | None = None,
    metrics: Callable[[], bytes] | None = None,
) -> FastAPI:
    """The app. Every route but its health is behind a key (`gate.py`). It works off `jobs` from its start to its end.

    seen: is told of every request. metrics: what /v1/generate/metrics answers, for Prometheus.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await jobs.start()
        yield
        await jobs.stop()

    about = "Ads of a product, staged by designs, and which of them will win in a country."
    app = bare_app("CountryReward generator", about, behind=jobs, metrics=metrics, lifespan=lifespan, under=ROUTE)
    add_generator_routes(app, jobs, config)
    app.add_middleware(Gate, behind=jobs, config=config, keys=keys, rates=rates, seen=seen, under=ROUTE)
    app.add_middleware(WholePath)
    return app


class WholePath:
    """ASGI middleware: routes are matched by the path that was asked; Ray Serve takes its beginning for the app's root."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": scope.get("root_path", "").removesuffix(ROUTE)}
        await self.app(scope, receive, send)
