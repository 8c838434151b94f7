"""Rounds of an alignment: which products each takes, what it learned from, the report of all, and the writer to publish."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import Artifact, current, open_artifact
from countryreward.evaluation.ad_gallery import case_boards
from countryreward.evaluation.alignment_report import write_alignment_report
from countryreward.evaluation.evaluation_config import StopRule
from countryreward.evaluation.stop_rule import Decision
from countryreward.evaluation.writer_cases import WriterCases
from countryreward.generation.ad_tasks import open_tasks, originals_of
from countryreward.generation.generation_config import TasksConfig
from countryreward.generation.preference_table import PreferencePairs
from countryreward.machine import describe_machine
from countryreward.training.writer_folder import republish

_PRODUCTS = 4  # whose ads the report shows


def round_tasks(tasks: TasksConfig, number: int) -> TasksConfig:
    """What round `number`, from 1, makes pairs for: of the train split, other products in every round while there are enough."""
    train = replace(tasks, split="train", products=0, draws=1)
    _, every = open_tasks(train, verify=False)
    products = len({task.product.product_id for task in every.listed})
    rounds = max(1, products // tasks.products) if tasks.products else 1
    first = (number - 1) % rounds * tasks.products
    return replace(train, products=tasks.products, first=first, seed=tasks.seed + number)


def pairs_by_market(pairs: Artifact) -> dict[str, int]:
    """Market -> preference pairs of a pairs artifact."""
    markets = PreferencePairs(pairs).table.column("market").to_pylist()
    return {market: markets.count(market) for market in sorted(set(markets))}


def write_report(
    table: dict[str, Any],
    decision: Decision,
    variants: Sequence[WriterCases],
    dataset: str,
    folder: Path,
    rule: StopRule,
    judges: Mapping[str, str],
) -> None:
    """alignment.html, table2.json and alignment.json in `folder`.

    table: of `evaluation.alignment.alignment_table`. variants: the reference's cases, then those of every round. dataset: folder
    of the products. judges: name -> which; empty: it took no part.
    """
    products = sorted(variants[0].cases["product_id"].unique())[:_PRODUCTS]
    originals = originals_of(open_artifact(dataset, kind="dataset", verify=False), products)
    kept = next(variant for variant in variants if variant.name == decision.last_good)
    compared = [variants[0], kept] if kept is not variants[0] else [variants[0]]
    write_alignment_report(
        table,
        decision,
        case_boards(compared, originals, products),
        folder,
        rule=rule,
        judges={name: judge for name, judge in judges.items() if judge},
        facts=[(name, str(value)) for name, value in describe_machine().items()],
        command=shlex.join(["python", *sys.argv]),
    )


def publish_aligned(out: str, writer: str, why: str) -> Artifact:
    """The last good writer, a folder, under a name that stays; with the reason for it on its card."""
    inputs, options = {"writer": open_artifact(writer, kind="design_writer")}, {"why": why}
    artifact = current(out, kind="design_writer", inputs=inputs, config=options)
    artifact = artifact or republish(out, inputs["writer"], options, paragraph=why)
    print(f"align: {writer} -> {out}")
    print(f"align: who prefers its ads, by how much, and the ads: {Path(out).parent / 'alignment.html'}")
    return artifact
