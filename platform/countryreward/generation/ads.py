"""Ads for a market on request: designs written, rendered, and ranked among each other and the product's own picture."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from countryreward.data.dataset import Dataset, own_pictures
from countryreward.data.decoding import ImageError, decode, pixels_of
from countryreward.data.design import Design
from countryreward.data.images import ImageTable
from countryreward.data.quarantine import REASONS
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignWriter, RenderedFile, Renderer, RenderJob
from countryreward.generation.ad_maker import (
    AdRequest,
    Candidate,
    ad_rankings,
    different_ads,
    ranking_request,
    render_files,
    write_designs,
)
from countryreward.generation.ad_tasks import product_of
from countryreward.scoring.contracts import Product, Scorer, market_code

MOST = 24
"""Ads per market: they are ranked pair by pair."""
ATTEMPTS = 3
"""Designs that are asked for at most, as a multiple of the ads that are wanted."""
_MAX_BYTES, _MAX_PIXELS = 64 * 2**20, 100_000_000  # of a product's own picture


@dataclass(frozen=True, kw_only=True)
class AdvertisedProduct:
    """What ads are made for: a product with its own picture, from a dataset or described by hand."""

    product: Product
    """What is advertised."""
    image: bytes
    """File of the product's own picture."""
    pixels: np.ndarray
    """The picture, RGB uint8 [height, width, 3]."""

    @property
    def image_hash(self) -> str:
        """SHA-256 of the file, hex."""
        return hashlib.sha256(self.image).hexdigest()

    def request(self, market: str, seeds: Sequence[int]) -> AdRequest:
        """Designs for a market (ISO 3166 alpha-2), one for each of the writer's seeds."""
        return AdRequest(
            product=self.product, market=market, image=self.pixels, image_hash=self.image_hash, seeds=seeds
        )

    def job(self, design: Design, seed: int) -> RenderJob:
        """An ad of a design. seed: the renderer's."""
        return RenderJob(design=design, product=self.product, image=self.pixels, image_hash=self.image_hash, seed=seed)

    @classmethod
    def of(cls, product: Product, image: bytes) -> "AdvertisedProduct":
        """Raises `UserError` for a picture that cannot be read."""
        try:
            pixels = pixels_of(decode(image, max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS))
        except ImageError as error:
            raise UserError(f"image: {error}; {REASONS[error.reason]}") from None
        return cls(product=product, image=image, pixels=pixels)

    @classmethod
    def from_dataset(cls, folder: Path, product_id: str) -> "AdvertisedProduct":
        """A product of a dataset artifact, with its own picture. Raises `UserError` where either is missing."""
        dataset = Dataset.read(folder)
        rows = dataset.products[dataset.products["product_id"] == product_id]
        pictures = own_pictures(dataset.creatives)
        if rows.empty or product_id not in pictures.index:
            why = "is not in the dataset" if rows.empty else "has no creative"
            some = ", ".join(dataset.products["product_id"].head(3))
            raise UserError(f"product: {product_id!r} {why}; there are {some}, ... (products.parquet lists them)")
        (row, *_) = rows.to_dict("records")
        product = product_of({str(column): value for column, value in row.items()})
        return cls.of(product, ImageTable(folder).bytes_of(str(pictures.loc[product_id, "content_hash"])))

    @classmethod
    def described(cls, title: str, category: str, attributes: Mapping[str, str], image: str) -> "AdvertisedProduct":
        """Any product. image: path of a file. Raises `UserError` for a picture that cannot be read, or an empty title."""
        product = Product(title=title, category=category or None, attributes=dict(attributes))
        try:
            return cls.of(product, Path(image).read_bytes())
        except OSError as error:
            raise UserError(
                f"image: {image!r} cannot be read ({error.strerror}); give the product's own picture"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Ad:
    """One ad, with all that is needed to make it again."""

    market: str
    """ISO 3166 alpha-2."""
    rank: int
    """1 is the best of its market."""
    candidate: Candidate
    """The design, as the writer answered and from which seed."""
    file: RenderedFile
    """The picture, its fidelity, what made it (the renderer's seed is in there)."""
    win_share: float
    """Mean calibrated probability of beating another one of the list, the original among them."""
    beats_original: float
    """Calibrated probability of beating the product's own picture."""

    @property
    def name(self) -> str:
        """Of its file: KR-01.png."""
        return f"{self.market}-{self.rank:02d}.png"

    def as_shown(self) -> dict[str, Any]:
        """The fields of a gallery's ad."""
        return {
            "market": self.market,
            "image": self.file.png,
            "design": self.candidate.design,
            "judged": (("preferred to the original", self.beats_original),),
            "fidelity": self.file.fidelity.score,
        }

    def as_line(self) -> str:
        """For a terminal."""
        return (
            f"{self.name}  beats the original {self.beats_original:.2f}  wins {self.win_share:.2f}  fidelity "
            f"{self.file.fidelity.score:.2f}  {self.candidate.design.background}"
        )


@dataclass(frozen=True, kw_only=True)
class MarketAds:
    """The ads of one market, best first."""

    market: str
    ads: tuple[Ad, ...]
    original_rank: int
    """Where the product's own picture stands among them, from 1."""
    asked: int
    """Designs that were written for them."""
    refused: tuple[str, ...]
    """Why some could not be used; the same design or picture again is not among these."""
    note: str | None
    """What the reward says of this market, such as that it was not trained on it."""


def make_ads(
    advertised: AdvertisedProduct,
    markets: Sequence[str],
    n: int,
    *,
    writer: DesignWriter,
    renderer: Renderer,
    scorer: Scorer,
    seed: int,
) -> list[MarketAds]:
    """n different ads per market, best first; fewer where the writer has no more to say.

    Seeds of designs count up from `seed`; all ads are rendered from `seed`, so they differ in their designs alone. markets: codes
    or names. Raises `UserError` for n, a market that is no country, a product that cannot be asked about, and where no design
    can be used.
    """
    if not 1 <= n <= MOST:
        raise UserError(f"n: {n} ads; write 1 to {MOST}")
    codes = list(dict.fromkeys(market_code(market) for market in markets))
    if not codes:
        raise UserError("market: none is given; write --market KR, or several as --markets '[KR, BR]'")
    return [_market_ads(advertised, code, n, writer, renderer, scorer, seed) for code in codes]


def _market_ads(
    advertised: AdvertisedProduct,
    market: str,
    n: int,
    writer: DesignWriter,
    renderer: Renderer,
    scorer: Scorer,
    seed: int,
) -> MarketAds:
    ads: dict[str, tuple[Candidate, RenderedFile]] = {}  # by hash of the picture: the same again is no other ad
    tried: set[Design] = set()
    refused: list[str] = []
    written = 0
    while len(ads) < n and written < ATTEMPTS * n:
        count = min(n - len(ads), ATTEMPTS * n - written)
        seeds = range(seed + written, seed + written + count)
        written += count
        (designs,) = write_designs(writer, [advertised.request(market, seeds)])
        if isinstance(designs, UserError):
            raise designs
        fresh = [candidate for candidate in designs.candidates if candidate.design not in tried]
        tried |= {candidate.design for candidate in fresh}
        rendered = different_ads(fresh, render_files(renderer, [advertised.job(each.design, seed) for each in fresh]))
        refused += [*designs.refusals, *rendered.refusals]
        for candidate, file in zip(rendered.candidates, rendered.files, strict=True):
            ads.setdefault(file.sha256, (candidate, file))
    if not ads:
        raise UserError(f"writer: none of {written} designs for {market} could be used, the last: {refused[-1]}")
    pictures = [file.png for _, file in ads.values()]
    request = ranking_request(advertised.product, pictures, advertised.image, [market])
    (verdicts,) = scorer.score([request])
    (ranking,) = ad_rankings(request, verdicts, original_counts=True)
    ranked = [(rank, place, *list(ads.values())[place]) for rank, place in enumerate(ranking.order, start=1)]
    return MarketAds(
        market=market,
        ads=tuple(
            Ad(
                market=market,
                rank=rank,
                candidate=candidate,
                file=file,
                win_share=ranking.win_share[place],
                beats_original=ranking.beats_original[place],
            )
            for rank, place, candidate, file in ranked
        ),
        original_rank=ranking.original_rank,
        asked=written,
        refused=tuple(refused),
        note=ranking.note,
    )


def write_ads(
    folder: Path, advertised: AdvertisedProduct, by_market: Sequence[MarketAds], versions: Mapping[str, Any]
) -> None:
    """ads/<market>-<rank>.png and ads.json. versions: of everything that took part."""
    (folder / "ads").mkdir()
    for ad in (ad for ads in by_market for ad in ads.ads):
        (folder / "ads" / ad.name).write_bytes(ad.file.png)
    content = {
        "product": asdict(advertised.product),
        "image_hash": advertised.image_hash,
        **versions,
        "markets": [
            {
                "market": ads.market,
                "original_rank": ads.original_rank,
                "asked": ads.asked,
                "refused": list(ads.refused),
                "note": ads.note,
                "ads": [_fields(ad) for ad in ads.ads],
            }
            for ads in by_market
        ],
    }
    (folder / "ads.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _fields(ad: Ad) -> dict[str, Any]:
    return {
        "file": f"ads/{ad.name}",
        "rank": ad.rank,
        "win_share": ad.win_share,
        "beats_original": ad.beats_original,
        "seed": ad.candidate.seed,
        "repaired": ad.candidate.repaired,
        "text": ad.candidate.text,
        "sha256": ad.file.sha256,
        "design": asdict(ad.candidate.design),
        "fidelity": asdict(ad.file.fidelity),
        "made": ad.file.made,
    }
