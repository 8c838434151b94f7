"""New pictures made from one of a result, for one market, and how they fare beside it: generation jobs in plain words."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from countryreward import markets as countries
from countryreward.api.schemas import GenerationJob
from countryreward.scoring.contracts import Product
from countryreward.serving.durable_jobs.generation import generation_results as results
from countryreward.serving.durable_jobs.generation.create_generation import create_generation
from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.service_config import StudioConfig
from countryreward.serving.studio.campaigns import CampaignStore, StudioJobs
from countryreward.serving.studio.sessions import shared
from countryreward.serving.studio.verdict_text import CLOSE, plain, sureness

_KEPT = 0.5  # fidelity below which a person should look whether it still is the product


class Variant(BaseModel):
    """A picture that was made."""

    n: int
    design: list[str] = Field(description="What stands around the product, in sentences.")
    origin: str = Field(description="Where the design comes from.", examples=["Made for South Korea"])
    place: int | None = Field(description="1: the best in this market; null: not compared yet.")
    ahead: bool | None = Field(description="Of the picture it was made of; null: not sure, or not compared.")
    sure: int | None = Field(description="In a hundred, 50 to 99.")
    words: str
    check: bool = Field(description="Whether it may no longer show the product as it is.")


class Variants(BaseModel):
    """Pictures that are being made, or were."""

    id: str
    market: str
    name: str
    picture: int = Field(description="Position of the result's picture that they were made of.")
    state: str
    waiting_for: int | None = Field(description="Others that come first, while it waits.")
    done: int
    total: int
    variants: list[Variant]
    error: str
    created: datetime


class VariantStore(StudioJobs[GenerationStore]):
    """Generation jobs that were made in the studio."""

    kind = "variants"
    gone = "these pictures are not there, or were deleted; make them again"

    def of_result(self, tenant: str, result_id: str) -> list[Variants]:
        """Newest first."""
        marked = [(job, mark) for job in results.all_shown(self.jobs, tenant) if (mark := self.origin(tenant, job.id))]
        return [
            _variants(job, mark) for job, mark in marked if mark["result"] == result_id and job.state != "cancelled"
        ]

    def find(self, tenant: str, job_id: str) -> Variants:
        """Raises `Problem` not_found, also for a job that was not made in the studio."""
        folder, job, origin = self.find_made(tenant, job_id)
        return _variants(results.shown(self.jobs, folder, job), origin)


def add_variant_routes(
    app: FastAPI, variants: VariantStore, campaigns: CampaignStore, studio: StudioConfig, rates: Rates
) -> None:
    """The routes. The gate has set `request.state.caller`."""

    @app.post("/api/results/{result_id}/variants", tags=["variants"], status_code=202, max_body_size=2_048)
    async def make(
        request: Request,
        result_id: str,
        picture: Annotated[int, Body(ge=0)],
        market: Annotated[str, Body(max_length=2)],
    ) -> Variants:
        """Have pictures made from one of a result, for one market."""
        caller = request.state.caller
        await run_in_threadpool(rates.charge, shared(caller), studio.variants * (studio.variants + 1) // 2)

        def start() -> Variants:
            result = campaigns.find(caller.tenant, result_id)
            path = campaigns.picture(caller.tenant, result_id, picture)
            if market not in {answer.market for answer in result.markets}:
                raise Problem("invalid_input", "Choose one of the result's markets.")
            before = variants.of_result(caller.tenant, result_id)
            same = [earlier for earlier in before if (earlier.market, earlier.picture) == (market, picture)]
            job = create_generation(
                variants.jobs,
                tenant=caller.tenant,
                image=path.read_bytes(),
                product=Product(title=result.title),
                markets=(market,),
                count=studio.variants,
                keep=studio.variants,
                seed=len(same) * studio.variants,  # asked again, others are made
            )
            variants.add(caller.tenant, job.id, {"result": result_id, "picture": picture, "market": market})
            return variants.find(caller.tenant, job.id)

        return await run_in_threadpool(start)

    @app.get("/api/results/{result_id}/variants", tags=["variants"])
    def show_all(request: Request, result_id: str) -> dict[str, list[Variants]]:
        """All that were made from a result, newest first."""
        campaigns.find(request.state.caller.tenant, result_id)
        return {"variants": variants.of_result(request.state.caller.tenant, result_id)}

    @app.get("/api/variants/{job_id}", tags=["variants"])
    def show(request: Request, job_id: str) -> Variants:
        """How far they are."""
        return variants.find(request.state.caller.tenant, job_id)

    @app.get("/api/variants/{job_id}/pictures/{n}", tags=["variants"], response_class=FileResponse)
    def picture_of(request: Request, job_id: str, n: int) -> Response:
        """One of the pictures."""
        variants.find(request.state.caller.tenant, job_id)
        path: Path = results.image_path(variants.jobs, request.state.caller.tenant, job_id, n)
        return FileResponse(
            path, media_type="image/png", filename=f"variant-{n + 1}.png", content_disposition_type="inline"
        )

    @app.delete("/api/variants/{job_id}", tags=["variants"], status_code=204)
    def delete(request: Request, job_id: str) -> None:
        """Stop it if it runs, and remove all of it."""
        variants.delete(request.state.caller.tenant, job_id)


def _variants(job: GenerationJob, mark: dict) -> Variants:
    ranked = {one.n: one for ranking in job.rankings if ranking.market == mark["market"] for one in ranking.images}
    shown: list[tuple[float, Variant]] = []
    for image in job.images:
        rank = ranked.get(image.n)
        beats = rank.beats_original if rank else None
        sure = None if beats is None else max(beats, 1 - beats)
        clear = sure is not None and sure >= CLOSE
        design = image.design
        variant = Variant(
            n=image.n,
            design=[design.foreground, design.background, design.color_tone, design.lighting],
            origin=f"Made for {countries.name(image.market)}" if image.market else "From our standard designs",
            place=rank.rank if rank else None,
            ahead=(beats > 0.5) if beats is not None and clear else None,
            sure=None if sure is None else min(99, round(100 * sure)),
            words=sureness(sure) if sure is not None else "",
            check=image.fidelity.score < _KEPT,
        )
        shown.append((-1.0 if beats is None else beats, variant))
    return Variants(
        id=job.id,
        market=mark["market"],
        name=countries.name(mark["market"]),
        picture=mark["picture"],
        state=job.state,
        waiting_for=job.position,
        done=job.done,
        total=job.total,
        variants=[variant for _, variant in sorted(shown, key=lambda one: (-one[0], one[1].n))],
        error=plain(job.error or (job.note if job.state == "done" and not job.rankings else None)),
        created=job.created,
    )
