"""The noise ceiling that records state, where the truth is known: products that differ are not ads of a product that differ.

A world: 800 products, 4 ads each, 3,000 impressions an ad in one market, products spread by .3 on the logit. The stated ceiling
is the mean of max(soft label, 1 - soft label).
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.special import expit, logit

from countryreward.data.data_config import RecordsConfig
from countryreward.data.dataset import Dataset
from countryreward.data.records import build_records
from countryreward.data.tables import CREATIVES, OBSERVATIONS, PRODUCTS

PRODUCTS_OF_WORLD, ADS, IMPRESSIONS, PRODUCT_SD = 800, 4, 3_000, 0.3


def world(seed: int, ad_sd: float, ctr: float) -> tuple[Dataset, "pd.Series[float]"]:
    """A dataset, and the true click rate of every creative."""
    rng = np.random.default_rng(seed)
    of_product = np.repeat(rng.normal(0, PRODUCT_SD, PRODUCTS_OF_WORLD), ADS)
    truth = expit(logit(ctr) + of_product + rng.normal(0, ad_sd, PRODUCTS_OF_WORLD * ADS))
    products = [f"p{number:03d}" for number in range(PRODUCTS_OF_WORLD)]
    ids = [f"{product}-{ad}" for product in products for ad in range(ADS)]
    creatives = {
        "creative_id": ids,
        "product_id": np.repeat(products, ADS),
        "content_hash": [f"{number:064x}" for number in range(len(ids))],
        "perceptual_hash": [f"{number:016x}" for number in range(len(ids))],
    }
    observations = {
        "creative_id": ids,
        "market": "KR",
        "kind": "counts",
        "impressions": IMPRESSIONS,
        "clicks": rng.binomial(IMPRESSIONS, truth),
    }
    dataset = Dataset(
        products=table({"product_id": products, "title": products}, PRODUCTS),
        creatives=table(creatives, CREATIVES),
        observations=table(observations, OBSERVATIONS),
    )
    return dataset, pd.Series(truth, index=ids)


def table(columns: dict[str, object], schema: pa.Schema) -> pd.DataFrame:
    """As `Dataset.read` gives it: every column of the schema."""
    frame = pd.DataFrame(columns)
    known = pa.Table.from_pandas(frame, schema=pa.schema([schema.field(name) for name in frame]), preserve_index=False)
    return pa.table(
        [known[field.name] if field.name in columns else pa.nulls(len(frame), field.type) for field in schema],
        schema=schema,
    ).to_pandas()


def ceilings(seed: int, ad_sd: float, ctr: float) -> tuple[float, float]:
    """(stated ceiling, share of hard labels that agree with the true order) of a world; without tied labels."""
    dataset, truth = world(seed, ad_sd, ctr)
    records = build_records(dataset, RecordsConfig()).frame
    records = records[records["label"] != 0.5]
    soft = records["soft_label"].to_numpy(float)
    is_a = records["creative_a"].map(truth).to_numpy() > records["creative_b"].map(truth).to_numpy()
    return float(np.maximum(soft, 1 - soft).mean()), float((records["label"].to_numpy() == is_a).mean())


def mean_ceilings(worlds: int, ad_sd: float, ctr: float) -> tuple[float, float]:
    found = [ceilings(seed, ad_sd, ctr) for seed in range(worlds)]
    stated, true = zip(*found, strict=True)
    return float(np.mean(stated)), float(np.mean(true))


@pytest.mark.parametrize("ctr", [0.016, 0.03])
def test_identical_ads_in_one_world(ctr: float) -> None:
    stated, _ = mean_ceilings(1, 0.0, ctr)
    assert stated <= 0.62


def test_ads_that_differ_in_one_world() -> None:
    stated, true = mean_ceilings(1, 0.155, 0.016)
    assert stated == pytest.approx(true, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("ctr", [0.016, 0.03])
def test_identical_ads(ctr: float) -> None:
    stated, _ = mean_ceilings(20, 0.0, ctr)
    assert 0.5 <= stated <= 0.56


@pytest.mark.slow
@pytest.mark.parametrize("ctr", [0.016, 0.03])
def test_ads_that_differ(ctr: float) -> None:
    stated, true = mean_ceilings(20, 0.155, ctr)
    assert stated == pytest.approx(true, abs=0.015)
