"""Preference pairs: one pair is a pure function of (writer, renderer, scorer) and a task.

A writer proposes designs (`propose`), a renderer shows them (`show`), a scorer chooses (`choose`); `make_pairs` is all three.
Each takes a list and gives one thing per item, in order: what the next one takes, or the task's `Outcome`. The loop that does it
on a cluster (`on_ray/make_pairs.py`) is made of the same functions and gives the same outcomes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from countryreward.data.decoding import ImageError, decode, pixels_of
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import (
    DesignRequest,
    DesignWriter,
    Refusal,
    RenderedFile,
    Renderer,
    RenderJob,
    Written,
)
from countryreward.generation.generation_config import PairRule
from countryreward.generation.outcomes import Outcome, quarantined, refused
from countryreward.generation.render_files import render_files
from countryreward.generation.tasks import AdTask, derived_seed
from countryreward.models.design_prompt import words_of
from countryreward.scoring.contracts import Scorer, ScoreRequest, Verdict, score_each
from countryreward.scoring.ranking import ranking

T = TypeVar("T")
TENANT = "ray"
"""Under this name services keep what they encode for the loops."""
MAX_BYTES, MAX_PIXELS = 10_000_000, 25_000_000
"""Of a product's picture; a dataset has checked its own on import."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A design that can be rendered."""

    design: Design
    seed: int
    """The writer's."""
    repaired: bool = False
    """Whether the answer had to be mended."""


@dataclass(frozen=True, kw_only=True)
class DesignedTask:
    """A task with its designs, all different, in the order of their seeds' numbers."""

    task: AdTask
    candidates: tuple[Candidate, ...]
    wanted: int
    """Designs that are needed at least: 2 for a pair, 1 for a case."""
    counts: dict[str, int]
    """See `Outcome.designs`."""

    @property
    def seed(self) -> int:
        """The renderer's, the same for all designs of the task: the ads differ in their designs alone."""
        return derived_seed(self.task, "render")


@dataclass(frozen=True, kw_only=True)
class RenderedTask:
    """A task with its ads, all different."""

    task: AdTask
    candidates: tuple[Candidate, ...]
    ads: tuple[RenderedFile, ...]
    """Of the candidates."""
    seed: int
    """The renderer's."""
    renderer: str
    """Its name and version."""
    counts: dict[str, int]


def propose(writer: DesignWriter, tasks: Sequence[AdTask], designs: int) -> list[DesignedTask | Outcome]:
    """So many designs per task, written in one call. Quarantined: a picture that cannot be decoded, a product that cannot be
    asked about, answers without a design (`refused_design`); dropped: the same design again (`same_design`)."""
    found: dict[int, DesignedTask | Outcome] = {}
    asked: list[tuple[int, list[DesignRequest]]] = []
    for position, task in enumerate(tasks):
        try:
            asked.append((position, _requests(task, designs)))
        except ImageError as error:
            found[position] = quarantined(task, error.reason, "image", error.field_value)
    groups = [requests for _, requests in asked]
    for (position, requests), written in zip(asked, _write(writer, groups), strict=True):
        task = tasks[position]
        found[position] = (
            refused(task, written, "product") if isinstance(written, UserError) else _sorted(task, requests, written)
        )
    return [found[position] for position in range(len(tasks))]


def render_jobs(proposed: DesignedTask) -> list[RenderJob]:
    """One per design, all with the same seed."""
    task, pixels = proposed.task, _pixels(proposed.task)
    return [
        RenderJob(
            design=candidate.design,
            product=task.product,
            image=pixels,
            image_hash=task.image_hash,
            seed=proposed.seed,
        )
        for candidate in proposed.candidates
    ]


def shown(proposed: DesignedTask, answers: Sequence[RenderedFile | Refusal], renderer: str) -> RenderedTask | Outcome:
    """What came of `render_jobs`. Quarantined: too few ads could be made; dropped: they are the same (`same_ad`).

    renderer: its name and version.
    """
    assert len(answers) == len(proposed.candidates), "one answer per job"
    good: dict[str, tuple[Candidate, RenderedFile]] = {}
    reasons = [answer.reason for answer in answers if isinstance(answer, Refusal)]
    for candidate, answer in zip(proposed.candidates, answers, strict=True):
        if isinstance(answer, RenderedFile):
            good.setdefault(answer.sha256, (candidate, answer))
    same = len(answers) - len(reasons) - len(good)
    counts = proposed.counts | _counted(not_rendered=len(reasons), same_ad=same)
    if len(good) < proposed.wanted:
        if reasons:
            return quarantined(proposed.task, "refused_design", "design", reasons[0], counts)
        return Outcome(key=proposed.task.key, dropped="same_ad", designs=counts)
    return RenderedTask(
        task=proposed.task,
        candidates=tuple(candidate for candidate, _ in good.values()),
        ads=tuple(ad for _, ad in good.values()),
        seed=proposed.seed,
        renderer=renderer,
        counts=counts,
    )


def show(renderer: Renderer, proposed: Sequence[DesignedTask]) -> list[RenderedTask | Outcome]:
    """All ads in one call of the renderer."""
    groups = [render_jobs(one) for one in proposed]
    answers = iter(render_files(renderer, [job for jobs in groups for job in jobs]))
    name = named(renderer.name, renderer.version)
    return [shown(one, list(itertools.islice(answers, len(one.candidates))), name) for one in proposed]


def pair_request(task: RenderedTask, rule: PairRule) -> ScoreRequest:
    """In the task's own market, then in each of `rule.elsewhere`: every pair of ads, the earlier design as A; then, with
    `both_orders`, every pair the other way round."""
    pairs = tuple(itertools.combinations(range(len(task.ads)), 2))
    orders = (*pairs, *((b, a) for a, b in pairs)) if rule.both_orders else pairs
    return loop_request(task, [ad.png for ad in task.ads], orders, judged_in(task, rule))


def loop_request(
    task: RenderedTask, images: Sequence[bytes], pairs: tuple[tuple[int, int], ...], markets: Sequence[str]
) -> ScoreRequest:
    """What a loop asks about a task's product: nobody waits for it, and no past ads are shown. pairs: positions in `images`."""
    return ScoreRequest.of_images(
        task.task.product, images, pairs=pairs, markets=tuple(markets), tenant=TENANT, evidence=0, urgent=False
    )


def judged_in(task: RenderedTask, rule: PairRule) -> list[str]:
    """The task's own market first."""
    own = task.task.market
    return [own, *(market for market in rule.elsewhere if market != own)]


def chosen(task: RenderedTask, verdicts: Sequence[Verdict], rule: PairRule, writer: str) -> Outcome:
    """What the answers to `pair_request` come to: a row of PREFERENCE_PAIRS, or dropped; and rows of other markets.

    writer: its version.
    """
    own, *others = judged_in(task, rule)
    share = len(verdicts) // (1 + len(others))
    parts = iter([verdicts[start : start + share] for start in range(0, len(verdicts), share)])
    found = _chosen_in(task, own, next(parts), rule, writer)
    elsewhere = [(market, _chosen_in(task, market, next(parts), rule, writer)) for market in others]
    reasons = [one for _, one in elsewhere if isinstance(one, str)]
    return Outcome(
        key=task.task.key,
        row=None if isinstance(found, str) else found,
        dropped=found if isinstance(found, str) else None,
        designs=task.counts,
        elsewhere=[
            {**one, "key": f"{task.task.key}/{market}"} for market, one in elsewhere if not isinstance(one, str)
        ],
        dropped_elsewhere={reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )


def _chosen_in(
    task: RenderedTask, market: str, verdicts: Sequence[Verdict], rule: PairRule, writer: str
) -> dict[str, Any] | str:
    """A row, or the reason to drop it."""
    pairs = list(itertools.combinations(range(len(task.ads)), 2))
    assert len(verdicts) == len(pairs) * (1 + rule.both_orders), "one verdict per question"
    asked = dict(zip(pairs, verdicts[: len(pairs)], strict=True))
    other = dict(zip(pairs, verdicts[len(pairs) :], strict=True)) if rule.both_orders else {}
    first = {pair: verdict.stated_probability for pair, verdict in asked.items()}  # that the earlier design's ad wins
    second = {pair: 1 - verdict.stated_probability for pair, verdict in other.items()}
    means = [(a, b, _of(asked[a, b], (first[a, b] + second.get((a, b), first[a, b])) / 2)) for a, b in pairs]
    order = ranking(market, len(task.ads), means).order
    best, worst = order[0], order[-1]
    pair, turned = ((best, worst), False) if best < worst else ((worst, best), True)
    forward = 1 - first[pair] if turned else first[pair]  # that best beats worst
    swapped = None if pair not in second else 1 - second[pair] if turned else second[pair]
    if swapped is not None and (forward - 0.5) * (swapped - 0.5) < 0:
        return "swap_inconsistent"
    if min(forward, forward if swapped is None else swapped) < rule.margin:
        return "unsure"
    return _row(task, market, best, worst) | {
        "probability": forward,
        "swapped_probability": swapped,
        "writer": writer,
        "model": asked[pair].model_version,
        "knowledge_base": asked[pair].knowledge_base_version,
    }


def choose(scorer: Scorer, tasks: Sequence[RenderedTask], rule: PairRule, writer: str) -> list[Outcome]:
    """All requests in one call of the scorer. Quarantined: what is refused alone."""
    answers = score_each(scorer, [pair_request(task, rule) for task in tasks])
    return [
        refused(task.task, answer, "product") if isinstance(answer, UserError) else chosen(task, answer, rule, writer)
        for task, answer in zip(tasks, answers, strict=True)
    ]


def make_pairs(
    writer: DesignWriter, renderer: Renderer, scorer: Scorer, tasks: Sequence[AdTask], rule: PairRule
) -> list[Outcome]:
    """One outcome per task, in order."""
    written = propose(writer, tasks, rule.designs)
    rendered = through(written, DesignedTask, lambda some: show(renderer, some))
    return through(rendered, RenderedTask, lambda some: choose(scorer, some, rule, writer.version))


def named(name: str, version: str) -> str:
    """A renderer in one text."""
    return f"{name} {version}"


def through(items: Sequence[Any], kind: type[T], step: Any) -> list[Any]:
    """The answers of `step` (a list in, a list out) in the place of the items of this kind; outcomes stay."""
    answers = iter(step([item for item in items if isinstance(item, kind)]))
    return [next(answers) if isinstance(item, kind) else item for item in items]


def _pixels(task: AdTask) -> np.ndarray:
    return pixels_of(decode(task.image, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS))


def _requests(task: AdTask, designs: int) -> list[DesignRequest]:
    pixels = _pixels(task)
    return [
        DesignRequest(
            product=task.product,
            market=task.market,
            image=pixels,
            image_hash=task.image_hash,
            seed=derived_seed(task, "design", number),
        )
        for number in range(designs)
    ]


def _write(writer: DesignWriter, groups: Sequence[list[DesignRequest]]) -> list[list[Written] | UserError]:
    """The answers of each group in one call; when it is refused, group by group."""
    if not groups:
        return []
    try:
        answers = iter(writer.write([request for group in groups for request in group]))
    except UserError as error:
        return [error] if len(groups) == 1 else [answer for group in groups for answer in _write(writer, [group])]
    return [list(itertools.islice(answers, len(group))) for group in groups]


def _sorted(task: AdTask, requests: Sequence[DesignRequest], written: Sequence[Written]) -> DesignedTask | Outcome:
    """What was written, without what is no design and what comes again."""
    assert len(written) == len(requests), "one answer per request"
    good: dict[Design, Candidate] = {}
    for request, answer in zip(requests, written, strict=True):
        if answer.design is not None:
            one = Candidate(design=answer.design, seed=request.seed, repaired=answer.repaired)
            good.setdefault(answer.design, one)
    refusals = [answer.reason or "no design" for answer in written if answer.design is None]
    repaired = sum(answer.repaired for answer in written if answer.design is not None)
    same = len(written) - len(refusals) - len(good)
    counts = {"written": len(written)} | _counted(repaired=repaired, not_read=len(refusals), same_design=same)
    wanted = min(2, len(requests))
    if len(good) < wanted:
        if refusals:
            return quarantined(task, "refused_design", "design", refusals[0], counts)
        return Outcome(key=task.key, dropped="same_design", designs=counts)
    return DesignedTask(task=task, candidates=tuple(good.values()), wanted=wanted, counts=counts)


def _counted(**counts: int) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _of(verdict: Verdict, value: float) -> Verdict:
    return replace(verdict, probability=value, calibrated_probability=value)


def _row(task: RenderedTask, market: str, best: int, worst: int) -> dict[str, Any]:
    """The columns of PREFERENCE_PAIRS that no verdict is needed for."""
    asked, product = task.task, task.task.product
    sides = (("chosen", best), ("rejected", worst))
    return {
        "key": asked.key,
        "product_id": product.product_id or "",
        "title": product.title,
        "category": product.category,
        "attributes": dict(product.attributes),
        "tags": list(product.tags),
        "market": market,
        "images": [asked.image_hash],
        "prompt": words_of(product.title, product.category, product.attributes, market),
        **{side: task.candidates[n].design.as_text() for side, n in sides},
        **{f"seed_{side}": task.candidates[n].seed for side, n in sides},
        "seed_render": task.seed,
        **{f"ad_{side}": task.ads[n].sha256 for side, n in sides},
        **{f"fidelity_{side}": task.ads[n].fidelity.score for side, n in sides},
        "renderer": task.renderer,
    }
