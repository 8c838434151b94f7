"""Talks of questions: verdicts, rankings, tables of pairs. Each groups what it asks so that no image is sent twice in vain."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from countryreward.api import schemas
from countryreward.client.calls import Call, Reply, Round, Talk, one, parsed
from countryreward.client.client_errors import BadAnswer, Refused
from countryreward.client.request_forms import Fields, ImageLike, codes, form, image_bytes, product_of
from countryreward.errors import UserError
from countryreward.progress import bar
from countryreward.scoring.contracts import PairRequest, Product, Ranking, Verdict
from countryreward.scoring.frames import FrameQuestions

FRAME_ROWS = 64
"""Rows of a frame whose images are held in memory at a time."""


@dataclass(kw_only=True)
class Group:
    """Requests that differ in nothing but their market: one call."""

    fields: Fields
    """Of the form, without markets."""
    images: tuple[bytes, bytes]
    """File bytes of A and B."""
    places: dict[str, list[int]] = field(default_factory=dict)
    """Positions in the list of requests, by market code."""

    def call(self, patient: bool) -> Call:
        """The call that asks it."""
        return _score(self.fields | {"markets": list(self.places)}, self.images, patient)


def score(requests: Sequence[PairRequest], *, evidence: int, max_verdicts: int) -> Talk[list[Verdict]]:
    """One verdict per request, in order. Raises the `UserError` of the first group that is refused."""
    answers = yield from _each(requests, evidence, max_verdicts, frame=False)
    return [answer for answer in answers if isinstance(answer, Verdict)]


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
    asked = [PairRequest(product=named, image_a=pair[0], image_b=pair[1], market=code) for code in codes(markets)]
    return (yield from score(asked, evidence=evidence, max_verdicts=max_verdicts))


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
    questions = FrameQuestions(pairs, markets)
    shown = bar("rows scored") if progress else contextlib.nullcontext(lambda done, total: None)
    with shown as tell:
        for requests in questions.batches(FRAME_ROWS * max(1, len(markets or ()))):
            answers = yield from _each(requests, evidence, max_verdicts, frame=True)
            questions.take([answer if isinstance(answer, Verdict) else str(answer) for answer in answers])
            tell(questions.asked, len(pairs))
    return questions.frame()


def known_markets() -> Talk[dict[str, str]]:
    """Code to name of the markets the model was trained on."""
    reply = yield from one(Call(method="GET", path="v1/markets"))
    return {market.code: market.name for market in parsed(reply, schemas.MarketsAnswer).markets}


def models() -> Talk[list[dict[str, Any]]]:
    """Versions of what answers."""
    reply = yield from one(Call(method="GET", path="v1/models"))
    return parsed(reply, schemas.ModelsAnswer).models


def _each(
    requests: Sequence[PairRequest], evidence: int, max_verdicts: int, *, frame: bool
) -> Talk[list[Verdict | UserError]]:
    """A verdict or, of a frame, what is wrong, per request. Not of a frame: the first error is raised."""
    answers: dict[int, Verdict | UserError] = {}
    open_groups: dict[tuple[str, bytes, bytes], Group] = {}
    groups: list[Group] = []
    for place, request in enumerate(requests):
        try:
            code = request.market_code()
            fields = form(request.product, request.as_of, evidence)
        except UserError as error:
            if not frame:
                raise
            answers[place] = error
            continue
        key = (json.dumps(fields), request.image_a, request.image_b)
        group = open_groups.get(key)
        if group is None or (code not in group.places and len(group.places) >= max_verdicts):
            group = open_groups[key] = Group(fields=fields, images=(request.image_a, request.image_b))
            groups.append(group)
        group.places.setdefault(code, []).append(place)
    if groups:
        replies = yield Round(calls=[group.call(frame) for group in groups], keep_refusals=frame)
        for group, reply in zip(groups, replies, strict=True):
            for (_, places), answer in zip(group.places.items(), _answers(group, reply), strict=True):
                answers |= dict.fromkeys(places, answer)
    return [answers[place] for place in range(len(requests))]


def _answers(group: Group, reply: Reply | Refused) -> Sequence[Verdict | Refused]:
    if isinstance(reply, Refused):
        return [reply] * len(group.places)
    verdicts = parsed(reply, schemas.ScoreAnswer).verdicts
    _check([verdict.market for verdict in verdicts], list(group.places), reply)
    return verdicts


def _check(answered: list[str], asked: list[str], reply: Reply) -> None:
    if answered != asked:
        raise BadAnswer(
            f"markets: the service answered {len(answered)} markets that are not the {len(asked)} asked",
            request_id=reply.request_id,
        )


def _score(fields: Fields, images: tuple[bytes, bytes], patient: bool) -> Call:
    files = tuple((name, name, data) for name, data in zip(("image_a", "image_b"), images, strict=True))
    return Call(method="POST", path="v1/score", fields=fields, files=files, patient=patient)
