"""Ads for a market on request: designs written, rendered, and ranked among each other and the product's own picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from countryreward import markets as countries
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import (
    DesignRequest,
    DesignWriter,
    Refusal,
    RenderedFile,
    Renderer,
    RenderJob,
)
from countryreward.generation.advertised import Advertised
from countryreward.generation.render_files import render_files
from countryreward.scoring.contracts import Product, Ranking

MOST = 24
"""Ads per market: they are ranked pair by pair."""
ATTEMPTS = 3
"""Designs that are asked for at most, as a multiple of the ads that are wanted."""


class Ranker(Protocol):
    """Puts several images of one product in order, as `CountryReward` does."""

    def rank(self, product: Product, images: Sequence[bytes], markets: Sequence[str]) -> list[Ranking]:
        """One ranking per market."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ad:
    """One ad, with all that is needed to make it again."""

    market: str
    """ISO 3166 alpha-2."""
    rank: int
    """1 is the best of its market."""
    design: Design
    text: str
    """As the writer answered."""
    repaired: bool
    """Whether that had to be mended to be read."""
    seed: int
    """The writer's."""
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
            "design": self.design,
            "judged": (("preferred to the original", self.beats_original),),
            "fidelity": self.file.fidelity.score,
        }

    def as_line(self) -> str:
        """For a terminal."""
        return (
            f"{self.name}  beats the original {self.beats_original:.2f}  wins {self.win_share:.2f}  fidelity "
            f"{self.file.fidelity.score:.2f}  {self.design.background}"
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
    asked: Advertised,
    markets: Sequence[str],
    n: int,
    *,
    writer: DesignWriter,
    renderer: Renderer,
    ranker: Ranker,
    seed: int,
) -> list[MarketAds]:
    """n different ads per market, best first; fewer where the writer has no more to say.

    Seeds of designs count up from `seed`; all ads are rendered from `seed`, so they differ in their designs alone. markets: codes
    or names. Raises `UserError` for n, a market that is no country, a product that cannot be asked about, and where no design
    can be used.
    """
    if not 1 <= n <= MOST:
        raise UserError(f"n: {n} ads; write 1 to {MOST}")
    codes = list(dict.fromkeys(_code(market) for market in markets))
    if not codes:
        raise UserError("market: none is given; write --market KR, or several as --markets '[KR, BR]'")
    return [_for_market(asked, code, n, writer, renderer, ranker, seed) for code in codes]


def write_ads(folder: Path, asked: Advertised, made: Sequence[MarketAds], versions: Mapping[str, Any]) -> None:
    """ads/<market>-<rank>.png and ads.json. versions: of everything that took part."""
    (folder / "ads").mkdir()
    for ad in (ad for each in made for ad in each.ads):
        (folder / "ads" / ad.name).write_bytes(ad.file.png)
    told = {
        "product": asdict(asked.product),
        "image_hash": asked.image_hash,
        **versions,
        "markets": [
            {
                "market": each.market,
                "original_rank": each.original_rank,
                "asked": each.asked,
                "refused": list(each.refused),
                "note": each.note,
                "ads": [_told(ad) for ad in each.ads],
            }
            for each in made
        ],
    }
    (folder / "ads.json").write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")


def _told(ad: Ad) -> dict[str, Any]:
    plain = ("rank", "win_share", "beats_original", "seed", "repaired", "text")
    return {
        "file": f"ads/{ad.name}",
        **{name: getattr(ad, name) for name in plain},
        "sha256": ad.file.sha256,
        "design": asdict(ad.design),
        "fidelity": asdict(ad.file.fidelity),
        "made": ad.file.made,
    }


@dataclass(frozen=True)
class _Candidate:
    """An ad that is not ranked yet."""

    seed: int
    text: str
    repaired: bool
    design: Design
    file: RenderedFile


def _for_market(
    asked: Advertised, market: str, n: int, writer: DesignWriter, renderer: Renderer, ranker: Ranker, seed: int
) -> MarketAds:
    found: dict[str, _Candidate] = {}  # by the picture: the same again is no other ad
    tried: set[Design] = set()
    refused: list[str] = []
    written = 0
    while len(found) < n and written < ATTEMPTS * n:
        count = min(n - len(found), ATTEMPTS * n - written)
        seeds = range(seed + written, seed + written + count)
        written += count
        for each in _candidates(asked, market, seeds, tried, writer, renderer, seed):
            if isinstance(each, str):
                refused.append(each)
            else:
                found.setdefault(each.file.sha256, each)
    if not found:
        raise UserError(f"writer: none of {written} designs for {market} could be used, the last: {refused[-1]}")
    candidates = list(found.values())
    pictures = [each.file.png for each in candidates]
    (ranking,) = ranker.rank(asked.product, [*pictures, asked.image], [market])
    last = len(candidates)  # where the original stands in what was ranked
    beats = {a: verdict.stated_probability for a, b, verdict in ranking.verdicts if b == last}
    order = [place for place in ranking.order if place != last]
    ads = tuple(
        Ad(
            market=market,
            rank=rank,
            win_share=ranking.win_share[place],
            beats_original=beats[place],
            **vars(candidates[place]),
        )
        for rank, place in enumerate(order, start=1)
    )
    return MarketAds(
        market=market,
        ads=ads,
        original_rank=ranking.order.index(last) + 1,
        asked=written,
        refused=tuple(refused),
        note=next((verdict.note for *_, verdict in ranking.verdicts if verdict.note), None),
    )


def _candidates(
    asked: Advertised,
    market: str,
    seeds: Sequence[int],
    tried: set[Design],
    writer: DesignWriter,
    renderer: Renderer,
    seed_render: int,
) -> list[_Candidate | str]:
    """What became of designs of these seeds: an ad, or why there is none; nothing for a design that was tried already."""
    requests = [
        DesignRequest(product=asked.product, market=market, image=asked.pixels, image_hash=asked.image_hash, seed=seed)
        for seed in seeds
    ]
    refused: list[_Candidate | str] = []
    fresh = []
    for request, answer in zip(requests, writer.write(requests), strict=True):
        if answer.design is None:
            refused.append(answer.reason or "the answer could not be read")
        elif answer.design not in tried:
            tried.add(answer.design)
            fresh.append((request.seed, answer, answer.design))
    jobs = [
        RenderJob(
            design=design, product=asked.product, image=asked.pixels, image_hash=asked.image_hash, seed=seed_render
        )
        for *_, design in fresh
    ]
    for (seed, answer, design), file in zip(fresh, render_files(renderer, jobs), strict=True):
        refused.append(
            file.reason if isinstance(file, Refusal) else _Candidate(seed, answer.text, answer.repaired, design, file)
        )
    return refused


def _code(market: str) -> str:
    code = countries.parse(market)
    if code is None:
        raise UserError(
            f"market: {market!r} is no country; write an ISO 3166 code such as KR or a name such as South Korea"
        )
    return code
