"""/v1/generate: a product's picture and designs in, a job; then its images and how they rank. And the app that serves it.

The app stands beside the reward's, behind the same port. docs/api.md describes it for callers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from countryreward.api import schemas as schemas
from countryreward.serving.durable_jobs.batch.batch_routes import CONFLICT, Key
from countryreward.serving.durable_jobs.generation import generation_results as results
from countryreward.serving.durable_jobs.generation.create_generation import (
    COUNT,
    MAX_SEED,
    create_generation,
    designs_of,
    drawn_designs,
)
from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs
from countryreward.serving.http.apps import bare_app
from countryreward.serving.http.form_fields import image_of, markets_of, product_of
from countryreward.serving.http.gate import Gate
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.http.score_routes import Attributes, Category, ProductId, Tags, Title
from countryreward.serving.service_config import GenerationLimits

ROUTE = "/v1/generate"
"""All paths begin with it: Ray Serve sends to an app by its prefix."""
Picture = Annotated[UploadFile, File(description="The product's picture: PNG, JPEG or WEBP.")]
Designs = Annotated[
    list[str],
    Form(
        description="Four lines (Foreground, Background, Color Tone, Lighting), or a JSON object; repeat the field.",
        examples=[["Foreground: A ribbon.\nBackground: A studio.\nColor Tone: Warm reds.\nLighting: Daylight."]],
    ),
]
Markets = Annotated[
    list[str],
    Form(description="For which designs are written, and images ranked: ISO 3166 codes or names; none: nowhere."),
]
Count = Annotated[
    int | None, Form(description="Designs to write or to draw from the templates, where none is sent; none: 8.")
]
Keep = Annotated[int | None, Form(description="Images of each ranking, the best; none: 4.")]
Seed = Annotated[int, Form(description="The same gives the same; image n has seed + n.")]
Px = Annotated[int | None, Form(description="Width and height in pixels; none: the renderer's own.")]
Steps = Annotated[int | None, Form(description="Denoising steps, where the renderer has any; none: its own.")]


def add_generator_routes(app: FastAPI, jobs: GenerationJobs, config: GenerationLimits) -> None:
    """The routes. The gate has set `request.state.caller` and `request.state.request_id`; a job is its tenant's alone."""
    store = jobs.store

    @app.post(
        ROUTE,
        tags=["generate"],
        status_code=202,
        max_body_size=config.max_image_bytes + 2**20,
        form_limits={"max_files": 1, "max_fields": 400},
        responses=CONFLICT,
    )
    async def send(
        request: Request,
        image: Picture,
        title: Title,
        category: Category = None,
        attributes: Attributes = None,
        tags: Tags = [],  # noqa: B006 - FastAPI copies it
        product_id: ProductId = None,
        markets: Markets = [],  # noqa: B006
        design: Designs = [],  # noqa: B006
        count: Count = None,
        keep: Keep = None,
        seed: Seed = 0,
        px: Px = None,
        steps: Steps = None,
        idempotency_key: Key = None,
    ) -> schemas.GenerationAnswer:
        """Ask for ad images of a product. docs/api.md tells the fields."""
        product = product_of(config, title, category, attributes, tags, product_id)
        job = await asyncio.to_thread(
            create_generation,
            store,
            tenant=request.state.caller.tenant,
            product=product,
            markets=markets_of(markets, ()),
            designs=designs_of(design, config),
            image=await image_of(image, "image", config),
            count=count,
            keep=keep,
            seed=seed,
            px=px,
            steps=steps,
            key=idempotency_key,
        )
        return await asyncio.to_thread(_answer, request, job.id)

    @app.get(ROUTE, tags=["generate"])
    def show_all(request: Request) -> schemas.GenerationsAnswer:
        """Your jobs, newest first."""
        jobs = results.all_shown(store, request.state.caller.tenant)
        return schemas.GenerationsAnswer(request_id=request.state.request_id, jobs=jobs)

    @app.get(ROUTE + "/designs", tags=["generate"])
    def designs(
        request: Request,
        count: Annotated[int, Query(ge=1, le=config.max_designs)] = min(COUNT, config.max_designs),
        seed: Annotated[int, Query(ge=0, le=MAX_SEED)] = 0,
    ) -> schemas.DesignsAnswer:
        """Designs drawn from the templates, as a job without any and without markets takes them."""
        drawn = [schemas.DesignFields.of(design) for design in drawn_designs(count, seed)]
        return schemas.DesignsAnswer(request_id=request.state.request_id, designs=drawn)

    @app.get(ROUTE + "/{job_id}", tags=["generate"])
    def show(request: Request, job_id: str) -> schemas.GenerationAnswer:
        """How far a job is, with all that has been made."""
        return _answer(request, job_id)

    @app.get(ROUTE + "/{job_id}/images/{n}", tags=["generate"], response_class=FileResponse)
    def image(request: Request, job_id: str, n: int) -> Response:
        """An image as PNG, as soon as it is made."""
        path = results.image_path(store, request.state.caller.tenant, job_id, n)
        return FileResponse(path, media_type="image/png", filename=f"{job_id}-{n}.png")

    @app.delete(ROUTE + "/{job_id}", tags=["generate"], status_code=204)
    def delete(request: Request, job_id: str) -> None:
        """Cancel a job that waits or runs: all that was sent and made is deleted. A finished one is removed altogether."""
        store.delete(request.state.caller.tenant, job_id)

    def _answer(request: Request, job_id: str) -> schemas.GenerationAnswer:
        folder, job = store.find(request.state.caller.tenant, job_id)
        return schemas.GenerationAnswer(request_id=request.state.request_id, job=results.shown(store, folder, job))


def create_generator_app(
    jobs: GenerationJobs,
    config: GenerationLimits,
    *,
    keys: KeyStore,
    rates: Rates,
    on_request: Callable[[RequestRecord], None] | None = None,
    metrics: Callable[[], bytes] | None = None,
) -> FastAPI:
    """The app. Every route but its health is behind a key (`gate.py`). It works off `jobs` from its start to its end.

    on_request: is told of every request. metrics: what /v1/generate/metrics answers, for Prometheus.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await jobs.start()
        yield
        await jobs.stop()

    about = "Ads of a product, staged by designs, and which of them will win in a country."
    app = bare_app("CountryReward generator", about, behind=jobs, metrics=metrics, lifespan=lifespan, under=ROUTE)
    add_generator_routes(app, jobs, config)
    app.add_middleware(Gate, behind=jobs, config=config, keys=keys, rates=rates, on_request=on_request, under=ROUTE)
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
