"""The rows of the reward report: every judge, its name in plain words, and how its logits come about.

To add a judge, add one entry to `JUDGE_ROWS` under the key that report.json will use:

- one that reads records and embeddings but no trained model gives `from_records`, a function of `RecordInputs`;
- a variant of the trained model gives `from_model`, a function of `ModelAnswers` (`evaluation/reward_variants.py`);
- another trained model, or another prior, needs neither: its logits come with the options `others` and `priors` of
  jobs/evaluate_reward.py, and the entry only names it.

Metrics, intervals, differences to the report's subject, tables and pictures follow from the entry. A key without an entry is
reported too, under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward.evaluation.simple_judges import constant_letter, market_blind_oracle, other_markets, shuffled

if TYPE_CHECKING:  # torch and pyarrow load only where a report is made
    from countryreward.evaluation.reward_variants import ModelAnswers
    from countryreward.retrieval.embedding_table import Embeddings

Logits = NDArray[np.float64]
"""Log-odds of A: one per evaluated record [R], or several draws of each [S, R] for a judge that is random by nature."""


@dataclass(frozen=True, kw_only=True)
class RecordInputs:
    """What a judge without a trained model may read."""

    train: pd.DataFrame
    """Records of the train split (columns of RECORDS)."""
    test: pd.DataFrame
    """The evaluated records, R of them."""
    prior: Logits
    """Log-odds [R] of the report's first prior."""
    embeddings: Embeddings
    """Of products and images of all records."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class JudgeRow:
    """One judge of the report."""

    name: str
    """In plain words, as tables, pictures and sentences call it."""
    plural: bool = False
    """Whether the name takes a verb in the plural."""
    letter_only: bool = False
    """Its logit is +1 or -1 and only the sign means something: no Brier score, log loss or calibration error."""
    in_every_plot: bool = False
    """Drawn beside the report's subject where there is not room for all."""
    called: str = ""
    """How the findings call it where they compare the subject's right answers with its own; empty: they do not."""
    mixed_up: str = "prior_shuffled"
    """Key of the row in which this judge's answers are dealt to the countries at random."""
    from_records: Callable[[RecordInputs], Logits] | None = None
    from_model: Callable[[ModelAnswers], Logits | None] | None = None
    """None where this model has no such variant."""


JUDGE_ROWS: Mapping[str, JudgeRow] = {
    "prior_only": JudgeRow(name="Past ads alone", plural=True, in_every_plot=True, called="past ads alone"),
    "prior_only_paper": JudgeRow(name="Past ads alone, as the paper counts", plural=True),
    "country_reward": JudgeRow(
        name="CountryReward", mixed_up="country_shuffled", from_model=lambda model: model.unmasked
    ),
    "country_masked": JudgeRow(
        name="CountryReward, not told the country",
        in_every_plot=True,
        from_model=lambda model: model.ask_once_per_item(mask_country=True, mask_prior=True),
    ),
    "country_shuffled": JudgeRow(
        name="CountryReward, countries mixed up",
        from_model=lambda model: shuffled(model.unmasked, model.test, seed=model.seed),
    ),
    "name_only_masked": JudgeRow(
        name="CountryReward, past ads but no country name",
        from_model=lambda model: model.ask(mask_country=True) if model.reads_priors else None,
    ),
    "images_masked": JudgeRow(
        name="CountryReward, not shown the images",
        called="the same model without the images",
        from_model=lambda model: model.ask(mask_images=True),
    ),
    "prior_shuffled": JudgeRow(
        name="Past ads, countries mixed up",
        plural=True,
        in_every_plot=True,
        from_records=lambda given: shuffled(given.prior, given.test, seed=given.seed),
    ),
    "other_markets": JudgeRow(
        name="The same ads in the other countries",
        plural=True,
        called="how the same two ads did elsewhere",
        from_records=lambda given: other_markets(given.train, given.test),
    ),
    "constant_letter": JudgeRow(
        name="Always the same letter",
        letter_only=True,
        from_records=lambda given: constant_letter(given.train, given.test),
    ),
    "market_blind_oracle": JudgeRow(
        name="Country-blind, in hindsight",
        letter_only=True,
        in_every_plot=True,
        from_records=lambda given: market_blind_oracle(given.test),
    ),
}
"""Key in report.json -> judge. The report shows the model's rows first, then `others`, `priors` and those from records."""

CEILINGS = {"noise": "Knows the true click rates", "market_blind": "Knows them, but country-blind"}
"""Key of a ceiling in report.json -> its name in plain words."""


def judge_row(key: str) -> JudgeRow:
    """The entry of a judge; one that has none is called by its key."""
    return JUDGE_ROWS.get(key) or JudgeRow(name=key.replace("_", " "))
