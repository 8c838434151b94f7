"""Tables in, tables out: a DataFrame of pairs scored by any Scorer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from countryreward.data.file_names import in_any_form
from countryreward.data.importers.parsing import (
    ATTRIBUTE,
    composed,
    exact_below,
    is_missing,
    is_rounded,
    missing_words,
    plain_text,
    read_attributes,
    read_tags,
)
from countryreward.errors import UserError
from countryreward.scoring.contracts import Copy, Product, Scorer, ScoreRequest, Verdict, market_code, score_each

ANSWERS = (
    "row",
    "market",
    "choice",
    "probability",
    "calibrated_probability",
    "log_odds",
    "past_ads",
    "note",
    "claim",
    "refused",
)
"""Columns of the answer."""


def score_frame(
    scorer: Scorer, pairs: pd.DataFrame, markets: Sequence[str] | None = None, *, batch_size: int = 256
) -> pd.DataFrame:
    """One answer per row of `pairs` and market, in that order.

    pairs: columns title, image_a, image_b (file bytes or paths) and, where known, category, attributes (a
    mapping, or text as in a table), `attribute:NAME`, tags (a list, or text as in a table), product_id, market, and the words of
    each ad: headline_a, body_a, call_to_action_a, tags_a, and the same with _b. Text is taken in composed form (NFC), numbers as
    they are written. markets: asked for every row; None: the row's own. Answers have the columns of ANSWERS; `row` is the index
    of `pairs`. A row that cannot be asked gets one answer that says in `refused` which field, which value and what to do; all
    others are answered. Raises `UserError` where a column is missing.
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
        lost = _lost_digits(self._pairs)
        for index, row, is_lost in zip(self._pairs.index, self._pairs.to_dict("records"), lost, strict=True):
            self.rows += 1
            try:
                request = _request({str(name): value for name, value in row.items()}, self._markets, is_lost)
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


def _request(row: Mapping[str, Any], markets: Sequence[str] | None, lost: bool) -> ScoreRequest:
    """The request of a row. lost: whether its product_id has lost digits.

    Raises `UserError` for a cell that means nothing, and for nothing that another row holds.
    """
    product = Product(
        title=_text("title", row.get("title")) or "",
        category=_text("category", row.get("category")),
        attributes=_attributes(row),
        tags=_tags("tags", row.get("tags")),
        product_id=_id(row.get("product_id"), lost),
    )
    images = [_bytes(row.get(name), name) for name in ("image_a", "image_b")]
    chosen = [row.get("market")] if markets is None else list(markets)
    codes = tuple(market_code(_text("market", market) or "") for market in chosen)
    return ScoreRequest.of_ads(product, images, [_copy(row, side) for side in "ab"], markets=codes)


def _copy(row: Mapping[str, Any], side: str) -> Copy:
    """The words of one ad of a row; side: a or b."""
    texts = {
        name: _text(f"{name}_{side}", row.get(f"{name}_{side}")) for name in ("headline", "body", "call_to_action")
    }
    return Copy(**texts, tags=tuple(_tags(f"tags_{side}", row.get(f"tags_{side}"))))


def _absent(cell: Any) -> bool:
    return (
        cell is None
        or cell is pd.NA
        or cell is pd.NaT
        or (isinstance(cell, float | np.floating) and bool(np.isnan(cell)))
    )


def _text(name: str, cell: Any) -> str | None:
    """A cell as text; None for an empty one, and for a word that a table takes as such."""
    if _absent(cell):
        return None
    text = _written(name, cell)
    return None if is_missing(text, missing_words(name)) else text


def _written(name: str, cell: Any) -> str:
    """Text in composed form, or a number as it is written."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if not isinstance(cell, str | int | float) or isinstance(cell, bool):
        raise UserError(f"{name}: {_shown(cell)} is no text; write it as text")
    try:
        text = plain_text(cell)
    except ValueError:
        raise UserError(f"{name}: {_shown(cell)} is too long a number; write it as text") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name}: {text!r} holds a character that is no Unicode; write UTF-8") from None
    return composed(text)


def _id(cell: Any, lost: bool) -> str | None:
    text = _text("product_id", cell)
    if text is not None and (lost or is_rounded(text)):
        raise UserError(f"product_id: {text!r} has lost digits, as large floats do; give ids as text")
    return text


def _lost_digits(pairs: pd.DataFrame) -> list[bool]:
    """Which product ids are floats so large that their type skips whole numbers: from 2^53 on, for float32 from 2^24."""
    if "product_id" not in pairs:
        return [False] * len(pairs)
    column = pairs["product_id"]
    kind = getattr(column.dtype, "numpy_dtype", column.dtype)
    if isinstance(kind, np.dtype) and kind.kind == "f":
        return [not _absent(cell) and abs(cell) >= exact_below(kind) for cell in column]
    return [
        isinstance(cell, float | np.floating) and bool(abs(cell) >= exact_below(np.dtype(type(cell))))
        for cell in column
    ]


def _part(name: str, value: Any) -> str:
    """One attribute or tag: text, a number, or what JSON holds."""
    if isinstance(value, bool | np.bool | list | tuple | np.ndarray | Mapping):
        try:
            value = plain_text(_of_json(value))
        except (TypeError, ValueError, RecursionError):
            raise UserError(f"{name}: {_shown(value)} is nothing that JSON holds; write it as text") from None
    return _written(name, value)


def _of_json(value: Any) -> Any:
    """A value with lists, dicts and numbers of Python in it; a missing one is None. Others stay as they are."""
    if _absent(value):
        return None
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(_of_json(name)): _of_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_of_json(part) for part in value]
    return value


def _shown(cell: Any) -> str:
    """The beginning of a cell for a message, whatever it is."""
    try:
        return repr(str(cell)[:200])
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        return f"a value of type {type(cell).__name__}"


def _attributes(row: Mapping[str, Any]) -> dict[str, str]:
    """A mapping, a list of pairs, or text as the products table holds it; columns `attribute:NAME` win over it."""
    cell = row.get("attributes")
    refusal = UserError(
        f"attributes: {_shown(cell)} is no mapping, no JSON object and no name=value;name=value; write one"
    )
    if _absent(cell):
        content = {}
    elif isinstance(cell, str):
        content = read_attributes(_text("attributes", cell) or "")
        if content is None:
            raise refusal
    elif isinstance(cell, Mapping):
        content = dict(cell)
    else:
        try:
            content = dict(cast(Any, cell))  # pairs, as Parquet's maps come
        except (TypeError, ValueError):
            raise refusal from None
    content |= {
        name.removeprefix(ATTRIBUTE): row[name] for name in row if name.startswith(ATTRIBUTE) and not _absent(row[name])
    }
    return {
        _part("attributes", name): _part(f"attributes.{name}", value)
        for name, value in content.items()
        if not _absent(value)
    }


def _tags(name: str, cell: Any) -> list[str]:
    """A list, or text as the products table holds it."""
    refusal = UserError(f"{name}: {_shown(cell)} is no list, no JSON list and no a;b; write one")
    if _absent(cell):
        return []
    if isinstance(cell, str):
        content = read_tags(_text(name, cell) or "")
        if content is None:
            raise refusal
        return content
    if isinstance(cell, Mapping | bytes | bytearray | memoryview) or not isinstance(cell, Iterable):
        raise refusal
    return [text for tag in cell if not _absent(tag) and (text := _part(name, tag))]


def _bytes(image: Any, name: str) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | Path):
        raise UserError(f"{name}: {image!r} is neither file bytes nor a path; give a PNG, JPEG or WEBP file")
    try:
        return in_any_form(Path(image)).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: characters that no file name has
        told = f"{name}: {image!s} cannot be read ({error.strerror if isinstance(error, OSError) else error})"
        told = told.encode(errors="backslashreplace").decode()
        raise UserError(f"{told}; give a PNG, JPEG or WEBP file") from None


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
        "claim": verdict.claim,
        "refused": None,
    }
