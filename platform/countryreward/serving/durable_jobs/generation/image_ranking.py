"""The images of a generation job judged against each other and against the picture that was sent, market by market."""

from collections.abc import Sequence

from countryreward.api.schemas import GeneratedImage, GeneratedRanking, RankedImage
from countryreward.generation.ad_maker import ad_rankings, ranking_request
from countryreward.scoring.contracts import Product
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
    pairs = len(pictures) * len(images) // 2
    markets_at_once = max(1, max_verdicts // pairs)
    ranked = []
    for start in range(0, len(job.markets), markets_at_once):
        request = ranking_request(
            product,
            pictures[:-1],
            pictures[-1],
            job.markets[start : start + markets_at_once],
            tenant=job.tenant,
            evidence=0,
            urgent=False,
        )
        for ranking in ad_rankings(request, await scorer.score(request), original_counts=False):
            best = [
                RankedImage(
                    n=images[place].n,
                    rank=rank,
                    win_share=ranking.win_share[place],
                    beats_original=ranking.beats_original[place],
                )
                for rank, place in enumerate(ranking.order[: job.keep], start=1)
            ]
            ranked.append(
                GeneratedRanking(
                    market=ranking.market,
                    images=best,
                    model_version=ranking.model_version,
                    knowledge_base_version=ranking.knowledge_base_version,
                    note=ranking.note,
                )
            )
    return ranked
