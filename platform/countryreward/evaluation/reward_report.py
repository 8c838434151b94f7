"""The trained models' part of a report: their variants before the prior's, swap consistency, versions."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from countryreward.data.artifacts import Artifact
from countryreward.data.dataset import Dataset
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.evaluation.build_report import Inputs, Rows, split_unit
from countryreward.evaluation.reward_variants import judge_variants
from countryreward.evaluation.swaps import swap_interval
from countryreward.progress import bar
from countryreward.scoring.country_reward import CountryReward
from countryreward.scoring.examples import build_examples
from countryreward.scoring.image_inputs import image_inputs, with_images
from countryreward.scoring.predict import Loader, judge


class RewardReportConfig(Protocol):
    """What the job is told about models."""

    model: str
    others: dict[str, str]
    features: str
    device: str
    draws: int
    seed: int


@dataclass(frozen=True)
class Models:
    """What the models said."""

    rows: Rows
    swap: dict[str, Any]
    quarantine: Quarantine
    lineage: dict[str, Artifact]
    versions: dict[str, str]

    def add_to(self, report: dict[str, Any]) -> None:
        """Complete a report."""
        report["variants"]["country_reward"]["swap_consistency"] = self.swap
        report["versions"] |= self.versions
        report["counts"]["judged"] = {
            "input": len(self.rows.test) + len(self.quarantine.refusals),
            "kept": len(self.rows.test),
            "dropped": 0,
            "quarantined": len(self.quarantine.refusals),
        }


def judge_models(config: RewardReportConfig, inputs: Inputs, rows: Rows) -> Models:
    """Ask the model, and the others, about the rows. A model of another knowledge base than the priors' is refused."""
    chosen = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    subject = CountryReward.from_pretrained(config.model, device=chosen)
    if subject.folder.base.version != inputs.base.version:
        raise UserError(
            f"model: {config.model} was trained with knowledge base {subject.folder.base.version}, the priors are from "
            f"{inputs.base.version}; build them from the model's, or train again"
        )
    products = Dataset.read(inputs.dataset.path).products
    priors = pd.read_parquet(next(iter(inputs.priors.values())).path / "priors.parquet")
    quarantine = Quarantine("evaluation")

    def images_of(one: CountryReward) -> Any:
        return image_inputs(config.features, inputs.dataset.path, one.model, one.processor, px=one.px)

    images = images_of(subject)
    test = with_images(rows.test, images, quarantine)
    with bar("judged") as progress:

        def named(_: str) -> Any:
            return progress

        judged = judge_variants(subject, test, products, priors, images, quarantine, seed=config.seed, progress=named)
        logits = dict(judged.logits)
        for name, path in config.others.items():
            other = CountryReward.from_pretrained(path, device=chosen)
            side = other.px // 14
            examples = build_examples(
                judged.test,
                products,
                priors if other.folder.retrieval else None,
                other.builder,
                grid=(1, side, side),
                quarantine=quarantine,
            )
            if len(examples.prompts) < len(judged.test):
                raise UserError(
                    f"others.{name}: it refuses prompts that the model takes; compare models of one max_length"
                )
            loader = Loader(examples, images_of(other), other.processor.tokenizer.pad_token_id)
            logits[name] = judge(other.model, loader, progress=progress) / other.folder.temperature
    asked = judged.test.iloc[judged.swap_rows]
    swap = swap_interval(
        asked,
        np.asarray(logits["country_reward"])[judged.swap_rows],
        judged.swapped,
        unit=split_unit(inputs.records),
        draws=config.draws,
        seed=config.seed,
    )
    left_out = rows.left_out | {"refused_by_the_model": len(quarantine.refusals)}
    return Models(
        rows=Rows(judged.test, left_out, logits),
        swap=swap,
        quarantine=quarantine,
        lineage={"model": subject.folder.artifact},
        versions={"model": subject.version},
    )
