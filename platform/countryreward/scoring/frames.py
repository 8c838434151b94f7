"""Tables in, tables out: a DataFrame of pairs scored by any Scorer."""

from collections.abc import Iterator, Mapping, Sequence
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
    questions = FrameQuestions(pairs, markets)
    for requests in questions.batches(batch_size):
        try:
            questions.take(scorer.score(requests))
        except UserError:  # one of them is to blame: ask each alone
            questions.take([_alone(scorer, request) for request in requests])
    return questions.frame()


class FrameQuestions:
    """A table of pairs as batches of requests, and what is answered as a table: `score_frame` without the asking."""

    def __init__(self, pairs: pd.DataFrame, markets: Sequence[str] | None) -> None:
        needed = ["title", "image_a", "image_b"] + (["market"] if markets is None else [])
        missing = [name for name in needed if name not in pairs]
        if missing:
            raise UserError(
                f"pairs: it lacks the column {', '.join(missing)}; it has {', '.join(map(str, pairs.columns))}"
            )
        self._pairs, self._markets = pairs, markets
        self._answers: list[dict[str, Any]] = []
        self._waiting: list[int] = []
        self.asked = 0
        """Rows read so far."""

    def batches(self, size: int) -> Iterator[list[PairRequest]]:
        """Lists of at least `size` requests, but for the last. `take` their verdicts before the next."""
        requests: list[PairRequest] = []
        for index, row in zip(self._pairs.index, self._pairs.to_dict("records"), strict=True):
            self.asked += 1
            try:
                found = _requests({str(name): value for name, value in row.items()}, self._markets)
            except UserError as error:
                self._answers.append({"row": index, "market": None} | _answer(str(error)))
                continue
            for request in found:
                self._waiting.append(len(self._answers))
                self._answers.append({"row": index, "market": request.market_code()})
                requests.append(request)
            if len(requests) >= size:
                yield requests
                requests = []
        if requests:
            yield requests

    def take(self, verdicts: Sequence[Verdict | str]) -> None:
        """Of the last batch: a verdict, or why it was refused, per request."""
        for place, verdict in zip(self._waiting, verdicts, strict=True):
            self._answers[place] |= _answer(verdict)
        self._waiting.clear()

    def frame(self) -> pd.DataFrame:
        """All answers, with the columns of ANSWERS."""
        return pd.DataFrame(self._answers, columns=list(ANSWERS))


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
