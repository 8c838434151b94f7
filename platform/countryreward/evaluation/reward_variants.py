"""What trained models say of the evaluated records: the subject with all it has and with one thing at a time taken from it
(docs/method.md, metrics), with A and B exchanged, and further models to compare with.

Legend: R evaluated records.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from countryreward.data.dataset import Dataset
from countryreward.data.quarantine import Quarantine
from countryreward.data.records import item_keys
from countryreward.equations.metrics import swap_consistency
from countryreward.errors import UserError
from countryreward.evaluation.build_report import JudgedRecords, ReportInputs, split_unit
from countryreward.evaluation.evaluation_config import ModelReportConfig
from countryreward.evaluation.judge_rows import JUDGE_ROWS, Logits
from countryreward.evaluation.statistics import Unit, bootstrap_totals, interval, record_weights
from countryreward.judges.pairwise import PairwiseJudge
from countryreward.progress import bar
from countryreward.scoring.country_reward import CountryReward
from countryreward.scoring.predict import ImageInputs, Loader, build_examples, image_inputs, judge, with_images

MOST_SWAPPED = 1000
"""Records that are asked again with A and B exchanged; all of them where there are no more."""


class ModelAnswers:
    """One model on the evaluated records; every answer is a calibrated logit of A [R].

    Records whose prompt the model refuses go to the quarantine and are left out of `test`.
    """

    def __init__(
        self,
        model: CountryReward,
        test: pd.DataFrame,
        dataset: Dataset,
        priors: pd.DataFrame,
        images: ImageInputs,
        quarantine: Quarantine,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Asks the model once with all it has. priors: log_odds and letter by record_id, for a model with retrieval."""
        self.seed = seed
        self.reads_priors = bool(model.folder.retrieval)
        self._model, self._judge = model, _pairwise(model)
        self._products, self._images = dataset.products, images
        self._creatives = dataset.creatives if model.folder.reads_copy else None
        self._priors = priors if self.reads_priors else None
        self._quarantine, self._progress = quarantine, progress
        self.unmasked, self.test = self._ask(test)

    def ask(self, **masks: bool) -> Logits:
        """The answers with something taken from the prompts. masks: `mask_*` of `build_examples`."""
        return self._ask(self.test, **masks)[0]

    def ask_once_per_item(self, **masks: bool) -> Logits:
        """The same for masks that leave nothing of the market in a prompt: one answer for all markets of an item.

        Without it batches of other lengths could give the markets of an item logits that differ in their last bit.
        """
        _, first, item = np.unique(item_keys(self.test).to_numpy(), return_index=True, return_inverse=True)
        return self._ask(self.test.iloc[first].reset_index(drop=True), **masks)[0][item]

    def swap_interval(self, *, unit: Unit, draws: int) -> dict[str, Any]:
        """Does the answer follow the image when A and B change places? Swap consistency with its bootstrap interval over
        products (or images), and the number of records asked."""
        positions = np.sort(np.random.default_rng(self.seed).permutation(len(self.test))[:MOST_SWAPPED])
        records = self.test.iloc[positions].reset_index(drop=True)
        logit_ab, logit_ba = self.unmasked[positions], self._ask(records, swap=True)[0]
        weights = record_weights(records, unit, draws=draws, seed=self.seed)
        same = (np.sign(logit_ab) == -np.sign(logit_ba)).astype(float)
        totals = bootstrap_totals({"": {"same": same, "records": np.ones(len(same))}}, weights)[""]
        with np.errstate(invalid="ignore"):  # fewer products than an interval takes
            drawn = totals["same"] / totals["records"]
        return interval(swap_consistency(logit_ab, logit_ba), drawn) | {"n": len(same)}

    def _ask(self, records: pd.DataFrame, **masks: bool) -> tuple[Logits, pd.DataFrame]:
        """Logits and the records that they are of: those whose prompt was not refused."""
        pairwise = self._judge
        side = pairwise.model.config.image_px // 14
        examples = build_examples(
            records,
            self._products,
            self._priors,
            pairwise.builder,
            grid=(1, side, side),
            quarantine=self._quarantine,
            creatives=self._creatives,
            **masks,  # pyright: ignore[reportArgumentType]
        )
        loader = Loader(examples, self._images, pairwise.processor.tokenizer.pad_token_id)
        batch_size = self._model.config.batch_size
        logits = judge(pairwise.model, loader, batch_size=batch_size, progress=self._progress)
        return logits / self._model.folder.temperature, examples.records


def _pairwise(model: CountryReward) -> PairwiseJudge:
    """The judge of a model folder; raises `UserError` for one that has no prompts to take something from."""
    if not isinstance(model.judge, PairwiseJudge):
        raise UserError(
            f"model: {model.folder.artifact.path} holds a judge of kind {model.judge.kind}; the report masks the prompts of "
            f"judges of kind {PairwiseJudge.kind}"
        )
    return model.judge


def judge_models(config: ModelReportConfig, inputs: ReportInputs, records: JudgedRecords) -> JudgedRecords:
    """The records with the logits of the model's rows in `JUDGE_ROWS` and of the other models.

    Raises `UserError` for a model of another knowledge base than the priors', and for another model that refuses prompts.
    """
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    subject = CountryReward.from_pretrained(config.model, device=device)
    if subject.folder.base.version != inputs.base.version:
        raise UserError(
            f"model: {config.model} was trained with knowledge base {subject.folder.base.version}, the priors are from "
            f"{inputs.base.version}; build them from the model's, or train again"
        )
    dataset = Dataset.read(inputs.dataset.path)
    priors = pd.read_parquet(next(iter(inputs.priors.values())).path / "priors.parquet")
    quarantine = Quarantine("evaluation")

    def images_of(model: CountryReward) -> ImageInputs:
        pairwise = _pairwise(model)
        px = pairwise.model.config.image_px
        return image_inputs(config.features, inputs.dataset.path, pairwise.model, pairwise.processor, px=px)

    images = images_of(subject)
    test = with_images(records.test, images, quarantine)
    with bar("judged") as progress:
        options: dict[str, Any] = {"seed": config.seed, "progress": progress}
        answers = ModelAnswers(subject, test, dataset, priors, images, quarantine, **options)
        rows = {key: row.from_model(answers) for key, row in JUDGE_ROWS.items() if row.from_model}
        logits = {key: of_row for key, of_row in rows.items() if of_row is not None}
        swap = answers.swap_interval(unit=split_unit(inputs.records), draws=config.draws)
        for name, path in config.others.items():
            other = CountryReward.from_pretrained(path, device=device)
            theirs = ModelAnswers(other, answers.test, dataset, priors, images_of(other), quarantine, **options)
            if len(theirs.test) < len(answers.test):
                raise UserError(
                    f"others.{name}: it refuses prompts that the model takes; compare models of one max_length"
                )
            logits[name] = theirs.unmasked
    return replace(
        records,
        test=answers.test,
        left_out=records.left_out | {"refused_by_the_model": len(quarantine.refusals)},
        logits=logits,
        details={"country_reward": {"swap_consistency": swap}},
        quarantine=quarantine,
        lineage={"model": subject.folder.artifact},
        versions={"model": subject.version},
        options={"others": config.others},
    )
