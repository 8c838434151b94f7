"""The HTTP apps: what every one of them has (health, metrics, errors that repeat nothing), and the reward's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from countryreward import __version__
from countryreward.api import schemas
from countryreward.errors import UserError
from countryreward.serving.durable_jobs.batch.batch_routes import add_batch_routes
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.http.gate import Gate
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.problems import Problem, invalid_input, of_status, refusal
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.http.score_routes import add_score_routes
from countryreward.serving.inference.served_scorer import Backend, ServedScorer
from countryreward.serving.service_config import RewardServiceConfig

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer} for status in (401, 403, 404, 413, 422, 429, 500, 503)
}


def bare_app(
    title: str,
    description: str,
    *,
    behind: Backend,
    metrics: Callable[[], bytes] | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
    under: str = "",
) -> FastAPI:
    """An app with /healthz, /readyz, our errors and, where there are `metrics`, /metrics. Routes and a gate come next.

    under: what all paths of this app begin with, where it is one of several behind a port.
    """
    app = FastAPI(
        lifespan=lifespan,
        title=title,
        version=__version__,
        description=description,
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        openapi_url=f"{under}/openapi.json",
        redirect_slashes=False,  # a redirect would repeat the query and the host that were sent
        responses=ERRORS,
    )

    @app.get(under + "/healthz", tags=["health"])
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get(under + "/readyz", tags=["health"])
    def readyz() -> dict[str, str]:
        """What stands behind the app answers. 503 until then."""
        if not behind.ready():
            raise Problem("starting", retry_after=1)
        return {"status": "ok"}

    if metrics:

        @app.get(under + "/metrics", tags=["health"], response_class=PlainTextResponse)
        def prometheus() -> Response:
            """Counts of all replicas of this node, for Prometheus."""
            return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    _errors(app)
    return app


def _errors(app: FastAPI) -> None:
    """Every error as a Problem: nothing of the input in it, whatever raised it."""

    def answer(request: Request, problem: Problem) -> JSONResponse:
        return problem.response(getattr(request.state, "request_id", ""))

    @app.exception_handler(Problem)
    def problem(request: Request, error: Problem) -> JSONResponse:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, invalid_input(error.errors()))

    @app.exception_handler(HTTPException)
    def by_status(request: Request, error: HTTPException) -> JSONResponse:
        response = answer(request, of_status(error.status_code))
        response.headers.update(error.headers or {})  # Allow, Retry-After
        return response

    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> JSONResponse:
        return answer(request, refusal(error))


def create_app(
    scorer: ServedScorer,
    config: RewardServiceConfig,
    *,
    keys: KeyStore,
    rates: Rates,
    on_request: Callable[[RequestRecord], None] | None = None,
    metrics: Callable[[], bytes] | None = None,
    jobs: BatchJobs | None = None,
) -> FastAPI:
    """The app. Every route but /healthz and /readyz is behind a key (`gate.py`).

    on_request: is told of every request. metrics: what /metrics answers, for Prometheus. jobs: who does
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
    app = bare_app("CountryReward", about, behind=scorer, metrics=metrics, lifespan=lifespan)
    add_score_routes(app, scorer, config, rates)
    if jobs:
        add_batch_routes(app, jobs, config)
    app.add_middleware(Gate, behind=scorer, config=config, keys=keys, rates=rates, on_request=on_request)
    return app
