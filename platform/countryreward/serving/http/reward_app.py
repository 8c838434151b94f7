"""The reward's HTTP service as a FastAPI app: a function of whatever answers. docs/api.md describes it for callers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from countryreward.serving.durable_jobs.batch.batch_routes import add_batch_routes
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.http.base_app import bare_app
from countryreward.serving.http.gate import Gate
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestLog
from countryreward.serving.http.score_routes import add_question_routes
from countryreward.serving.inference.async_scorer import AsyncScorer
from countryreward.serving.service_config import ServiceConfig


def create_app(
    asked: AsyncScorer,
    config: ServiceConfig,
    *,
    keys: KeyStore,
    rates: Rates,
    seen: Callable[[RequestLog], None] | None = None,
    metrics: Callable[[], bytes] | None = None,
    jobs: BatchJobs | None = None,
) -> FastAPI:
    """The app. Every route but /healthz and /readyz is behind a key (`gate.py`).

    seen: is told of every request. metrics: what /metrics answers, for Prometheus. jobs: who does
    batch jobs, from the app's start to its end; None: there is no /v1/batch.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if jobs:
            await jobs.start()
        yield
        if jobs:
            await jobs.stop()

    about = "Which of these ad images will win in this country, and why."
    app = bare_app("CountryReward", about, behind=asked, metrics=metrics, lifespan=lifespan)
    add_question_routes(app, asked, config, rates)
    if jobs:
        add_batch_routes(app, jobs, config)
    app.add_middleware(Gate, behind=asked, config=config, keys=keys, rates=rates, seen=seen)
    return app
