"""The campaign that a guest can look at before sending anything: ads of one product, judged by the service like any other."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from countryreward.scoring.contracts import Product, ScoreRequest
from countryreward.scoring.verdicts import rankings
from countryreward.serving.http.problems import Problem
from countryreward.serving.inference.served_scorer import ServedScorer
from countryreward.serving.studio.campaigns import Result
from countryreward.serving.studio.verdict_text import said

TENANT = "studio-sample-"  # no tenant's name ends so
_OF_DEMO = "A sample: drawn pictures of an invented product. The past ads and their clicks are simulated, too."
_DRAWN = "A sample: drawn pictures of an invented product, compared by your own past ads."


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Pictures of one product."""

    product: Product
    pictures: tuple[bytes, ...]
    """File bytes."""
    note: str
    simulated: bool = False
    """Whether everything this service knows comes from simulated clicks."""


def campaign_of(model: Path) -> Campaign:
    """Of the demo's export beside a model, where there is one; otherwise drawn here."""
    export = model.parent / "export"
    if (export / "observations.csv").exists():
        return _of_export(export)
    return _drawn()


def _of_export(export: Path) -> Campaign:
    """The two ads whose clicks differ most from market to market, of all products of the demo."""
    import pandas as pd

    seen = pd.read_csv(export / "observations.csv", usecols=["creative_id", "market", "impressions", "clicks"])
    sums = seen.groupby(["creative_id", "market"])[["impressions", "clicks"]].sum()
    rate = (sums["clicks"] / sums["impressions"]).unstack().dropna()
    creatives = pd.read_csv(export / "creatives.csv", dtype=str).set_index("creative_id")
    product_of = creatives["product_id"].reindex(rate.index)
    rate = rate / rate.groupby(product_of).transform("mean")  # beside its product's other ads
    rates, ids = rate.to_numpy(), rate.index.to_numpy()
    best: tuple[float, int, int] = (-1.0, 0, 0)
    for rows in product_of.groupby(product_of).indices.values():
        for a, b in itertools.combinations(rows, 2):
            gap = rates[a] - rates[b]
            best = max(best, (float(min(gap.clip(min=0).mean(), (-gap).clip(min=0).mean())), int(a), int(b)))
    pair = creatives.loc[[str(ids[best[1]]), str(ids[best[2]])]]
    product_id = str(pair["product_id"].iloc[0])
    products = pd.read_csv(export / "products.csv", dtype=str).set_index("product_id")
    product = Product(
        title=str(products.loc[product_id, "title"]),
        category=str(products.loc[product_id, "category"]),
        product_id=product_id,
    )
    pictures = tuple((export / "images" / str(uri)).read_bytes() for uri in pair["image_uri"])
    return Campaign(product=product, pictures=pictures, note=_OF_DEMO, simulated=True)


def _drawn() -> Campaign:
    from io import BytesIO

    from PIL import Image

    from countryreward.data.marketplace.drawer import ProductLook, draw
    from countryreward.data.marketplace.vocabulary import Spec

    look = ProductLook(category="mug", colour="RED")
    designs = (
        Spec(scene="kitchen", palette="pastel", clutter="few", lighting="daylight", text="none"),
        Spec(scene="city", palette="neon", clutter="crowded", lighting="spotlight", text="sale"),
    )
    pictures = []
    for seed, design in enumerate(designs):
        file = BytesIO()
        Image.fromarray(draw(design, look, px=512, seed=seed)).save(file, "PNG")
        pictures.append(file.getvalue())
    return Campaign(product=Product(title="Red stoneware mug"), pictures=tuple(pictures), note=_DRAWN)


@dataclass
class Sample:
    """The campaign with its verdicts, which are asked when somebody looks first, and again of a newer model."""

    campaign: Campaign
    scorer: ServedScorer
    past_ads: int = 3
    _kept: tuple[object, Result] | None = None
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def result(self) -> Result:
        """The result, with the verdicts of whatever answers now."""
        if not self.scorer.ready():
            raise Problem("starting", retry_after=2)
        version = (await self.scorer.about())["model"]
        async with self._one:
            if self._kept is None or self._kept[0] != version:
                self._kept = (version, await self._judge(self.scorer.markets))
        return self._kept[1]

    async def _judge(self, markets: Sequence[str]) -> Result:
        campaign = self.campaign
        request = ScoreRequest.of_images(
            campaign.product,
            campaign.pictures,
            pairs=tuple(itertools.combinations(range(len(campaign.pictures)), 2)),
            markets=tuple(markets),
            tenant=TENANT,
            evidence=self.past_ads,
        )
        verdicts = await self.scorer.score(request)
        return Result(
            id="sample",
            title=campaign.product.title,
            by="",
            created=datetime.now(UTC),
            deleted_after=None,
            pictures=[f"Picture {number + 1}" for number in range(len(campaign.pictures))],
            markets=[said(one, markets) for one in rankings(request, verdicts)],
            note=campaign.note,
        )
