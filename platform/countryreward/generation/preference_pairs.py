"""Preference pairs: one pair is a pure function of (writer, renderer, scorer) and a task.

The ads of a task (`ad_maker.design_tasks`, `render_tasks`) are judged against each other, and the best is paired with the worst,
or the task is dropped with a reason. `make_pairs` is the whole of it in this process; the loop that does it on a cluster
(`on_ray/make_pairs.py`) is made of the same functions and gives the same outcomes.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from countryreward.errors import UserError
from countryreward.generation.ad_contracts import AdTask, DesignWriter, Renderer
from countryreward.generation.ad_maker import DesignedTask, RenderedTask, design_tasks, render_tasks
from countryreward.generation.generation_config import PairRule
from countryreward.generation.outcomes import Outcome, refused
from countryreward.models.design_prompt import words_of
from countryreward.scoring.contracts import Scorer, ScoreRequest, Verdict, score_each
from countryreward.scoring.verdicts import ranking

StageT = TypeVar("StageT")
TENANT = "ray"
"""Under this name services keep what they encode for the loops."""


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
    """ISO 3166 alpha-2 codes of the markets that a task's ads are judged in, its own first."""
    own = task.task.market
    return [own, *(market for market in rule.elsewhere if market != own)]


def pair_outcome(task: RenderedTask, verdicts: Sequence[Verdict], rule: PairRule, writer: str) -> Outcome:
    """What the answers to `pair_request` come to: a row of PREFERENCE_PAIRS, or dropped; and rows of other markets.

    writer: its version.
    """
    own, *others = judged_in(task, rule)
    share = len(verdicts) // (1 + len(others))
    by_market = iter([verdicts[start : start + share] for start in range(0, len(verdicts), share)])
    row, reason = _pair_row(task, own, next(by_market), rule, writer)
    elsewhere, reasons = [], []
    for market in others:
        other_row, other_reason = _pair_row(task, market, next(by_market), rule, writer)
        if other_row is not None:
            elsewhere.append({**other_row, "key": f"{task.task.key}/{market}"})
        else:
            reasons.append(other_reason)
    return Outcome(
        key=task.task.key,
        row=row,
        dropped=reason,
        designs=task.counts,
        elsewhere=elsewhere,
        dropped_elsewhere={reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )


def _pair_row(
    task: RenderedTask, market: str, verdicts: Sequence[Verdict], rule: PairRule, writer: str
) -> tuple[dict[str, Any] | None, str | None]:
    """A row of PREFERENCE_PAIRS, or else the reason to drop it. verdicts: of this market, in the order of `pair_request`."""
    pairs = list(itertools.combinations(range(len(task.ads)), 2))
    assert len(verdicts) == len(pairs) * (1 + rule.both_orders), "one verdict per question"
    asked = dict(zip(pairs, verdicts[: len(pairs)], strict=True))
    exchanged = dict(zip(pairs, verdicts[len(pairs) :], strict=True)) if rule.both_orders else {}
    first = {pair: verdict.stated_probability for pair, verdict in asked.items()}  # that the earlier design's ad wins
    second = {
        pair: 1 - verdict.stated_probability for pair, verdict in exchanged.items()
    }  # the same, from the other order
    means = []
    for pair in pairs:
        mean = (first[pair] + second.get(pair, first[pair])) / 2
        means.append((*pair, replace(asked[pair], probability=mean, calibrated_probability=mean)))
    order = ranking(market, len(task.ads), means).order
    best, worst = order[0], order[-1]
    pair, turned = ((best, worst), False) if best < worst else ((worst, best), True)
    forward = 1 - first[pair] if turned else first[pair]  # that best beats worst
    swapped = None if pair not in second else 1 - second[pair] if turned else second[pair]
    if swapped is not None and (forward - 0.5) * (swapped - 0.5) < 0:
        return None, "swap_inconsistent"
    if min(forward, forward if swapped is None else swapped) < rule.margin:
        return None, "unsure"
    source, product = task.task, task.task.product
    sides = (("chosen", best), ("rejected", worst))
    row = {
        "key": source.key,
        "product_id": product.product_id or "",
        "title": product.title,
        "category": product.category,
        "attributes": dict(product.attributes),
        "tags": list(product.tags),
        "market": market,
        "images": [source.image_hash],
        "prompt": words_of(product.title, product.category, product.attributes, market),
        **{side: task.candidates[n].design.as_text() for side, n in sides},
        **{f"seed_{side}": task.candidates[n].seed for side, n in sides},
        "seed_render": task.seed,
        **{f"ad_{side}": task.ads[n].sha256 for side, n in sides},
        **{f"fidelity_{side}": task.ads[n].fidelity.score for side, n in sides},
        "renderer": task.renderer,
        "probability": forward,
        "swapped_probability": swapped,
        "writer": writer,
        "model": asked[pair].model_version,
        "knowledge_base": asked[pair].knowledge_base_version,
    }
    return row, None


def choose_pairs(scorer: Scorer, tasks: Sequence[RenderedTask], rule: PairRule, writer: str) -> list[Outcome]:
    """All requests in one call of the scorer. Quarantined: what is refused alone. writer: its version."""
    answers = score_each(scorer, [pair_request(task, rule) for task in tasks])
    return [
        refused(task.task, answer, "product")
        if isinstance(answer, UserError)
        else pair_outcome(task, answer, rule, writer)
        for task, answer in zip(tasks, answers, strict=True)
    ]


def make_pairs(
    writer: DesignWriter, renderer: Renderer, scorer: Scorer, tasks: Sequence[AdTask], rule: PairRule
) -> list[Outcome]:
    """One outcome per task, in order."""
    designed = design_tasks(writer, tasks, rule.designs)
    rendered = replace_each(designed, DesignedTask, lambda some: render_tasks(renderer, some))
    return replace_each(rendered, RenderedTask, lambda some: choose_pairs(scorer, some, rule, writer.version))


def replace_each(items: Sequence[Any], kind: type[StageT], step: Callable[[list[StageT]], Sequence[Any]]) -> list[Any]:
    """The answers of `step` (a list in, a list of as many out) in the place of the items of this kind; outcomes stay."""
    answers = iter(step([item for item in items if isinstance(item, kind)]))
    return [next(answers) if isinstance(item, kind) else item for item in items]
