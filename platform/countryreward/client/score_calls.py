"""Talks of questions: verdicts, rankings, tables of pairs."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from countryreward.api import schemas
from countryreward.client.calls import Call, Reply, Round, Talk, one, parsed
from countryreward.client.client_errors import BadAnswer, Refused
from countryreward.client.request_forms import Fields, ImageLike, codes, form, image_bytes, product_of
from countryreward.errors import UserError
from countryreward.progress import bar
from countryreward.scoring.contracts import PairRequest, Product, Ranking, ScoreRequest, Verdict, merge_pairs
from countryreward.scoring.frames import FrameRequests

FRAME_ROWS = 64
"""Rows of a frame whose images are held in memory at a time."""


def score(
    requests: Sequence[ScoreRequest], *, evidence: int, max_verdicts: int, keep_refusals: bool = False
) -> Talk[list[list[Verdict] | UserError]]:
    """The verdicts of every request; of one that is refused, with `keep_refusals`, why; without it the first error is raised.

    One call per pair of a request and `max_verdicts` of its markets. evidence: for requests that ask for all of it.
    """
    answers: list[list[Verdict] | UserError] = []
    calls: list[Call] = []
    shares: list[
        tuple[int, list[int], list[str]]
    ] = []  # of every call: the request, places of its verdicts, its markets
    for number, request in enumerate(requests):
        try:
            codes = request.market_codes()
            fields = form(request.product, request.as_of, evidence if request.evidence is None else request.evidence)
        except UserError as error:
            if not keep_refusals:
                raise
            answers.append(error)
            continue
        answers.append([])
        for column, (a, b) in enumerate(request.pairs):
            images = (request.creatives[a].image, request.creatives[b].image)
            for start in range(0, len(codes), max_verdicts):
                part = list(codes[start : start + max_verdicts])
                places = [(start + row) * len(request.pairs) + column for row in range(len(part))]
                calls.append(_score(fields | {"markets": part}, images, not request.urgent))
                shares.append((number, places, part))
    replies = (yield Round(calls=calls, keep_refusals=keep_refusals)) if calls else []
    verdicts: dict[tuple[int, int], Verdict] = {}
    for (number, places, part), reply in zip(shares, replies, strict=True):
        if isinstance(reply, Refused):
            answers[number] = reply
            continue
        parts = parsed(reply, schemas.ScoreAnswer).verdicts
        _check([verdict.market for verdict in parts], part, reply)
        verdicts |= {(number, place): verdict for place, verdict in zip(places, parts, strict=True)}
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        if not isinstance(answer, UserError):
            answers[number] = [verdicts[number, place] for place in range(len(request.questions()))]
    return answers


def score_all(requests: Sequence[ScoreRequest], *, evidence: int, max_verdicts: int) -> Talk[list[list[Verdict]]]:
    """As `score`; the error of the first call that is refused is raised."""
    answers = yield from score(requests, evidence=evidence, max_verdicts=max_verdicts)
    return [answer for answer in answers if not isinstance(answer, UserError)]


def score_pairs(pairs: Sequence[PairRequest], *, evidence: int, max_verdicts: int) -> Talk[list[Verdict]]:
    """One verdict per pair request: how the release before was asked."""
    requests, places = merge_pairs(pairs)
    verdicts = yield from score_all(requests, evidence=evidence, max_verdicts=max_verdicts)
    return [verdicts[request][place] for request, place in places]


def score_product(
    product: Product | str,
    image_a: ImageLike,
    image_b: ImageLike,
    markets: Sequence[str] | None,
    *,
    evidence: int,
    max_verdicts: int,
) -> Talk[list[Verdict]]:
    """One verdict per market; None: all that the service's model was trained on."""
    named, pair = product_of(product), (image_bytes(image_a, "image_a"), image_bytes(image_b, "image_b"))
    if markets is None:
        reply = yield from one(_score(form(named, None, evidence), pair, False))
        return parsed(reply, schemas.ScoreAnswer).verdicts
    wanted = codes(markets)
    if not wanted:
        return []
    request = ScoreRequest.of_images(named, pair, markets=tuple(dict.fromkeys(wanted)), evidence=evidence)
    (verdicts,) = yield from score_all([request], evidence=evidence, max_verdicts=max_verdicts)
    of_market = dict(zip(request.markets, verdicts, strict=True))
    return [of_market[code] for code in wanted]


def rank(
    product: Product | str, images: Sequence[ImageLike], markets: Sequence[str] | None, *, max_verdicts: int
) -> Talk[list[Ranking]]:
    """One ranking per market, in as many calls as `max_verdicts` asks for."""
    if not images:
        raise UserError("images: the list is empty; give at least one image")
    fields = form(product_of(product), None, None)
    files = tuple(("images", f"image_{i}", image_bytes(image, f"images[{i}]")) for i, image in enumerate(images))
    asked = list((yield from known_markets())) if markets is None else codes(markets)
    if not asked:
        return []
    pairs = len(images) * (len(images) - 1) // 2
    share = max(1, max_verdicts // max(1, pairs))
    once = list(dict.fromkeys(asked))
    parts = [once[start : start + share] for start in range(0, len(once), share)]
    replies = yield Round(
        calls=[Call(method="POST", path="v1/rank", fields=fields | {"markets": part}, files=files) for part in parts]
    )
    found: dict[str, Ranking] = {}
    for part, reply in zip(parts, replies, strict=True):
        assert isinstance(reply, Reply)
        rankings = parsed(reply, schemas.RankAnswer).rankings
        _check([ranking.market for ranking in rankings], part, reply)
        found |= {ranking.market: ranking for ranking in rankings}
    return [found[code] for code in asked]


def score_frame(
    pairs: pd.DataFrame, markets: Sequence[str] | None, *, progress: bool, evidence: int, max_verdicts: int
) -> Talk[pd.DataFrame]:
    """A table of pairs in, a table of answers out; a row that is refused says so and the others are answered."""
    requests = FrameRequests(pairs, markets)
    shown = bar("rows scored") if progress else contextlib.nullcontext(lambda done, total: None)
    with shown as tell:
        for batch in requests.batches(FRAME_ROWS * max(1, len(markets or ()))):
            patient = [replace(request, urgent=False) for request in batch]
            answers = yield from score(patient, evidence=evidence, max_verdicts=max_verdicts, keep_refusals=True)
            requests.take(answers)
            tell(requests.rows, len(pairs))
    return requests.frame()


def known_markets() -> Talk[dict[str, str]]:
    """Code to name of the markets the model was trained on."""
    reply = yield from one(Call(method="GET", path="v1/markets"))
    return {market.code: market.name for market in parsed(reply, schemas.MarketsAnswer).markets}


def models() -> Talk[list[dict[str, Any]]]:
    """Versions of what answers."""
    reply = yield from one(Call(method="GET", path="v1/models"))
    return parsed(reply, schemas.ModelsAnswer).models


def _check(answered: list[str], asked: list[str], reply: Reply) -> None:
    if answered != asked:
        raise BadAnswer(
            f"markets: the service answered {len(answered)} markets that are not the {len(asked)} asked",
            request_id=reply.request_id,
        )


def _score(fields: Fields, images: tuple[bytes, bytes], patient: bool) -> Call:
    files = tuple((name, name, data) for name, data in zip(("image_a", "image_b"), images, strict=True))
    return Call(method="POST", path="v1/score", fields=fields, files=files, patient=patient)
