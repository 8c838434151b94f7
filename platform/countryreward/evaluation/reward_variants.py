"""What a trained model says with everything it has, and with one thing at a time taken from it (method.md, metrics)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.quarantine import Quarantine
from countryreward.data.records import item_keys
from countryreward.evaluation.simple_judges import shuffled
from countryreward.scoring.country_reward import CountryReward
from countryreward.scoring.examples import build_examples
from countryreward.scoring.predict import ImageInputs, Loader, judge

Progress = Callable[[str], Callable[[int, int], None]]


@dataclass(frozen=True)
class Judged:
    """Calibrated logits of the rows that were judged, per variant."""

    test: pd.DataFrame
    logits: dict[str, NDArray[np.float64]]
    swap_rows: NDArray[np.int64]
    """Positions in `test` that were also asked with A and B exchanged."""
    swapped: NDArray[np.float64]
    """Their logits then."""


def judge_variants(
    judge_of: CountryReward,
    test: pd.DataFrame,
    products: pd.DataFrame,
    priors: pd.DataFrame | None,
    images: ImageInputs,
    quarantine: Quarantine,
    *,
    seed: int = 0,
    most_swapped: int = 1000,
    progress: Progress,
) -> Judged:
    """Every variant of a model on the same rows; rows whose prompt is refused go to quarantine and are left out.

    country_reward    all it has
    country_masked    "this market" in prompt and adapter, no prior; asked once per item, so blind to the last bit
    country_shuffled  the answers of an item handed to its markets at random, prior following: the prompts of an item differ
                      in nothing but market and prior, so this is the same as asking again. Several draws [S, R]
    name_only_masked  "this market", the prior kept
    images_masked     no visual token, the rest kept
    """
    priors = priors if judge_of.folder.retrieval else None
    side = judge_of.px // 14

    def ask(rows: pd.DataFrame, name: str, **masks: Any) -> tuple[NDArray[np.float64], pd.DataFrame]:
        examples = build_examples(
            rows, products, priors, judge_of.builder, grid=(1, side, side), quarantine=quarantine, **masks
        )
        loader = Loader(examples, images, judge_of.processor.tokenizer.pad_token_id)
        size = judge_of.config.batch_size
        found = judge(judge_of.model, loader, batch_size=size, progress=progress(name))
        return found / judge_of.folder.temperature, examples.records

    logits = {}
    logits["country_reward"], test = ask(test, "country_reward")
    keys = item_keys(test).to_numpy()
    _, first, item = np.unique(keys, return_index=True, return_inverse=True)
    once, _ = ask(test.iloc[first].reset_index(drop=True), "country_masked", mask_country=True, mask_prior=True)
    logits["country_masked"] = once[item]
    logits["country_shuffled"] = shuffled(logits["country_reward"], test, seed=seed)
    if priors is not None:
        logits["name_only_masked"], _ = ask(test, "name_only_masked", mask_country=True)
    logits["images_masked"], _ = ask(test, "images_masked", mask_images=True)
    rows = np.sort(np.random.default_rng(seed).permutation(len(test))[:most_swapped])
    swapped, _ = ask(test.iloc[rows].reset_index(drop=True), "swapped", swap=True)
    return Judged(test, logits, rows, swapped)
