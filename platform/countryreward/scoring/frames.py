"""Tables in, tables out: a DataFrame of pairs scored by any Scorer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from countryreward.errors import UserError
from countryreward.scoring.contracts import PairRequest, Product, Scorer, Verdict

ANSWERS = (
    "row",
    "market",
    "choice",
    "probability",
    "calibrated_probability",
    "log_odds",
    "past_ads",
    "note",
    "refused",
)
"""Columns of the answer."""


def score_frame(
    scorer: Scorer, pairs: pd.DataFrame, markets: Sequence[str] | None = None, *, batch_size: int = 256
) -> pd.DataFrame:
    """One answer per row of `pairs` and market, in that order.

    pairs: columns title, image_a, image_b (file bytes or paths) and, where known, category, attributes (a mapping), tags (a
    list), product_id, market. markets: asked for every row; None: the row's own. Answers have the columns of ANSWERS; `row` is
    the index of `pairs`. A row that cannot be asked gets one answer that says in `refused` which field, which value and
    what to do; all others are answered. Raises `UserError` where a column is missing.
    """
    needed = ["title", "image_a", "image_b"] + (["market"] if markets is None else [])
    missing = [name for name in needed if name not in pairs]
    if missing:
        raise UserError(f"pairs: it lacks the column {', '.join(missing)}; it has {', '.join(map(str, pairs.columns))}")
    answers: list[dict[str, Any]] = []
    waiting: list[tuple[int, PairRequest]] = []

    def ask() -> None:
        requests = [request for _, request in waiting]
        try:
            verdicts: list[Verdict | str] = list(scorer.score(requests))
        except UserError:  # one of them is to blame: ask each alone
            verdicts = [_alone(scorer, request) for request in requests]
        for (place, _), verdict in zip(waiting, verdicts, strict=True):
            answers[place] |= _answer(verdict)
        waiting.clear()

    for index, row in zip(pairs.index, pairs.to_dict("records"), strict=True):
        try:
            requests = _requests({str(name): value for name, value in row.items()}, markets)
        except UserError as error:
            answers.append({"row": index, "market": None} | _answer(str(error)))
            continue
        for request in requests:
            answers.append({"row": index, "market": request.market_code()})
            waiting.append((len(answers) - 1, request))
        if len(waiting) >= batch_size:
            ask()
    if waiting:
        ask()
    return pd.DataFrame(answers, columns=list(ANSWERS))


def _requests(row: Mapping[str, Any], markets: Sequence[str] | None) -> list[PairRequest]:
    def given(name: str) -> Any:
        value = row.get(name)
        return None if value is None or (isinstance(value, float) and value != value) else value

    title = given("title")
    product = Product(
        title=title if isinstance(title, str) else "",
        category=given("category"),
        attributes=dict(given("attributes") or {}),
        tags=list(given("tags") if given("tags") is not None else []),
        product_id=given("product_id"),
    )
    images = [_bytes(given(name), name) for name in ("image_a", "image_b")]
    asked = [given("market")] if markets is None else list(markets)
    found = [
        PairRequest(product=product, image_a=images[0], image_b=images[1], market=str(market or "")) for market in asked
    ]
    for request in found:
        request.market_code()
    return found


def _bytes(image: Any, name: str) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise UserError(f"{name}: {image!r} is neither file bytes nor a path; give a PNG, JPEG or WEBP file")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {image} cannot be read ({error.strerror}); give a PNG, JPEG or WEBP file") from None


def _alone(scorer: Scorer, request: PairRequest) -> Verdict | str:
    try:
        return scorer.score([request])[0]
    except UserError as error:
        return str(error)


def _answer(verdict: Verdict | str) -> dict[str, Any]:
    if isinstance(verdict, str):
        return dict.fromkeys(ANSWERS[2:]) | {"refused": verdict}
    return {
        "choice": verdict.choice,
        "probability": verdict.probability,
        "calibrated_probability": verdict.calibrated_probability,
        "log_odds": verdict.log_odds,
        "past_ads": verdict.past_ads,
        "note": verdict.note,
        "refused": None,
    }
