"""The studio's HTTP app: a page for people who make ads, and the JSON that it asks for. docs/studio.md tells how it is used."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from countryreward.serving.durable_jobs.batch.batch_store import JobStore
from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore
from countryreward.serving.http.apps import bare_app
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.http.request_log import RequestRecord, fault
from countryreward.serving.inference.served_scorer import ServedScorer
from countryreward.serving.service_config import StudioConfig, StudioServiceConfig
from countryreward.serving.studio.campaigns import CampaignStore
from countryreward.serving.studio.guests import GuestStore
from countryreward.serving.studio.reports import ReportStore, add_report_routes
from countryreward.serving.studio.sample import Campaign, Sample
from countryreward.serving.studio.sessions import SessionGate, add_session_routes
from countryreward.serving.studio.studio_results import add_result_routes
from countryreward.serving.studio.studio_variants import VariantStore, add_variant_routes

STATIC = Path(__file__).parent / "static"
"""The built page."""
NOT_BUILT = (
    "The studio's page has not been built. Run `make studio` in the repository, then start the service again. "
    "The API and its batch jobs work without it.\n"
)
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "woff2": "font/woff2"}
_NAME = re.compile(r"[a-z]+-[A-Z0-9]{8}\.([a-z0-9]+)")


def add_page(app: FastAPI, static: Path) -> None:
    """`/` and `/assets/...`. Files are read once, here."""
    page = static / "index.html"
    html = page.read_bytes() if page.is_file() else None
    assets = {path.name: path.read_bytes() for path in sorted(static.glob("*-*.*")) if _NAME.fullmatch(path.name)}

    @app.get("", include_in_schema=False)
    def without_slash(request: Request) -> Response:
        """The page's links are relative to its folder."""
        return Response(status_code=308, headers={"Location": f"{request.scope.get('root_path', '')}/"})

    @app.get("/", tags=["page"], response_class=HTMLResponse)
    def show() -> Response:
        """The page."""
        if html is None:
            return PlainTextResponse(NOT_BUILT, status_code=200)
        return HTMLResponse(html)

    @app.get("/assets/{name}", tags=["page"], response_class=Response)
    def asset(name: str) -> Response:
        """A file of the page; its name changes with its content."""
        if name not in assets:
            raise Problem("not_found")
        kind = _TYPES[name.rpartition(".")[2]]
        lasting = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(assets[name], media_type=f"{kind}; charset=utf-8", headers=lasting)


_SWEEP_S = 60.0


def create_studio_app(
    scorer: ServedScorer,
    config: StudioServiceConfig,
    *,
    sessions: GuestStore,
    batch_store: JobStore,
    sample: Campaign,
    rates: Rates,
    generations: GenerationStore | None = None,
    studio: StudioConfig | None = None,
    on_request: Callable[[RequestRecord], None] | None = None,
    static: Path = STATIC,
) -> FastAPI:
    """The app, to be mounted under a prefix such as /studio.

    batch_store: where tables become jobs, which the reward's replicas work off. sample: shown before anything is uploaded.
    generations: where wishes for new pictures become jobs of the generator; None: there is none, and no such wish.
    on_request: is told of every request. static: the built page.
    """
    studio = studio or StudioConfig()
    campaigns = CampaignStore(config, studio)
    reports = ReportStore(batch_store)
    variants = VariantStore(generations) if generations else None

    async def sweep() -> None:
        while True:
            try:
                for store in (campaigns, reports, *([variants] if variants else [])):
                    await asyncio.to_thread(store.sweep)
            except Exception as error:  # such as a full disk: the next round may fare better
                fault("removing what the studio keeps no longer", error)
            await asyncio.sleep(_SWEEP_S)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(sweep(), name="studio's sweep")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    app = bare_app("CountryReward studio", "Which picture for which market.", behind=scorer, lifespan=lifespan)
    add_page(app, static)
    add_session_routes(app, scorer, config, studio, sessions, simulated=sample.simulated, variants=variants is not None)
    add_result_routes(app, scorer, config, studio, campaigns, Sample(sample, scorer, studio.past_ads), rates)
    add_report_routes(app, config, reports)
    if variants:
        add_variant_routes(app, variants, campaigns, studio, rates)

    @app.delete("/api/everything", tags=["results"])
    def delete_everything(request: Request) -> dict[str, int]:
        """Results, tables and reports that this tenant made in the studio, with all their pictures."""
        tenant = request.state.caller.tenant
        counts = {"results": campaigns.delete_all(tenant), "reports": reports.delete_all(tenant)}
        return counts | ({"variants": variants.delete_all(tenant)} if variants else {})

    app.add_middleware(SessionGate, behind=scorer, config=config, guests=sessions, rates=rates, on_request=on_request)
    return app
