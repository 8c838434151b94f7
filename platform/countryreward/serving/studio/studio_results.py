"""Pictures of one product compared market by market; results that are kept; the sample."""

import asyncio
import itertools
import re
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from countryreward.data.decoding import ImageError
from countryreward.scoring.contracts import RequestImageError, ScoreRequest
from countryreward.scoring.verdicts import rankings
from countryreward.serving.http.form_fields import copies_of, markets_of, product_of
from countryreward.serving.http.problems import Problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.inference.served_scorer import ServedScorer
from countryreward.serving.service_config import StudioConfig, StudioServiceConfig
from countryreward.serving.studio.campaigns import CampaignStore, Result, lines, small
from countryreward.serving.studio.sample import Sample
from countryreward.serving.studio.sessions import shared
from countryreward.serving.studio.verdict_text import MarketSaid, picture_refused, said

Pictures = Annotated[list[UploadFile], File(description="PNG, JPEG or WEBP files of one product.")]
Title = Annotated[str, Form(description="The product, as customers read it.")]
Markets = Annotated[list[str], Form(description="ISO 3166 codes; none: all that were learned.")]
Copies = Annotated[
    str | None,
    Form(description="JSON list with the words of each picture's ad, or null: headline, body, call_to_action, tags."),
]
_SMALL = asyncio.Semaphore(2)  # pictures made small at a time: a large one takes 200 MB for a moment


def add_result_routes(
    app: FastAPI,
    scorer: ServedScorer,
    config: StudioServiceConfig,
    studio: StudioConfig,
    campaigns: CampaignStore,
    sample: Sample,
    rates: Rates,
) -> None:
    """The routes. The gate has set `request.state.caller` and `request.state.guest`."""
    most = studio.max_pictures * config.max_image_bytes + 2**20

    @app.get("/api/sample", tags=["sample"])
    async def show_sample() -> Result:
        """A campaign to look at, judged by whatever answers now."""
        return await sample.result()

    @app.get("/api/sample/pictures/{number}", tags=["sample"], response_class=Response)
    def sample_picture(number: int) -> Response:
        """One of its pictures."""
        if not 0 <= number < len(sample.campaign.pictures):
            raise Problem("not_found", "there is no such picture")
        picture = sample.campaign.pictures[number]
        kind = "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
        return Response(picture, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    @app.post("/api/results", tags=["results"], status_code=201, max_body_size=most)
    async def compare(
        request: Request,
        pictures: Pictures,
        title: Title,
        markets: Markets = [],  # noqa: B006 - FastAPI copies it
        copies: Copies = None,
    ) -> Result:
        """Compare pictures and keep what is found until the retention time is over."""
        if not 2 <= len(pictures) <= studio.max_pictures:
            raise Problem("invalid_input", f"Choose 2 to {studio.max_pictures} pictures of one product.")
        if not title.strip():
            raise Problem("invalid_input", "Say what the product is, as customers read it.")
        product = product_of(config, title.strip(), None, None, [], None)
        words = copies_of(config, copies, len(pictures))
        caller = request.state.caller
        pairs = tuple(itertools.combinations(range(len(pictures)), 2))
        codes = markets_of(markets, scorer.markets)
        if not codes:
            raise Problem("starting", retry_after=2)  # nothing has told yet what was learned
        if len(pairs) * len(codes) > config.max_verdicts:
            raise Problem("too_large", "That is too much at a time: choose fewer pictures or fewer markets.")
        files = [await _file(picture, number, config) for number, picture in enumerate(pictures)]
        if len(pairs) * len(codes) > 1:
            await run_in_threadpool(rates.charge, shared(caller), len(pairs) * len(codes) - 1)  # the gate counted one
        asked = ScoreRequest.of_ads(
            product,
            files,
            words,
            pairs=pairs,
            markets=codes,
            tenant=caller.tenant,
            evidence=min(studio.past_ads, config.max_evidence),
        )
        told, kept = await asyncio.gather(_judge(asked, scorer), _small(files, config, studio))
        request.state.verdicts = len(pairs) * len(codes)
        return await run_in_threadpool(
            campaigns.keep,
            caller.tenant,
            title=product.title,
            by=request.state.guest.name,
            names=[_name(picture.filename, number) for number, picture in enumerate(pictures)],
            pictures=kept,
            said=told,
            headlines=[copy.headline or "" if copy else "" for copy in words],
        )

    @app.get("/api/results", tags=["results"])
    def show_all(request: Request) -> dict[str, Any]:
        """The team's results, newest first."""
        return {"results": list(lines(campaigns.results(request.state.caller.tenant)))}

    @app.get("/api/results/{result_id}", tags=["results"])
    def show(request: Request, result_id: str) -> Result:
        """One of them."""
        return campaigns.find(request.state.caller.tenant, result_id)

    @app.get("/api/results/{result_id}/pictures/{number}", tags=["results"], response_class=FileResponse)
    def picture(request: Request, result_id: str, number: int) -> Response:
        """One of its pictures, made small."""
        path = campaigns.picture(request.state.caller.tenant, result_id, number)
        return FileResponse(path, media_type="image/jpeg")

    @app.delete("/api/results/{result_id}", tags=["results"], status_code=204)
    def delete(request: Request, result_id: str) -> None:
        """Remove it with its pictures."""
        campaigns.delete(request.state.caller.tenant, result_id)


async def _judge(asked: ScoreRequest, scorer: ServedScorer) -> list[MarketSaid]:
    if (wait := scorer.busy(asked.tenant)) is not None:
        raise Problem("busy", "Many are asking at the moment; try again in a few seconds.", retry_after=wait)
    try:
        verdicts = await scorer.score(asked)
    except RequestImageError as refused:
        raise Problem("invalid_image", picture_refused(refused.position, refused.reason)) from None
    except TimeoutError:
        raise Problem("busy", retry_after=5) from None
    return [said(one, scorer.markets) for one in rankings(asked, verdicts)]


async def _small(files: list[bytes], config: StudioServiceConfig, studio: StudioConfig) -> list[bytes]:
    kept = []
    for number, file in enumerate(files):
        async with _SMALL:
            try:
                kept.append(await asyncio.to_thread(small, file, config, studio.kept_px))
            except ImageError as refused:
                raise Problem("invalid_image", picture_refused(number, refused.reason)) from None
    return kept


async def _file(upload: UploadFile, number: int, config: StudioServiceConfig) -> bytes:
    data = await upload.read(config.max_image_bytes + 1)
    if not data:
        raise Problem("invalid_image", f"Picture {number + 1}: the file is empty; choose another.")
    if len(data) > config.max_image_bytes:
        raise Problem("too_large", picture_refused(number, "image_too_large"))
    return data


def _name(sent: str | None, number: int) -> str:
    """To be shown, never to be opened."""
    name = "".join(one for one in re.split(r"[/\\]", sent or "")[-1] if one.isprintable())[:80]
    return name.encode("utf-8", "replace").decode() or f"Picture {number + 1}"
