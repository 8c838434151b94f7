"""Tables in, tables out: a DataFrame of pairs scored by any Scorer."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from countryreward.errors import UserError
from countryreward.scoring.contracts import Product, Scorer, ScoreRequest, Verdict, market_code, score_each

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
    requests = FrameRequests(pairs, markets)
    for batch in requests.batches(batch_size):
        requests.take(score_each(scorer, batch))
    return requests.frame()


class FrameRequests:
    """A table of pairs as score requests, one per row, and the answers as a table: `score_frame` without the scorer."""

    def __init__(self, pairs: pd.DataFrame, markets: Sequence[str] | None) -> None:
        needed = ["title", "image_a", "image_b"] + (["market"] if markets is None else [])
        missing = [name for name in needed if name not in pairs]
        if missing:
            raise UserError(
                f"pairs: it lacks the column {', '.join(missing)}; it has {', '.join(map(str, pairs.columns))}"
            )
        self._pairs, self._markets = pairs, markets
        self._answers: list[dict[str, Any]] = []
        self._waiting: list[list[int]] = []  # places in `_answers`, of every request that has no answer yet
        self.rows = 0
        """Rows read so far."""

    def batches(self, size: int) -> Iterator[list[ScoreRequest]]:
        """Requests of at least `size` verdicts together, but for the last. `take` their answers before the next."""
        requests: list[ScoreRequest] = []
        verdicts = 0
        for index, row in zip(self._pairs.index, self._pairs.to_dict("records"), strict=True):
            self.rows += 1
            try:
                request = _request({str(name): value for name, value in row.items()}, self._markets)
            except UserError as error:
                self._answers.append({"row": index, "market": None} | _answer(error))
                continue
            start = len(self._answers)
            self._answers += [{"row": index, "market": market} for market in request.markets]
            self._waiting.append(list(range(start, len(self._answers))))
            requests.append(request)
            verdicts += len(request.markets)
            if verdicts >= size:
                yield requests
                requests, verdicts = [], 0
        if requests:
            yield requests

    def take(self, answers: Sequence[list[Verdict] | UserError]) -> None:
        """Of the last batch: the verdicts of every request, or why it was refused."""
        for places, answer in zip(self._waiting, answers, strict=True):
            for place, verdict in zip(
                places, [answer] * len(places) if isinstance(answer, UserError) else answer, strict=True
            ):
                self._answers[place] |= _answer(verdict)
        self._waiting.clear()

    def frame(self) -> pd.DataFrame:
        """All answers, with the columns of ANSWERS."""
        return pd.DataFrame(self._answers, columns=list(ANSWERS))


def _request(row: Mapping[str, Any], markets: Sequence[str] | None) -> ScoreRequest:
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
    chosen = [given("market")] if markets is None else list(markets)
    return ScoreRequest.of_images(product, images, markets=tuple(market_code(str(market or "")) for market in chosen))


def _bytes(image: Any, name: str) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | Path):
        raise UserError(f"{name}: {image!r} is neither file bytes nor a path; give a PNG, JPEG or WEBP file")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {image} cannot be read ({error.strerror}); give a PNG, JPEG or WEBP file") from None


def _answer(verdict: Verdict | UserError) -> dict[str, Any]:
    if isinstance(verdict, UserError):
        return dict.fromkeys(ANSWERS[2:]) | {"refused": str(verdict)}
    return {
        "choice": verdict.choice,
        "probability": verdict.probability,
        "calibrated_probability": verdict.calibrated_probability,
        "log_odds": verdict.log_odds,
        "past_ads": verdict.past_ads,
        "note": verdict.note,
        "refused": None,
    }
