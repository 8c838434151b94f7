"""The images of a generation job judged against each other and against the picture that was sent, market by market."""

import itertools
from collections.abc import Sequence

from countryreward.api.schemas import (
    GeneratedImage,
    GeneratedRanking,
    RankedImage,
)
from countryreward.scoring.contracts import Product, ScoreRequest, Verdict
from countryreward.scoring.ranking import ranking
from countryreward.serving.durable_jobs.generation.generation_store import StoredGeneration
from countryreward.serving.durable_jobs.retrying_scorer import RetryingScorer


async def rank_images(
    scorer: RetryingScorer,
    job: StoredGeneration,
    product: Product,
    images: Sequence[GeneratedImage],
    pictures: Sequence[bytes],
    max_verdicts: int,
) -> list[GeneratedRanking]:
    """One ranking per market of the job. pictures: their files, then the one that was sent. max_verdicts: asked at a time.

    Raises `NoAnswer`, `UserError` for a product or an image that the scorer does not take.
    """
    assert len(pictures) == len(images) + 1 > 1
    last = len(images)  # where the original stands
    among = list(itertools.combinations(range(last), 2))
    pairs = (*among, *((i, last) for i in range(last)))
    share = max(1, max_verdicts // len(pairs))
    found = []
    for start in range(0, len(job.markets), share):
        markets = job.markets[start : start + share]
        request = ScoreRequest.of_images(
            product,
            pictures,
            pairs=pairs,
            markets=markets,
            tenant=job.tenant,
            evidence=0,
            urgent=False,
        )
        verdicts = await scorer.score(request)
        for at, market in enumerate(markets):
            judged = list(zip(pairs, verdicts[at * len(pairs) : (at + 1) * len(pairs)], strict=True))
            found.append(_ranked(market, images, judged, job.keep))
    return found


def _ranked(
    market: str, images: Sequence[GeneratedImage], judged: list[tuple[tuple[int, int], Verdict]], keep: int
) -> GeneratedRanking:
    last = len(images)
    told = ranking(market, last, [(a, b, verdict) for (a, b), verdict in judged if b != last])
    beats = {a: verdict.stated_probability for (a, b), verdict in judged if b == last}
    return GeneratedRanking(
        market=market,
        images=[
            RankedImage(n=images[i].n, rank=rank, win_share=told.win_share[i], beats_original=beats[i])
            for rank, i in enumerate(told.order[:keep], start=1)
        ],
        model_version=judged[0][1].model_version,
        knowledge_base_version=judged[0][1].knowledge_base_version,
        note=next((verdict.note for _, verdict in judged if verdict.note), None),
    )
