"""Level `delivered`: ads as a platform delivers them, so that pooled click rates compare audiences as well as ads.

logit CTR(ad, market, audience, placement, device, ad set, month) = what the other levels have + headline(market)
    + audience + its own taste(design) + placement + device + ad set + season(category, market, month)

Truth: the mean click probability of a creative in a market over the standard mix: an even split over months and ad sets, and the
shares of `AUDIENCE`, `PLACEMENT`, `DEVICE`. A randomised, evenly delivered test converges to it.

Delivery: a product has a budget in each market. All its ads get the same in the first week; then each gets impressions by the
probability that it is the best of them so far (Thompson sampling on pooled clicks), but for a small part that stays even. So
losers end with few impressions. In which audience, placement and device an ad is shown is drawn for each ad, whatever its
quality. Products in a randomised test have the even split and the standard mix throughout.

Legend: N ads, P products, M markets, T months, S ad sets, K placements, D devices, A audiences (each of the last three: 2).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit, logsumexp

from countryreward.data.marketplace.catalogue import CATEGORIES
from countryreward.data.marketplace.copywriting import BODY, CALL_TO_ACTION, OPENINGS, headline, opening_liking
from countryreward.data.marketplace.marketplace_config import Level, MarketplaceConfig
from countryreward.data.marketplace.random_streams import stream
from countryreward.data.marketplace.taste import SpecIndex, own_terms, spec_index


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """A stratum of two parts, in which a click is not equally likely."""

    names: tuple[str, str]
    """What the export calls the parts."""
    second: float
    """Share of the second part in the standard mix."""
    effects: tuple[float, float]
    """Log-odds of a click in each part."""

    @property
    def mix(self) -> np.ndarray:
        """The standard mix [2]."""
        return np.array([1 - self.second, self.second])


AUDIENCE = Stratum(names=("audience-1", "audience-2"), second=0.5, effects=(-0.5, 0.5))  # a factor e apart
PLACEMENT = Stratum(names=("feed", "stories"), second=0.4, effects=(0.0, -0.4))
DEVICE = Stratum(names=("mobile", "desktop"), second=0.3, effects=(0.1, -0.2))

_AUDIENCE_TASTE = 0.5  # its own liking of scenes, palettes and lighting, as a share of a market's
_PLACED_SD = 0.5  # log-odds of an ad's share of the second placement and of the second device
_SET_MIX_SD = 0.5  # log-odds of an ad set's share of the second audience, the same for all ads in it
_SET_SD, _SEASON_SD = 0.1, 0.2  # log-odds of a click: ad set; month of a category in a market
_EXPOSURE_SD, _PERIOD_SD = 0.33, 0.15  # log budget, as at the other levels: product x market, month
_WEEKS = 4  # of a month; the platform allocates anew after each
_EXPLORED = 0.1  # share of impressions that stays even
_DRAWS = 50  # of Thompson sampling
_PICTURE_AGAIN, _RUN_TWICE = 0.25, 0.3  # shares of products: two headlines on one picture; one creative run as two ads
_CONVERSION_RATE, _CONVERSION_SD, _PRODUCT_CONVERSION_SD = 0.04, 0.2, 0.3  # of clicks; log-odds: creative, product


def as_ads(
    config: MarketplaceConfig, specs: pd.DataFrame, titles: list[str]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The specs of the ads [N], sorted by product, and the columns of their words in creatives.csv.

    specs: of the creatives of all products. Where ads have words, some products show their first picture again, as their last
    creative, under another headline. Some run one creative as a second ad with an id of its own. Adds the columns picture (the
    creative_id that names its file), opening (of its headline; empty: an ad without words), conversion_rate (of its clicks) and
    price (mean value of a conversion).
    """
    rng = stream(config.seed, "ads")
    count, size = config.products, config.creatives_per_product
    first, shown = np.arange(count) * size, np.arange(count * size)
    again, twice = rng.random(count) < _PICTURE_AGAIN, rng.random(count) < _RUN_TWICE
    opening, step = rng.integers(len(OPENINGS), size=count * size), rng.integers(1, len(OPENINGS), count)
    second = first + rng.integers(size, size=count)  # the creative that runs twice
    of_product = rng.normal(0, _PRODUCT_CONVERSION_SD, count)
    conversion = np.repeat(of_product, size) + rng.normal(0, _CONVERSION_SD, count * size)
    price = rng.lognormal(3, 0.6, count)
    if config.delivered.copy and size > 1:
        last = (first + size - 1)[again]
        shown[last] = first[again]
        opening[last] = (opening[first[again]] + step[again]) % len(OPENINGS)
    creative = np.concatenate([np.arange(count * size), second[twice]])
    order = np.argsort(creative // size, kind="stable")
    creative, is_second = creative[order], (order >= count * size)
    ads = specs.iloc[shown[creative]].reset_index(drop=True)
    ids = specs["creative_id"].to_numpy(object)
    ads["creative_id"] = np.where(is_second, ads["product_id"] + f"-c{size + 1}", ids[creative])
    ads["picture"] = ids[shown[creative]]
    ads["opening"] = np.array(OPENINGS, object)[opening[creative]] if config.delivered.copy else ""
    ads["conversion_rate"] = expit(logit(_CONVERSION_RATE) + conversion[creative])
    ads["price"] = np.round(price[creative // size], 2)
    if not config.delivered.copy:
        return ads, {}
    words = [headline(text, titles[at]) for text, at in zip(ads["opening"], creative // size, strict=True)]
    return ads, {"headline": words, "body": [BODY] * len(ads), "call_to_action": [CALL_TO_ACTION] * len(ads)}


def deliver(
    config: MarketplaceConfig, level: Level, ads: pd.DataFrame, logits: np.ndarray
) -> tuple[np.ndarray, pd.DataFrame]:
    """The true CTR [N, M] and the observations of what was shown.

    ads: of `as_ads`. logits [N, M]: log-odds of a click, but for the level's intercept and what this module adds. Columns of the
    observations: creative_id, market, period_start, period_end, impressions, clicks, conversions, value, placement, device,
    ad_set, audience (where observed), delivery, source.
    """
    product = pd.factorize(ads["product_id"])[0]
    rates = _click_rates(config, level, ads, product, logits)
    randomised = stream(config.seed, "randomised").random(config.products) < config.delivered.randomised
    shown, clicks = _run(config, level, product, randomised, _mix(config, product, randomised), rates)
    return _over_cells(rates), _rows(config, ads, product, randomised, shown, clicks)


def audience_liking(market: str, index: SpecIndex, level: Level, *, world_seed: int) -> np.ndarray:
    """Log-odds [N, A] that an audience's own taste in a market adds to the market's."""
    columns = [
        own_terms(index, stream(world_seed, f"audience {market} {name}")) * _AUDIENCE_TASTE * level.taste_scale
        for name in AUDIENCE.names
    ]
    return np.stack(columns, axis=1)


def over_audiences(liking: np.ndarray) -> np.ndarray:
    """What the audiences' tastes [N, A] add to the log of the click rate over the standard mix [N]; exact for small rates."""
    base = np.array(AUDIENCE.effects)
    return logsumexp(base + liking, b=AUDIENCE.mix, axis=1) - logsumexp(base, b=AUDIENCE.mix)


def _click_rates(
    config: MarketplaceConfig, level: Level, ads: pd.DataFrame, product: np.ndarray, logits: np.ndarray
) -> np.ndarray:
    """Click probability [N, M, T, S, K, D, A]. The level is set so that the mean of the truth is the one asked for."""
    index, months = spec_index(ads), [first.month - 1 for first, _ in config.months()]
    of_set = stream(config.seed, "ad sets").normal(
        0, _SET_SD, (config.products, len(config.markets), config.delivered.ad_sets)
    )
    words, seasons, likings = [], [], []
    for market in config.markets:
        words.append(opening_liking(ads["opening"].tolist(), market, world_seed=config.world))
        of_month = stream(config.world, f"seasons {market}").normal(0, _SEASON_SD, (len(CATEGORIES), 12))
        seasons.append(of_month[index.category][:, months])
        likings.append(audience_liking(market, index, level, world_seed=config.world))
    season, liking = np.stack(seasons, axis=1), np.stack(likings, axis=1)
    placement, device = np.array(PLACEMENT.effects)[:, None, None], np.array(DEVICE.effects)[:, None]
    cells = (
        (logits + np.stack(words, axis=1))[:, :, None, None, None, None, None]
        + season[:, :, :, None, None, None, None]
        + of_set[product][:, :, None, :, None, None, None]
        + (liking + np.array(AUDIENCE.effects))[:, :, None, None, None, None, :]
        + placement
        + device
    )
    shift = brentq(lambda x: float(_over_cells(expit(cells + x)).mean()) - level.mean_ctr, -30.0, 30.0)
    return expit(cells + shift)  # pyright: ignore[reportOperatorIssue]


def _over_cells(rates: np.ndarray) -> np.ndarray:
    """Mean [N, M] of click rates [N, M, T, S, K, D, A] over the standard mix."""
    return np.einsum("nmtskda,k,d,a->nm", rates, PLACEMENT.mix, DEVICE.mix, AUDIENCE.mix) / np.prod(rates.shape[2:4])


def _mix(config: MarketplaceConfig, product: np.ndarray, randomised: np.ndarray) -> np.ndarray:
    """Which share of an ad's impressions in a market goes where: [N, M, S, K, D, A], summing to 1 for each ad and market."""
    rng = stream(config.seed, "mix")
    cells = len(product), len(config.markets)
    chosen = ~randomised[product][:, None]
    of_set = rng.normal(0, _SET_MIX_SD, (config.products, len(config.markets), config.delivered.ad_sets))
    audience = of_set[product] + rng.normal(0, config.delivered.mix_sd, cells)[:, :, None]
    placement, device = rng.normal(0, _PLACED_SD, cells), rng.normal(0, _PLACED_SD, cells)
    return (
        _tilted(PLACEMENT, placement * chosen)[:, :, None, :, None, None]
        * _tilted(DEVICE, device * chosen)[:, :, None, None, :, None]
        * _tilted(AUDIENCE, audience * chosen[:, :, None])[:, :, :, None, None, :]
        / config.delivered.ad_sets
    )


def _tilted(stratum: Stratum, tilt: np.ndarray) -> np.ndarray:
    """The standard mix with the share of the second part moved by log-odds [...]: [..., 2]."""
    second = expit(logit(stratum.second) + tilt)
    return np.stack([1 - second, second], axis=-1)


def _run(
    config: MarketplaceConfig,
    level: Level,
    product: np.ndarray,
    randomised: np.ndarray,
    mix: np.ndarray,
    rates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Impressions and clicks [N, M, T, S, K, D, A] of all weeks, allocated anew after each."""
    rng = stream(config.seed, "delivery")
    months, ads = config.periods, np.bincount(product)
    cells = config.products, len(config.markets)
    size = rng.normal(0, _EXPOSURE_SD, cells)[:, :, None] + rng.normal(0, _PERIOD_SD, (*cells, months))
    # of a product, for a week [N, M, T]
    budget = (level.impressions / months / _WEEKS * ads[:, None, None] * np.exp(size))[product]
    even = 1 / ads[product][:, None]
    shown, clicks = np.zeros(rates.shape, np.int64), np.zeros(rates.shape, np.int64)
    share = even
    for week in range(months * _WEEKS):
        month = week // _WEEKS
        now = rng.poisson((budget[:, :, month] * share)[:, :, None, None, None, None] * mix)
        shown[:, :, month] += now
        clicks[:, :, month] += rng.binomial(now, rates[:, :, month])
        seen, clicked = (table.sum(axis=(2, 3, 4, 5, 6)) for table in (shown, clicks))
        best = _chance_of_being_best(product, seen, clicked, level.mean_ctr, rng)
        share = np.where(randomised[product][:, None], even, _EXPLORED * even + (1 - _EXPLORED) * best)
    return shown, clicks


def _chance_of_being_best(
    product: np.ndarray, shown: np.ndarray, clicks: np.ndarray, mean_ctr: float, rng: np.random.Generator
) -> np.ndarray:
    """For each ad and market [N, M], how often its rate is the largest of its product in draws from Gamma posteriors."""
    drawn = rng.gamma(clicks + 1.0, size=(_DRAWS, *clicks.shape)) / (shown + 1 / mean_ctr)
    starts = np.flatnonzero(np.diff(product, prepend=-1))
    return (drawn == np.maximum.reduceat(drawn, starts, axis=1)[:, product]).mean(axis=0)


def _rows(
    config: MarketplaceConfig,
    ads: pd.DataFrame,
    product: np.ndarray,
    randomised: np.ndarray,
    shown: np.ndarray,
    clicks: np.ndarray,
) -> pd.DataFrame:
    """The observations as a platform exports them: one row for each cell in which an ad was shown."""
    rng = stream(config.seed, "sales")
    per_ad = (slice(None), *[None] * (clicks.ndim - 1))
    conversions = rng.binomial(clicks, ads["conversion_rate"].to_numpy()[per_ad])
    # a conversion's value varies by half its mean
    value = rng.gamma(4.0 * conversions) / 4 * ads["price"].to_numpy()[per_ad]
    exported = rng.random(clicks.shape[:2]) < config.coverage
    counts = {"impressions": shown, "clicks": clicks, "conversions": conversions, "value": value}
    if config.delivered.audiences == "hidden":
        counts = {name: table.sum(axis=-1, keepdims=True) for name, table in counts.items()}
    at = np.nonzero((counts["impressions"] > 0) & exported[:, :, None, None, None, None, None])
    ad, market, month, ad_set, placement, device, audience = at
    starts, ends = zip(*config.months(), strict=True)
    sets = config.delivered.ad_sets
    products = ads["product_id"].unique()
    set_names = [f"{name}-{code}-{s}" for name in products for code in config.markets for s in range(1, sets + 1)]
    columns = {
        "creative_id": _names(ad, ads["creative_id"]),
        "market": _names(market, config.markets),
        "period_start": _names(month, starts),
        "period_end": _names(month, ends),
        **{name: table[at] for name, table in counts.items()},
        "placement": _names(placement, PLACEMENT.names),
        "device": _names(device, DEVICE.names),
        "ad_set": _names((product[ad] * len(config.markets) + market) * sets + ad_set, set_names),
        "audience": _names(audience, AUDIENCE.names),
        "delivery": _names(randomised[product[ad]].astype(int), ("optimised", "randomised")),
        "source": "marketplace",
    }
    frame = pd.DataFrame(columns).assign(value=lambda rows: rows["value"].round(2))
    return frame.drop(columns="audience") if config.delivered.audiences == "hidden" else frame


def _names(codes: np.ndarray, names: object) -> pd.Categorical:
    """A column that holds each name once: an export has millions of rows and few names."""
    return pd.Categorical.from_codes(codes, pd.Index(np.array(list(names), object)))  # type: ignore[arg-type]
