"""A marketplace whose true click probabilities are known.

logit CTR(creative, market) = level + product + market + shared quality + scale x taste(design, category, market)

Shared quality comes from what can be seen in the picture (size and centring of the product, sharpness, contrast) and
a small part that cannot. It dominates taste, so a judge blind to the market is often right, and never on both of two
markets that disagree. Clicks are binomial by month; impressions are lognormal and independent of success.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit

from countryreward.data.marketplace.catalogue import BRANDS, CATEGORIES, SUFFIXES
from countryreward.data.marketplace.delivered import as_ads, deliver
from countryreward.data.marketplace.marketplace_config import LEVELS, Level, MarketplaceConfig
from countryreward.data.marketplace.random_streams import stream
from countryreward.data.marketplace.shapes import PATTERNS
from countryreward.data.marketplace.taste import market_taste, spec_index, utility
from countryreward.data.marketplace.vocabulary import AXES, COLOURS

_PRODUCT_SD, _MARKET_SD = 0.3, 0.2  # log-odds; they move whole products and markets and cancel within a pair
_EXPOSURE_SD, _ARM_SD, _PERIOD_SD = 0.33, 0.08, 0.15  # log impressions: product x market, creative within it, month
CRAFT = {"size": (0.36, 0.68), "offset": (0.16, 0.0), "blur": (0.012, 0.0), "contrast": (0.6, 1.15)}
"""What makes a picture good or bad everywhere -> its worst and its best value."""


@dataclass(frozen=True, kw_only=True)
class Marketplace:
    """A simulated marketplace: its tables as a platform would export them, the truth behind them, how each picture is drawn."""

    config: MarketplaceConfig
    """How it was made."""
    products: pd.DataFrame
    """product_id, title, category, attributes (dict), tags (list), seller."""
    creatives: pd.DataFrame
    """creative_id, product_id, image_uri (file name); level delivered: one row per ad, with headline, body, call_to_action."""
    observations: pd.DataFrame
    """creative_id, market, period_start, period_end (dates), impressions, clicks, source; level delivered: as `deliver` says."""
    truth: pd.DataFrame
    """creative_id, market, ctr: the true probability of a click, also of cells nobody observed; level delivered: over the
    standard mix of audiences, placements, devices, ad sets and months (`delivered.py`)."""
    specs: pd.DataFrame
    """Per creative: the fields of Spec, Craft and ProductLook, draw_seed, and its shared quality (log-odds); level delivered: per
    ad, and what `as_ads` adds."""


def simulate(config: MarketplaceConfig) -> Marketplace:
    """Products, creatives, truth and observations of a marketplace. The same config gives the same frames."""
    level = LEVELS[config.level]
    products, looks = _products(config)
    specs = _specs(config, level, looks)
    extension = {"JPEG": ["jpg"] * 3, "PNG": ["png"] * 3, "mixed": ["jpg", "jpg", "png"]}[config.image_format]
    file_of = {key: f"{key}.{extension[i % 3]}" for i, key in enumerate(specs["creative_id"])}
    if config.level == "delivered":
        specs, words = as_ads(config, specs, products["title"].tolist())
        creatives = specs[["creative_id", "product_id"]].assign(image_uri=specs["picture"].map(file_of), **words)
        ctr, observations = deliver(config, level, specs, _logits(config, level, specs))
    else:
        creatives = specs[["creative_id", "product_id"]].assign(image_uri=list(file_of.values()))
        ctr = _true_ctr(level, _logits(config, level, specs))
        observations = _observations(config, level, creatives, ctr)
    return Marketplace(
        config=config,
        products=products,
        creatives=creatives,
        observations=observations,
        truth=_long(specs["creative_id"].tolist(), config.markets, ctr),
        specs=specs,
    )


def _products(config: MarketplaceConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = stream(config.seed, "products")
    rows, looks = [], []
    for number in range(config.products):
        key = list(CATEGORIES)[int(rng.integers(len(CATEGORIES)))]
        category = CATEGORIES[key]
        colour = str(rng.choice(list(COLOURS)))
        attributes = {name: str(rng.choice(values)) for name, values in category.attributes.items()}
        words = [rng.choice(BRANDS), rng.choice(category.adjectives), rng.choice(category.nouns)]
        words += [colour.lower()] * int(rng.random() < 0.4) + [next(iter(attributes.values()))] * int(
            rng.random() < 0.4
        )
        title = " ".join([*words, rng.choice(SUFFIXES)]).strip()
        tags = [str(tag) for tag in rng.permutation(category.tags)[: int(rng.integers(2, 5))]]
        identity = {"product_id": f"p{number:05d}"}
        rows.append(
            {
                **identity,
                "title": title,
                "category": category.name,
                "attributes": {"colour": colour.lower(), **attributes},
                "tags": tags,
                "seller": f"seller-{int(rng.integers(max(2, config.products // 15))):03d}",
            }
        )
        looks.append({**identity, "category": key, "colour": colour, "pattern": str(rng.choice(PATTERNS))})
    return pd.DataFrame(rows), pd.DataFrame(looks)


def _specs(config: MarketplaceConfig, level: Level, looks: pd.DataFrame) -> pd.DataFrame:
    rng = stream(config.seed, "creatives")
    specs = looks.loc[looks.index.repeat(config.creatives_per_product)].reset_index(drop=True)
    count = len(specs)
    numbers = np.arange(count) % config.creatives_per_product + 1
    specs.insert(
        0, "creative_id", [f"{product}-c{number}" for product, number in zip(specs["product_id"], numbers, strict=True)]
    )
    for axis, choices in AXES.items():
        specs[axis] = np.array(list(choices))[rng.integers(len(choices), size=count)].astype(object)
    grade = {name: rng.random(count) for name in CRAFT}  # 0 worst, 1 best
    value = {name: worst + (best - worst) * grade[name] for name, (worst, best) in CRAFT.items()}
    angle = rng.uniform(0, 2 * np.pi, count)
    specs["size"], specs["blur"], specs["contrast"] = value["size"], value["blur"], value["contrast"]
    specs["offset_x"], specs["offset_y"] = value["offset"] * np.cos(angle), 0.6 * value["offset"] * np.sin(angle)
    visible = sum(np.sqrt(12) * (share - 0.5) for share in grade.values()) / np.sqrt(len(grade))
    hidden = rng.standard_normal(count)
    specs["shared"] = level.shared_sd * (
        np.sqrt(level.visible_share) * visible + np.sqrt(1 - level.visible_share) * hidden
    )
    specs["draw_seed"] = rng.integers(2**31, size=count)
    return specs


def _logits(config: MarketplaceConfig, level: Level, specs: pd.DataFrame) -> np.ndarray:
    """Log-odds of a click [creatives, markets], but for the level's intercept."""
    index, product = spec_index(specs), pd.factorize(specs["product_id"])[0]
    of_product = stream(config.seed, "product level").normal(0, _PRODUCT_SD, config.products)[product]
    columns = []
    for market in config.markets:
        of_market = stream(config.world, f"market level {market}").normal(0, _MARKET_SD)
        taste = market_taste(market, world_seed=config.world, category_share=level.category_share)
        columns.append(of_market + of_product + specs["shared"].to_numpy() + level.taste_scale * utility(taste, index))
    return np.stack(columns, axis=1)


def _true_ctr(level: Level, logits: np.ndarray) -> np.ndarray:
    """True CTR [creatives, markets]. The level is set so that its mean is the one asked for."""
    intercept = brentq(lambda shift: float(expit(logits + shift).mean()) - level.mean_ctr, -30.0, 30.0)
    return expit(logits + intercept)


def _observations(config: MarketplaceConfig, level: Level, creatives: pd.DataFrame, ctr: np.ndarray) -> pd.DataFrame:
    rng = stream(config.seed, "observations")
    count, markets, periods = *ctr.shape, config.periods
    exposure = np.repeat(rng.normal(0, _EXPOSURE_SD, (config.products, markets)), config.creatives_per_product, axis=0)
    arm = exposure + rng.normal(0, _ARM_SD, (count, markets))
    months = arm[:, :, None] + rng.normal(0, _PERIOD_SD, (count, markets, periods))
    impressions = np.maximum(1, np.rint(level.impressions / periods * np.exp(months))).astype(np.int64)
    clicks = rng.binomial(impressions, ctr[:, :, None])
    observed = rng.random((count, markets)) < config.coverage
    starts, ends = zip(*config.months(), strict=True)
    keep = np.repeat(observed.ravel(), periods)
    frame = pd.DataFrame(
        {
            "creative_id": np.repeat(creatives["creative_id"].to_numpy(object), markets * periods),
            "market": np.tile(np.repeat(np.array(config.markets, object), periods), count),
            "period_start": np.tile(np.array(starts, object), count * markets),
            "period_end": np.tile(np.array(ends, object), count * markets),
            "impressions": impressions.ravel(),
            "clicks": clicks.ravel(),
            "source": "marketplace",
        }
    )
    return frame.loc[keep].reset_index(drop=True)


def _long(creative_ids: list[str], markets: list[str], ctr: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "creative_id": np.repeat(np.array(creative_ids, object), len(markets)),
            "market": np.tile(np.array(markets, object), len(creative_ids)),
            "ctr": ctr.ravel(),
        }
    )
