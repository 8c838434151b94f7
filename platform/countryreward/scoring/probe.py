"""The probe: the few pairs that a model folder carries (probe.parquet) asked again, and whether their answers have collapsed.

A judge collapses in two ways: it always answers the same side, or it answers the same for every country (the paper's SCVO).
"""

import collections
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from countryreward.data.artifacts import Draft, seal
from countryreward.data.creative_identity import creative_key, stored_copy
from countryreward.data.decoding import decode
from countryreward.errors import UserError
from countryreward.judges.base import Judge, JudgeQuestion, all_logits, encode_pictures, load_judge
from countryreward.scoring.model_folder import KIND, PROBE_RESULT, ModelFolder

MOST_OF_ONE_SIDE = 0.9
"""A larger share of the questions with one answer is a collapse."""
FEWEST_QUESTIONS = 10
"""With fewer, the shares of the sides are not judged."""
FEWEST_ITEMS = 5
"""With fewer items that were asked in several markets, one verdict for all markets is not judged."""


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """One question of the probe and its answers."""

    record_id: str
    """The validation record it was."""
    item: str
    """Product and pair of creatives, without the market."""
    market: str
    """ISO 3166 alpha-2."""
    label: int
    """1: A really won."""
    stored: float
    """The logit that training got."""
    logit: float
    """The logit now; above 0 is A, 0 is no opinion."""

    @property
    def side(self) -> str:
        """A, B, or neither."""
        return "A" if self.logit > 0 else "B" if self.logit < 0 else "neither"


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What the probe found. Raises `UserError` where a logit, stored or new, is not a finite number."""

    rows: tuple[ProbeRow, ...]
    """In the order of probe.parquet."""

    def __post_init__(self) -> None:
        bad = [row for row in self.rows if not np.isfinite([row.stored, row.logit]).all()]
        if bad:
            raise UserError(
                f"probe: {len(bad)} of {len(self.rows)} logits are not finite, the first for record {bad[0].record_id} "
                f"in {bad[0].market} ({bad[0].stored} in training, {bad[0].logit} now); the training diverged or the weights "
                "are damaged: look at the losses in its log.jsonl and train again, with lower learning rates"
            )

    @property
    def deviation(self) -> float:
        """Largest |logit now - logit in training|; see `tolerance`."""
        return max((abs(row.logit - row.stored) for row in self.rows), default=0.0)

    @property
    def share_a(self) -> float:
        """Share of the questions answered with A; 0 without questions."""
        return self.answers["A"] / max(1, len(self.rows))

    @property
    def answers(self) -> "collections.Counter[str]":
        """A, B, neither -> number of questions answered so."""
        return collections.Counter(row.side for row in self.rows)

    @cached_property
    def shared(self) -> tuple[tuple[ProbeRow, ...], ...]:
        """The rows of each item that was asked in two markets or more."""
        items: dict[str, list[ProbeRow]] = {}
        for row in self.rows:
            items.setdefault(row.item, []).append(row)
        return tuple(tuple(rows) for rows in items.values() if len({row.market for row in rows}) > 1)

    @property
    def changing(self) -> int:
        """How many of the `shared` items get different sides in different markets."""
        return sum(len({row.side for row in rows}) > 1 for rows in self.shared)

    @property
    def one_verdict(self) -> bool:
        """Whether every item asked in several markets gets the same side in all of them; False where there is none."""
        return bool(self.shared) and not self.changing

    def collapsed(self) -> str | None:
        """How the model has collapsed, in words to follow "the model has collapsed:"; None: it has not, or too little was asked.

        One side: more than 90 % of at least 10 questions; of fewer, all may well fall on one side. One verdict for all markets:
        at least 5 items asked in several markets; a judge that tells the markets apart on every second item gets past 5 without
        doing so once in 32 times, past the usual 16 once in 65,000.
        """
        count = len(self.rows)
        side, most = max(self.answers.items(), key=lambda pair: pair[1], default=("neither", 0))
        if count >= FEWEST_QUESTIONS and most > MOST_OF_ONE_SIDE * count:
            won = sum(row.label for row in self.rows)
            return (
                f"it answers {side} to {most} of the {count} questions of its probe ({most / count:.0%}, more than "
                f"{MOST_OF_ONE_SIDE:.0%}); A really won {won} of them"
            )
        if self.one_verdict and len(self.shared) >= FEWEST_ITEMS:
            unlike = sum(len({row.label for row in rows}) > 1 for rows in self.shared)
            return (
                f"it gives each of {len(self.shared)} pairs of its probe one verdict for all its markets, so it does not "
                f"listen to the country; {unlike} of these pairs really had different winners"
            )
        return None

    def summary(self) -> dict[str, Any]:
        """The numbers, JSON-able."""
        return {
            "questions": len(self.rows),
            "share_a": round(self.share_a, 4),
            "items_in_several_markets": len(self.shared),
            "items_whose_verdict_changes": self.changing,
            "one_verdict": self.one_verdict,
            "deviation": float(f"{self.deviation:.3g}"),
            "collapsed": self.collapsed(),
        }


def run_probe(judge: Judge, folder: ModelFolder, *, batch_size: int = 64) -> ProbeResult:
    """Ask the model its own probe, with the priors stored in it: model, processor and prompts are put to the test, retrieval
    is not. Raises `UserError` where a logit is not finite.
    """
    rows = pq.read_table(folder.artifact.path / "probe.parquet").to_pylist()
    names = {data: hashlib.sha256(data).hexdigest() for row in rows for data in (row["image_a"], row["image_b"])}
    pictures = [decode(data, max_bytes=2**30, max_pixels=2**40) for data in names]  # the importer has checked them
    encoded = dict(zip(names.values(), encode_pictures(judge, pictures, batch_size), strict=True))
    prepared = [
        judge.prepare(
            JudgeQuestion(
                title=row["title"],
                category=row["category"],
                attributes=dict(row["attributes"] or ()),
                tags=row["tags"] or [],
                market=row["market"],
                images=(names[row["image_a"]], names[row["image_b"]]),
                copies=(stored_copy(row.get("copy_a")), stored_copy(row.get("copy_b"))),
                log_odds=row["log_odds"],
                letter=row["letter"],
            )
        )
        for row in rows
    ]
    logits = all_logits(judge, prepared, lambda wanted: torch.stack([encoded[name] for name in wanted]), batch_size)
    return ProbeResult(
        rows=tuple(
            ProbeRow(
                record_id=row["record_id"],
                item=_item(row["product_id"], *(_creative(row, side, names) for side in "ab")),
                market=row["market"],
                label=row["label"],
                stored=row["logit"],
                logit=float(logit),
            )
            for row, logit in zip(rows, logits, strict=True)
        )
    )


def _creative(row: dict[str, Any], side: str, names: Mapping[bytes, str]) -> str:
    """names: file bytes -> content hash. A row of an earlier release has no words."""
    copy = stored_copy(row.get(f"copy_{side}"))
    return creative_key(names[row[f"image_{side}"]], copy.hash if copy else None)


def _item(product: str, creative_a: str, creative_b: str) -> str:
    return hashlib.sha256("\0".join((product, creative_a, creative_b)).encode()).hexdigest()[:16]


def tolerance(folder: ModelFolder, device: torch.device | str = "cpu") -> float:
    """The largest deviation that arithmetic explains for a model loaded on `device`; a larger one is another model.

    .001 where training computed in float32 and so does `device` (seen: 1e-6), .25 where one of them computes in bfloat16, as
    every model does on CUDA (seen, trained so and asked on a processor: .02 of logits up to 10).
    """
    told = json.loads((folder.artifact.path / "training.json").read_text(encoding="utf-8"))
    exact = told["precision"] == "fp32" and torch.device(device).type != "cuda"
    return 1e-3 if exact else 0.25


def check_draft(draft: Draft, *, allowed: str, kept: Path) -> ProbeResult:
    """Run the probe on a filled model folder that is about to be published; write probe.json and the manifest's counts.

    allowed: why a collapsed model is published all the same; empty: it is not, and `UserError` says why. kept: the run folder
    that this message names. On a GPU where there is one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seal(draft, kind=KIND)  # so that it opens as it will be served; the publish seals it anew
    found = run_probe(load_judge(draft.path, device), ModelFolder.open(draft.path))
    collapsed, reason = found.collapsed(), " ".join(allowed.split())
    if collapsed and not reason:
        raise UserError(
            f"allow_collapsed: the model has collapsed: {collapsed}. It is not published; its weights are kept in "
            f"{kept / 'best'}. Train longer, on more records, or with other learning rates; or give the same command with "
            "--allow_collapsed='why' to publish these weights without training again"
        )
    told = found.summary() | {"allowed": reason if collapsed else None}
    draft.counts["probe"] = told
    text = json.dumps({**told, "rows": [asdict(row) for row in found.rows]}, indent=2, ensure_ascii=False)
    (draft.path / PROBE_RESULT).write_text(text + "\n", encoding="utf-8")
    return found
