"""/v1/score and /v1/rank, and what there is to ask about: /v1/markets, /v1/models."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from countryreward import markets as countries
from countryreward.api import schemas
from countryreward.scoring.contracts import RequestImageError, ScoreRequest, Verdict
from countryreward.scoring.verdicts import rankings
from countryreward.serving.http.form_fields import (
    copies_of,
    copy_of,
    day_of,
    file_or_url,
    image_of,
    known_of,
    markets_of,
    product_of,
)
from countryreward.serving.http.image_fetcher import ImageFetcher
from countryreward.serving.http.problems import Problem, image_problem
from countryreward.serving.http.rates import Rates
from countryreward.serving.inference.served_scorer import ServedScorer
from countryreward.serving.service_config import RewardServiceConfig

Title = Annotated[str, Form(description="As shown to customers, any language.", examples=["Oak desk lamp"])]
Category = Annotated[str | None, Form(description="The platform's category.", examples=["Lighting"])]
Attributes = Annotated[str | None, Form(description="JSON object of texts.", examples=['{"Material": "oak"}'])]
Tags = Annotated[list[str], Form(description="Repeat the field for several.", examples=[["warm"]])]
ProductId = Annotated[str | None, Form(description="The product's own past ads then never count as evidence.")]
Markets = Annotated[
    list[str],
    Form(
        description="Codes or names of countries (ISO 3166) or of own markets; repeat the field. None: all of the training.",
        examples=[["KR", "BR"]],
    ),
]
AsOf = Annotated[str | None, Form(description="YYYY-MM-DD: only evidence that ended before may speak.")]
ShownEvidence = Annotated[int, Form(ge=0, description="Past ads shown per verdict: so many positions, heaviest first.")]
Picture = Annotated[UploadFile | None, File(description="PNG, JPEG or WEBP file; or send its address.")]
Address = Annotated[str | None, Form(description="https:// address of the image, where the service fetches any.")]
Words = Annotated[str | None, Form(description="Of this ad, where it has such words.")]
Headline = Annotated[str | None, Form(description="Of this ad.", examples=["Warm light for long evenings"])]
AdTags = Annotated[list[str], Form(description="Words of this ad's tags; repeat the field for several.")]
Copies = Annotated[
    str | None,
    Form(
        description="JSON list with the words of each image's ad, or null: headline, body, call_to_action, tags.",
        examples=['[{"headline": "Warm light"}, null]'],
    ),
]
Known = Annotated[
    str | None,
    Form(
        description="JSON list: how a pair did in other markets already. `known_used` of a verdict says whether it was read.",
        examples=[
            '[{"market": "US", "kind": "counts", "a": {"impressions": 9000, "clicks": 270},'
            ' "b": {"impressions": 9100, "clicks": 190}}]'
        ],
    ),
]
Pictures = Annotated[list[UploadFile], File(description="PNG, JPEG or WEBP files; repeat the field.")]


def add_score_routes(app: FastAPI, scorer: ServedScorer, config: RewardServiceConfig, rates: Rates) -> None:
    """The routes. The gate has set `request.state.caller` and `request.state.request_id`."""
    pair_bytes = 2 * config.max_image_bytes + 2**20
    many_bytes = config.max_images * config.max_image_bytes + 2**20
    fetcher = ImageFetcher(config.image_hosts, max_bytes=config.max_image_bytes)

    async def answer(request: Request, asked: ScoreRequest, names: Sequence[str]) -> list[Verdict]:
        count = len(asked.pairs) * len(asked.markets)
        if count > config.max_verdicts:
            raise Problem(
                "too_large",
                f"markets: {count} verdicts in one call, at most {config.max_verdicts}; send fewer at a time",
            )
        if (
            wait := scorer.busy(asked.tenant)
        ) is not None:  # the gate let in more than one while bodies were on their way
            raise Problem("busy", retry_after=wait)
        if count > 1:
            await run_in_threadpool(rates.charge, request.state.caller, count - 1)  # the gate counted one
        try:
            verdicts = await scorer.score(asked)
        except RequestImageError as error:
            raise image_problem(names[error.position], error.reason) from None
        request.state.verdicts = count
        return verdicts

    @app.post("/v1/score", tags=["questions"], response_model=schemas.ScoreAnswer, max_body_size=pair_bytes)
    async def score(
        request: Request,
        title: Title,
        image_a: Picture = None,
        image_b: Picture = None,
        image_a_url: Address = None,
        image_b_url: Address = None,
        category: Category = None,
        attributes: Attributes = None,
        tags: Tags = [],  # noqa: B006 - FastAPI copies it
        product_id: ProductId = None,
        markets: Markets = [],  # noqa: B006
        as_of: AsOf = None,
        evidence: ShownEvidence = 5,
        headline_a: Headline = None,
        body_a: Words = None,
        call_to_action_a: Words = None,
        tags_a: AdTags = [],  # noqa: B006
        headline_b: Headline = None,
        body_b: Words = None,
        call_to_action_b: Words = None,
        tags_b: AdTags = [],  # noqa: B006
        known: Known = None,
    ) -> Response:
        """Which of two ads will win, market by market. Of each image either the file or its address; words where it has some."""
        product = product_of(config, title, category, attributes, tags, product_id)
        copies = (
            copy_of(config, "_a", headline_a, body_a, call_to_action_a, tags_a),
            copy_of(config, "_b", headline_b, body_b, call_to_action_b, tags_b),
        )
        results = known_of(known, ((0, 1),))
        codes, day = markets_of(markets, scorer.markets), day_of(as_of)
        images = (  # after all that can be refused without fetching anything
            await file_or_url(image_a, image_a_url, "image_a", config, fetcher),
            await file_or_url(image_b, image_b_url, "image_b", config, fetcher),
        )
        asked = ScoreRequest.of_ads(
            product,
            images,
            copies,
            markets=codes,
            as_of=day,
            tenant=request.state.caller.tenant,
            evidence=min(evidence, config.max_evidence),
            known=results,
        )
        verdicts = await answer(request, asked, ("image_a", "image_b"))
        return _json(schemas.ScoreAnswer(request_id=request.state.request_id, verdicts=verdicts))

    @app.post("/v1/rank", tags=["questions"], response_model=schemas.RankAnswer, max_body_size=many_bytes)
    async def rank(
        request: Request,
        images: Pictures,
        title: Title,
        category: Category = None,
        attributes: Attributes = None,
        tags: Tags = [],  # noqa: B006
        product_id: ProductId = None,
        markets: Markets = [],  # noqa: B006
        as_of: AsOf = None,
        evidence: ShownEvidence = 0,
        copies: Copies = None,
        known: Known = None,
    ) -> Response:
        """Several ads of one product, best first, market by market: every pair is judged, every image encoded once."""
        if len(images) > config.max_images:
            raise Problem(
                "too_large", f"images: {len(images)} files, at most {config.max_images}; send fewer at a time"
            )
        names = [f"images[{i}]" for i in range(len(images))]
        pairs = tuple(itertools.combinations(range(len(images)), 2))
        product = product_of(config, title, category, attributes, tags, product_id)
        words, results = copies_of(config, copies, len(images)), known_of(known, pairs)
        asked = ScoreRequest.of_ads(
            product,
            [await image_of(image, name, config) for name, image in zip(names, images, strict=True)],
            words,
            pairs=pairs,
            known=results,
            markets=markets_of(markets, scorer.markets),
            as_of=day_of(as_of),
            tenant=request.state.caller.tenant,
            evidence=min(evidence, config.max_evidence),
        )
        verdicts = await answer(request, asked, names)
        return _json(schemas.RankAnswer(request_id=request.state.request_id, rankings=rankings(asked, verdicts)))

    @app.get("/v1/markets", tags=["about"])
    def known_markets(request: Request) -> schemas.MarketsAnswer:
        """Markets the model was trained on; others are answered without a choice."""
        known = [schemas.Market(code=code, name=countries.name(code)) for code in scorer.markets]
        own = [schemas.DefinedMarket.model_validate(asdict(market)) for market in countries.defined()]
        return schemas.MarketsAnswer(request_id=request.state.request_id, markets=known, defined=own)

    @app.get("/v1/models", tags=["about"])
    async def models(request: Request) -> schemas.ModelsAnswer:
        """Versions of what answers, and why a newer one was refused, if one was."""
        return schemas.ModelsAnswer(request_id=request.state.request_id, models=[await scorer.about()])


def _json(answer: schemas.Answer) -> Response:
    """Without FastAPI's second look at what pydantic wrote already."""
    return Response(answer.model_dump_json(), media_type="application/json")
