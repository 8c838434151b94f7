"""From records to spliced prompts with their targets: what training learns from and evaluation judges."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.models.reward_prompts import Example, Grid, PairFields, PromptBuilder


@dataclass(frozen=True)
class Examples:
    """Prompts of records in the order of `records`, which lacks those that were refused."""

    prompts: list[Example]
    records: pd.DataFrame

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every prompt, for bucketing."""
        return np.array([len(prompt.ids) for prompt in self.prompts], dtype=np.int64)

    @property
    def targets(self) -> NDArray[np.float32]:
        """What training learns from (`records.label_kind`)."""
        return self.records["target"].to_numpy(np.float32)


def build_examples(
    records: pd.DataFrame,
    products: pd.DataFrame,
    priors: pd.DataFrame | None,
    builder: PromptBuilder,
    *,
    grid: Grid,
    quarantine: Quarantine,
    mask_country: bool = False,
    mask_prior: bool = False,
    mask_images: bool = False,
    swap: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Examples:
    """One prompt per record. A record whose prompt is refused (too long, another market in its text) is quarantined.

    priors: log_odds and letter by record_id; None: no record has a prior. `mask_*`: the masked variants of the evaluation.
    swap: ask about (B, A) instead, prior and all.
    """
    of_product = {row["product_id"]: row for row in products.to_dict("records")}
    of_record = {}
    if priors is not None and not mask_prior:
        of_record = {row["record_id"]: row for row in priors[["record_id", "log_odds", "letter"]].to_dict("records")}
    prompts, kept = [], []
    for position, row in enumerate(records.to_dict("records")):
        product, prior = of_product[row["product_id"]], of_record.get(row["record_id"], {})
        letter = prior.get("letter")
        try:
            fields = PairFields(
                title=product["title"],
                category=product["category"] if isinstance(product["category"], str) else None,
                attributes=dict(product["attributes"]) if product["attributes"] is not None else {},
                tags=list(product["tags"]) if product["tags"] is not None else [],
                market=row["market"],
                images=(row["hash_a"], row["hash_b"]),
                grids=(grid, grid),
                log_odds=float(prior.get("log_odds", 0.0)),
                letter=letter if isinstance(letter, str) else None,
                mask_country=mask_country,
                mask_images=mask_images,
            )
            prompts.append(builder.example(fields.swapped() if swap else fields))
            kept.append(position)
        except UserError as error:
            quarantine.add(
                table="records",
                row=position,
                key=row["record_id"],
                reason="refused_prompt",
                field="prompt",
                value=str(error),
            )
        if progress and position % 500 == 0:
            progress(position, len(records))
    return Examples(prompts=prompts, records=records.iloc[kept].reset_index(drop=True))
