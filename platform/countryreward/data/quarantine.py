"""Quarantine: a bad row goes here with its reason and the job goes on. One mechanism for every stage.

Dropping is something else: a dropped row is a good row that a rule leaves out (a tie, too few impressions); it is
counted by reason but not kept here. At every stage input = kept + dropped + quarantined (`check_counts`).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

REASONS: dict[str, str] = {
    "missing_value": "fill the named field in",
    "wrong_type": "write the named field in the type that docs/data.md gives for it",
    "text_too_long": "shorten the named field",
    "malformed_row": "CSV: as many cells as the header, quotes around commas; JSONL: one JSON object a line",
    "lost_digits": "export the column as text and open it in no spreadsheet: 1.2E+17 or 120000000000000000 have lost digits",
    "duplicate_key": "keep one row per key (docs/data.md names it); equal rows that are parts need a column that says so",
    "unknown_product": "add the product to the products table, or correct product_id",
    "unknown_creative": "mend the creative itself (it may be quarantined), add it to its table, or correct creative_id",
    "unknown_market": "write an ISO 3166 code (KR), a country's name (South Korea), an alias from the configuration, or define it"
    " in the markets file",
    "market_mismatch": "the text names another market than the market field: correct one of them",
    "unknown_kind": "write one of counts, rate, orders, score, or leave kind out and let the filled columns decide",
    "missing_image": "put the image where image_uri points, or correct image_uri",
    "changed_image": "the referenced image is gone or is no longer the one imported: restore it, or import again",
    "forbidden_uri": "copy the image into the image root, or allow the scheme in images.allowed_schemes",
    "undecodable_image": "export the image again as PNG, JPEG or WEBP",
    "unsupported_format": "convert the image to PNG, JPEG or WEBP",
    "image_too_large": "shrink the file below images.max_bytes",
    "pixel_bomb": "shrink the image below images.max_pixels",
    "not_a_number": "replace infinity by a number, or leave the row out",
    "ambiguous_number": "set decimal of the table to point or comma: the column's numbers fit both, or some fit one each",
    "ambiguous_rate": "set rates of the table to share or percent: the column's rates fit both, or are written in both ways",
    "negative_value": "counts, rates and orders are never negative: correct the export",
    "zero_impressions": "leave out periods without impressions",
    "clicks_exceed_impressions": "correct the export: clicks are at most impressions",
    "conversions_exceed_impressions": "correct the export: conversions of these impressions are at most as many",
    "rate_above_one": "correct the rate; where 1.6 means 1.6 %, set rates of the table to percent",
    "period_reversed": "period_start must not be later than period_end",
    "bad_date": "write dates as YYYY-MM-DD",
    "ambiguous_date": "set dates of the table to day-first or month-first: the column's dates fit both",
    "overlapping_period": "two periods of one creative, market and part of its showing share a day: keep one",
    "total_row": "leave out rows that sum up other rows of the file",
    "repeated_impressions": "export without the named column: platforms count the same impressions again in its rows",
    "unknown_delivery": "write randomised, rotated, optimised or unknown; for another column set constants: {delivery: unknown}",
    "same_image": "a pair needs two different creatives, by picture or words: correct one of them",
    "refused_prompt": "the record has no valid prompt: mend the named field, or leave the record out",
    "unreadable_design": "write Foreground, Background, Color Tone and Lighting, each once, or a JSON object of the four",
    "no_picture": "give the product a creative whose image can be read, or leave the design out",
    "refused_design": "no design could be read in the answers, or the renderer cannot make them: see value; train the writer on",
    "failed_again": "what was asked failed on it again and again: see value and its log; correct the product, or leave it out",
    "conflicting_value": "one creative has two values that cannot be added in one market and period: keep one",
    "different_products": "votes compare two creatives of one product: correct the ids",
    "unknown_winner": "write 1, 2, tie, or the id of one of the two creatives",
    "no_votes": "leave out pairs that nobody voted on",
}
"""Every reason a row can be quarantined for, with the way out."""


@dataclass(frozen=True, kw_only=True)
class QuarantinedRow:
    """A refused row, as a line of `quarantine.jsonl` states it; docs/data.md explains each field."""

    stage: str
    table: str
    row: int
    key: str
    reason: str
    field: str
    value: str
    way_out: str
    content: str


class Quarantine:
    """The rows that one stage refuses. `row` is the 0-based position in the input table."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._parts: list[list[QuarantinedRow] | _RefusedRows] = []

    @property
    def refusals(self) -> list[QuarantinedRow]:
        """All refused rows, in the order in which they were refused."""
        rows = [row for part in self._parts for row in part]
        self._parts = [rows]
        return rows

    def add(
        self,
        *,
        table: str,
        row: int,
        reason: str,
        field: str,
        value: object = "",
        key: object = "",
        content: object = None,
    ) -> None:
        """Quarantine one row. `reason` must be one of `REASONS`."""
        if not self._parts or isinstance(self._parts[-1], _RefusedRows):
            self._parts.append([])
        last = self._parts[-1]
        assert isinstance(last, list)
        last.append(_refused(self.stage, table, row, reason, field, value, key, content))

    def add_rows(
        self, frame: pd.DataFrame, *, table: str, reason: str, field: str, values: pd.Series, key: list[str]
    ) -> None:
        """Quarantine the rows of a frame, whose index is their position in the table unless a column `row` says it.

        values: what was found, aligned with the frame. key: the columns of the key. The rows' lines are made when they are
        written: of a file of a million bad rows only the cells are in memory.
        """
        assert reason in REASONS
        self._parts.append(_RefusedRows(self.stage, table, reason, field, frame, values, key))

    def counts(self, table: str | None = None) -> dict[str, int]:
        """Refusals by reason, most frequent first, of one table or of all."""
        by_reason: Counter[str] = Counter()
        for part in self._parts:
            if isinstance(part, list):
                by_reason.update(row.reason for row in part if table is None or row.table == table)
            elif table is None or part.table == table:
                by_reason[part.reason] += len(part.frame)
        return dict(by_reason.most_common())

    def write(self, folder: Path) -> None:
        """Write `quarantine.jsonl`, one row a line; an empty file says that nothing was refused."""
        with open(folder / "quarantine.jsonl", "w", encoding="utf-8", errors="replace") as handle:
            for part in self._parts:
                handle.writelines(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in part)


@dataclass(frozen=True)
class _RefusedRows:
    """Rows of one table that were refused for one reason, as columns."""

    stage: str
    table: str
    reason: str
    field: str
    frame: pd.DataFrame
    values: pd.Series
    key: list[str]

    def __iter__(self) -> Iterator[QuarantinedRow]:
        names = [str(name) for name in self.frame]
        # A number that is missing is written as null: NaN is not JSON.
        columns = [_cells(self.frame[name]) for name in self.frame]
        for position, value, *cells in zip(self.frame.index, _cells(self.values), *columns, strict=True):
            content = {name: cell for name, cell in zip(names, cells, strict=True) if not isinstance(cell, bytes)}
            key = "/".join(str(content[name]) for name in self.key if name in content)
            row = int(str(content.get("row", position)))
            value = "" if value is None else value
            yield _refused(self.stage, self.table, row, self.reason, self.field, value, key, content)


def _cells(column: pd.Series) -> list[Any]:
    return column.astype(object).where(column.notna(), None).tolist()


def _refused(
    stage: str, table: str, row: int, reason: str, field: str, value: object, key: object, content: object
) -> QuarantinedRow:
    return QuarantinedRow(
        stage=stage,
        table=table,
        row=int(row),
        key=str(key)[:200],
        reason=reason,
        field=field,
        value=str(value)[:200],
        way_out=REASONS[reason],
        content=json.dumps(content, default=str, ensure_ascii=False)[:2000] if content is not None else "",
    )


class RowChecks:
    """Checks on a table, column-wise: the first check that a row fails is its reason."""

    def __init__(self, frame: pd.DataFrame, *, table: str, key: str | list[str], quarantine: Quarantine) -> None:
        self.frame = frame.reset_index(drop=True)
        self.table = table
        self.key = [key] if isinstance(key, str) else key
        self.quarantine = quarantine
        self.good = pd.Series(True, index=self.frame.index)

    def refuse(self, bad: pd.Series, reason: str, field: str, values: pd.Series | None = None) -> None:
        """Quarantine the rows of `bad` that passed every earlier check. `bad` is aligned with the frame's index.

        values: what was found, aligned too, where that says more than the row's own `field`.
        """
        newly = bad.fillna(False).astype(bool) & self.good
        if not newly.any():
            return
        assert len(newly) == len(self.frame), "bad is not aligned with the frame"
        rows = self.frame.loc[newly]
        if values is None:
            values = rows[field] if field in rows else pd.Series(None, index=rows.index, dtype="str")
        self.quarantine.add_rows(
            rows, table=self.table, reason=reason, field=field, values=values.loc[rows.index], key=self.key
        )
        self.good &= ~newly


def check_counts(counts: dict[str, Any], where: str) -> None:
    """Assert that a stage lost nothing: input = kept (or records) + dropped + quarantined."""
    total = sum(int(counts.get(name, 0)) for name in ("kept", "records", "dropped", "quarantined"))
    assert counts["input"] == total, f"{where}: {counts['input']} rows came in, {total} are accounted for"


def tally(
    table: str, *, input: int, kept: int, quarantine: Quarantine, dropped: dict[str, int] | None = None
) -> dict[str, Any]:
    """The counts of one table, checked: input = kept + dropped + quarantined."""
    by_reason = quarantine.counts(table)
    counts: dict[str, Any] = {
        "input": input,
        "kept": kept,
        "dropped": sum((dropped or {}).values()),
        "quarantined": sum(by_reason.values()),
        "quarantined_by_reason": by_reason,
    }
    if dropped:
        counts["dropped_by_reason"] = dropped
    check_counts(counts, f"import of {table}")
    return counts
