"""Columns of numbers. How they are written is decided for a whole column, never cell by cell: `number_columns` has the rules.

A column that can be read in two ways is refused, row by row, with the option that decides it. docs/data.md explains them.
"""

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from countryreward.data.importers.parsing import EXACT, Parsed, matches

NumberStyle = Literal["auto", "point", "comma"]
RateUnit = Literal["auto", "share", "percent"]
NumberKind = Literal["whole", "units", "parts", "rate", "amount", "number"]

NUMBER_KINDS: dict[str, NumberKind] = {
    "impressions": "whole",
    "clicks": "whole",
    "conversions": "parts",
    "score_n": "whole",
    "votes_1": "whole",
    "votes_2": "whole",
    "votes_tie": "whole",
    "orders": "units",
    "rate": "rate",
    "value": "amount",
    "score": "number",
    "score_sd": "number",
}
"""Column -> what its numbers are. whole: fractions are refused. units: whole as a rule. parts: counts that may have parts.
rate: a share or per cent. amount: money, may carry a currency sign. number: any. A pair file's columns carry `_a` or `_b` behind
these names."""
_LIKE_UNITS, _LIKE = 20.0, 3.0  # factors within which other units, and other numbers, are of one size


def number_kind(column: str) -> NumberKind | None:
    """What the numbers of a column are; None: it holds none."""
    return NUMBER_KINDS.get(column) or NUMBER_KINDS.get(_without_side(column))


@dataclass(frozen=True)
class _Reading:
    """The distinct cells of a column under one decimal mark."""

    fits: np.ndarray
    """Which cells are numbers so."""
    values: np.ndarray
    """float64; NaN where they are none."""
    separators: int
    """How many different separators of thousands the cells use; a column written in one way has at most one."""


@dataclass
class _Column:
    """The distinct cells of a column of numbers, read under both decimal marks."""

    name: str
    kind: NumberKind
    cells: pd.Series
    """Without spaces, per cent and currency signs around them."""
    signed: np.ndarray
    """Which carry a per cent sign."""
    currencies: set[str]
    readings: dict[str, _Reading]
    """point, comma"""

    @property
    def read(self) -> np.ndarray:
        """The cells that are numbers under at least one mark."""
        return self.readings["point"].fits | self.readings["comma"].fits


def number_columns(
    texts: Mapping[str, pd.Series],
    *,
    style: NumberStyle = "auto",
    option: str = "decimal",
    typed: Collection[str] = (),
    rates: RateUnit = "auto",
    rates_option: str = "rates",
    percent_named: Collection[str] = (),
) -> dict[str, Parsed]:
    """The number columns of one file: float64, whole ones Int64.

    texts: column -> cells as text; names of `NUMBER_KINDS`, with `_a` and `_b` in pair files. option, rates_option: what these
    options are called in the configuration, for messages. typed: columns that were numbers in the file, whose text is ours.
    percent_named: columns whose header in the file speaks of per cent.

    A cell is read with a point or a comma as the decimal mark, and the other one, spaces or apostrophes between groups of three
    digits (1,240.5; 1.240,5; 1 240,5; 1'240.5; also 1,23,456.7). style `auto` decides it for the column, from all its cells:

    1. one mark reads all cells that are numbers, the other does not: that one. Neither does: the column is written in several
       ways and is refused (`ambiguous_number`).
    2. Both do, with different values: then all the cells that differ have exactly three digits behind one mark, as 1.240. In
       counts they are thousands: 1.24 of an impression is none.
    3. A rate is at most 100: a reading above it is out.
    4. A reading that gives a row more clicks than impressions, or more conversions than either, is out, where another gives none.
    5. The sizes of the cells without a mark (`_by_size`): 985 is like 1240 and not like 1.24, 3 is like 2.667 and not like 2667.
    6. The mark that other columns of the file have shown by rules 1 to 4; orders only if they then are whole. Where conversions,
       orders, amounts or scores say another by rule 4 or 5, the column is refused.
    7. Otherwise the column is refused (`ambiguous_number`).

    Rates: `_shares`. Exponents that hide digits of a count or an amount, such as 1.2E+05, are `lost_digits`.
    The columns of the two sides of a pair file are one column here.
    """
    sides: dict[str, list[str]] = {}
    for name in sorted(texts):
        sides.setdefault(_without_side(name), []).append(name)
    joined = {base: pd.concat([texts[name] for name in names], ignore_index=True) for base, names in sides.items()}
    in_numbers = {base for base, names in sides.items() if all(name in typed for name in names)}
    columns: dict[str, _Column] = {}
    codes: dict[str, np.ndarray] = {}
    for base, text in joined.items():
        codes[base], distinct = pd.factorize(text)
        columns[base] = _column(" and ".join(sides[base]), base, pd.Series(distinct, dtype="str"))
    marks = _marks(columns, codes, style, in_numbers)
    parsed = {
        base: _parsed(column, marks[base], codes[base], typed=base in in_numbers, option=option)
        for base, column in columns.items()
    }
    if "rate" in joined and joined["rate"].notna().any():
        beside = [parsed[name].values for name in ("clicks", "impressions") if name in parsed]
        alike = len(beside) == 2 and all(len(counts) == len(joined["rate"]) for counts in beside)
        parsed["rate"] = _shares(
            columns["rate"].name,
            parsed["rate"],
            pd.Series(np.append(columns["rate"].signed, False)[codes["rate"]]),
            unit=rates,
            option=rates_option,
            counts=(beside[0], beside[1]) if alike else None,
            percent_named=any(name in percent_named for name in sides["rate"]),
        )
    return {
        name: part
        for base, names in sides.items()
        for name, part in zip(names, _split(parsed[base], [texts[name].index for name in names]), strict=True)
    }


def _without_side(name: str) -> str:
    return name.removesuffix("_a").removesuffix("_b")


def _split(parsed: Parsed, sides: list[pd.Index]) -> list[Parsed]:
    """A column of several sides, taken apart again; what was decided is told once."""
    parts = []
    end = 0
    for index in sides:
        rows = slice(end, end := end + len(index))
        refused = {reason: mask.iloc[rows].set_axis(index) for reason, mask in parsed.refused.items()}
        refused = {reason: mask for reason, mask in refused.items() if mask.any()}
        parts.append(Parsed(parsed.values.iloc[rows].set_axis(index), refused, "" if parts else parsed.decided))
    return parts


def _marks(
    columns: Mapping[str, _Column], codes: Mapping[str, np.ndarray], style: NumberStyle, typed: Collection[str]
) -> dict[str, str | None]:
    """Column -> its decimal mark, None where it cannot be decided."""
    marks: dict[str, str | None] = {}
    evidence: set[str] = set()
    for name, column in columns.items():
        if name in typed or style != "auto":
            marks[name] = "point" if name in typed else style
            continue
        marks[name], shown = _decide(column)
        if shown and marks[name]:
            evidence.add(str(marks[name]))
    by_counts = _by_counts(columns, codes, marks)
    evidence |= {mark for name, mark in by_counts.items() if columns[name].kind == "whole"}
    for name, column in columns.items():
        if marks[name] is not None:
            continue
        said = {mark for mark in (by_counts.get(name), _by_size(column)) if mark}
        if column.kind == "whole" and name in by_counts:
            marks[name] = by_counts[name]
        elif said:
            marks[name] = said.pop() if len(said | evidence) == 1 else None
        elif len(evidence) == 1 and _fit(column, *evidence) and _may_follow(column, *evidence):
            (marks[name],) = evidence
    return marks


def _by_counts(
    columns: Mapping[str, _Column], codes: Mapping[str, np.ndarray], marks: Mapping[str, str | None]
) -> dict[str, str]:
    """Rule 4: marks of impressions, clicks and conversions that are decided by each other."""
    names = [name for name in ("impressions", "clicks", "conversions") if name in columns]
    if len({len(codes[name]) for name in names}) > 1:
        return {}
    options = [
        [mark] if (mark := marks[name]) else [each for each in ("point", "comma") if _fit(columns[name], each)]
        for name in names
    ]

    def values(name: str, mark: str) -> np.ndarray:
        return np.append(columns[name].readings[mark].values, np.nan)[codes[name]]

    possible = [
        chosen
        for chosen in itertools.product(*options)
        if not any(
            (values(names[less], chosen[less]) > values(names[more], chosen[more])).any()
            for more, less in itertools.combinations(range(len(names)), 2)
        )
    ]
    decided = [{chosen[place] for chosen in possible} for place in range(len(names))]
    return {
        name: mark
        for name, found in zip(names, decided, strict=True)
        if marks[name] is None and len(found) == 1
        for mark in found
    }


def _by_size(column: _Column) -> str | None:
    """Rule 5: the mark under which the cells that differ are of one size with those without a mark; None where that is unclear.

    Each of the latter must lie within a factor of the marked cells under one reading, and outside of it under the other: 20 for
    units sold, 3 for others. Thousands are out where a cell of four digits has no mark, and but for units where no marked cell
    ends in 0, as one of three decimals does only where all have three. Units and amounts have three decimals so rarely that
    beside small cells 1.333 stays unclear.
    """
    if column.kind in ("whole", "rate") or any(not _fit(column, mark) for mark in column.readings):
        return None
    point, comma = (column.readings[mark].values for mark in ("point", "comma"))
    differs = column.read & (point != comma)
    sizes = np.abs(point[column.read & ~differs & (point != 0) & matches(column.cells, "[+-]?[0-9]+")])
    if not differs.any() or not len(sizes):
        return None
    factor = _LIKE_UNITS if column.kind == "units" else _LIKE
    alike: dict[str, np.ndarray] = {}
    for mark, values in (("point", point), ("comma", comma)):
        marked = np.abs(values[differs])
        alike[mark] = (sizes >= marked.min() / factor) & (sizes <= marked.max() * factor)
    larger = np.abs(point[differs]) > np.abs(comma[differs])
    if larger.any() and not larger.all():
        return None  # 1.240 beside 1,240: what is a thousand in one is none in the other
    thousands, decimals = ("point", "comma") if larger.all() else ("comma", "point")
    if alike[thousands].all() and not alike[decimals].any() and (sizes < 1000).all():
        in_full = column.kind == "units" or column.cells[differs].str.endswith("0").any()
        return thousands if in_full else None
    if column.kind in ("parts", "number") and alike[decimals].all() and not alike[thousands].any():
        return decimals
    return None


def _column(name: str, base: str, distinct: pd.Series) -> _Column:
    kind = NUMBER_KINDS[base]
    cells = distinct
    for pattern, by in (
        ("[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", ""),
        ("[\t\u00a0\u2000-\u200a\u202f\u205f\u3000]", " "),
        ("[\u2018\u2019\u02bc\u00b4`]", "'"),
        ("\u2212", "-"),
        ("^ +| +$", ""),
    ):
        cells = cells.str.replace(pattern, by, regex=True)
    signed = np.zeros(len(cells), dtype=bool)
    currencies: set[str] = set()
    if kind == "rate":
        signed = cells.str.contains("[%٪％]", regex=True).to_numpy(dtype=bool, copy=True)
        cells = cells.str.replace("^[%٪％] *| *[%٪％]$", "", regex=True)
    if kind == "amount":
        cells, currencies = _without_currency(cells)
    return _Column(
        name, kind, cells, signed, currencies, {"point": _reading(cells, "."), "comma": _reading(cells, ",")}
    )


_CURRENCY = r"(?:[A-Za-z]{0,3}[$€£¥₩₹₽₺฿₫₴₦₪₱₡]|[A-Z]{3}|Kčs?|Kč|zł|kr\.?|Rs\.?|Fr\.?|Ft|lei|TL)"
_AMOUNT = re.compile(rf"([+-]?) ?({_CURRENCY})? ?([+-]?[0-9.,].*?) ?({_CURRENCY})?")


def _without_currency(cells: pd.Series) -> tuple[pd.Series, set[str]]:
    """The cells without a currency's sign or code before or behind the number, and the currencies found."""
    if not cells.str.contains("[^0-9.,+' -]", regex=True).any():
        return cells, set()
    bare: list[str] = []
    found: set[str] = set()
    for cell in cells.to_list():
        match = _AMOUNT.fullmatch(cell)
        if not match or (match[2] and match[4]):
            bare.append(cell)
            continue
        found |= {sign for sign in (match[2], match[4]) if sign}
        bare.append(match[1] + match[3])
    return pd.Series(bare, index=cells.index, dtype="str"), found


def _reading(cells: pd.Series, mark: str) -> _Reading:
    decimal = re.escape(mark)
    exponent = "(?:[eE][+-]?[0-9]+)?"
    plain = matches(cells, f"[+-]?(?:[0-9]+{decimal}?[0-9]*|{decimal}[0-9]+){exponent}")
    bodies = cells.where(pd.Series(plain, index=cells.index))
    fits, separators = plain.copy(), 0
    for separator in (",", ".", " ", "'"):
        if separator == mark or not cells.str.contains(separator, regex=False).any():
            continue
        group = re.escape(separator)
        pattern = f"[+-]?[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}})+(?:{decimal}[0-9]*)?"
        if separator == ",":
            pattern += r"|[+-]?[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]*)?"
        grouped = matches(cells, pattern) & ~fits
        if grouped.any():
            rows = pd.Series(grouped, index=cells.index)
            bodies = bodies.mask(rows, cells.str.replace(separator, "", regex=False))
            fits |= grouped
            separators += 1
    values = np.full(len(cells), np.nan)
    if fits.any():
        bodies = bodies[fits] if mark == "." else bodies[fits].str.replace(",", ".", regex=False)
        values[fits] = bodies.to_numpy(dtype=object).astype(np.float64)
    return _Reading(fits, values, separators)


def _fit(column: _Column, mark: str) -> bool:
    """Whether one mark reads all cells of the column that are numbers at all."""
    reading = column.readings[mark]
    return bool(reading.fits[column.read].all()) and reading.separators <= 1


def _decide(column: _Column) -> tuple[str | None, bool]:
    """(the decimal mark or None, whether the column's cells show it). Rules 1 to 3 of `number_columns`."""
    read = column.read
    fitting = [mark for mark in column.readings if _fit(column, mark)]
    if not read.any():
        return "point", False
    if len(fitting) < 2:
        return (fitting[0], True) if fitting else (None, False)
    point, comma = (column.readings[mark].values for mark in ("point", "comma"))
    differs = read & (point != comma)
    if not differs.any():
        return "point", False
    larger = np.abs(point[differs]) > np.abs(comma[differs])
    if larger.any() and not larger.all():
        return None, False  # 1.240 beside 1,240: what is a thousand in one is none in the other
    thousands, decimals = ("point", "comma") if larger.all() else ("comma", "point")
    as_decimals = column.readings[decimals].values[differs]
    if column.kind == "rate" and (np.abs(column.readings[thousands].values[read]) > 100).any():
        return decimals, True
    if column.kind == "whole" and (as_decimals % 1 != 0).any():
        return thousands, True
    unmarked = read & ~differs & (point != 0) & matches(column.cells, "[+-]?[0-9]+")
    small, large = (unmarked & (np.abs(point) < 1000)).any(), (unmarked & (np.abs(point) >= 1000)).any()
    if column.kind == "whole" and small and not large:
        return thousands, True  # 5.000 beside 600: with three decimals it would be 600.000
    return None, False


def _may_follow(column: _Column, mark: str) -> bool:
    """Rule 6: whether an undecided column may be read with the mark that others have shown."""
    if column.kind != "units":
        return True
    values = column.readings[mark].values[column.read]
    return bool((values % 1 == 0).all())


def _parsed(column: _Column, mark: str | None, codes: np.ndarray, *, typed: bool, option: str) -> Parsed:
    """A column's rows, with what is refused of them."""
    filled = codes >= 0

    def rows(mask: np.ndarray) -> pd.Series:
        """Of distinct cells to rows."""
        return pd.Series(np.append(mask, False)[codes] & filled)

    refused: dict[str, pd.Series] = {}
    read = column.read
    undecided = mark is None or len(column.currencies) > 1
    infinite = matches(column.cells.str.lower(), "[+-]?(?:inf|infinity)")
    values = np.full(len(read), np.nan)
    if not undecided:
        reading = column.readings[str(mark)]
        infinite |= np.isinf(reading.values)
        values = np.where(np.isfinite(reading.values), reading.values, np.nan)
        read = reading.fits
    lost = np.zeros(len(read), dtype=bool)
    if column.kind in ("whole", "units", "parts", "amount") and not typed:
        lost = _hides_digits(column.cells) & np.isfinite(values)
    wrong = ~read & ~infinite
    if column.kind != "rate":
        wrong |= column.signed
    if column.kind == "whole":
        wrong |= np.isfinite(values) & ~lost & ((values % 1 != 0) | (np.abs(values) > EXACT))
    bad = wrong | lost | infinite
    values = np.where(bad, np.nan, values)
    for reason, mask in (("not_a_number", infinite), ("wrong_type", wrong), ("lost_digits", lost)):
        if mask.any():
            refused[reason] = rows(mask)
    if undecided and read.any():
        refused["ambiguous_number"] = rows(read & ~bad)
    by_row = pd.Series(np.append(values, np.nan)[codes])
    if column.kind == "whole":
        by_row = by_row.astype("Int64")
    return Parsed(by_row, refused, "" if typed else _told(column, mark, option))


def _told(column: _Column, mark: str | None, option: str) -> str:
    """What was decided of a column, on an example."""
    point, comma = (column.readings[name] for name in ("point", "comma"))
    if len(column.currencies) > 1:
        return (
            f"{column.name} is refused: it holds several currencies, {', '.join(sorted(column.currencies))}; give one"
        )
    if mark is None:
        both = np.flatnonzero(point.fits & comma.fits & (point.values != comma.values))
        if _fit(column, "point") and _fit(column, "comma"):
            cell, as_point, as_comma = column.cells.iloc[both[0]], point.values[both[0]], comma.values[both[0]]
            return (
                f"{column.name} is refused: {cell!r} can be {as_point:.15g} or {as_comma:.15g}, and no cell decides it; "
                f"set {option} to point ({as_point:.15g}) or comma ({as_comma:.15g})"
            )
        examples = [np.flatnonzero(column.read & ~reading.fits) for reading in (comma, point)]
        shown = [repr(column.cells.iloc[found[0]]) for found in examples if len(found)]
        return (
            f"{column.name} is refused: numbers are written in several ways ({', '.join(shown) or 'separators'}); "
            f"write them in one, or set {option}"
        )
    chosen, other = (point, comma) if mark == "point" else (comma, point)
    two_ways = np.flatnonzero(chosen.fits & other.fits & (chosen.values != other.values))
    marked = np.flatnonzero(
        chosen.fits & column.cells.str.contains("[, ']", regex=True).to_numpy(dtype=bool, copy=True)
    )
    examples = two_ways if len(two_ways) else marked
    if not len(examples):
        return ""
    return f"{column.name}: {column.cells.iloc[examples[0]]!r} is read as {chosen.values[examples[0]]:.15g}"


def _hides_digits(cells: pd.Series) -> np.ndarray:
    """Cells in exponent notation with fewer decimals than the exponent: 1.23E+06 was 1,230,000 or anything near it."""
    found = np.zeros(len(cells), dtype=bool)
    for place in np.flatnonzero(matches(cells, "[+-]?[0-9.,]+[eE][+]?[0-9]+")):
        mantissa, _, exponent = cells.iloc[place].lower().partition("e")
        decimals = len(re.split("[.,]", mantissa)[1]) if re.search("[.,]", mantissa) else 0
        found[place] = int(exponent) > decimals
    return found


def _shares(
    name: str,
    parsed: Parsed,
    signed: pd.Series,
    *,
    unit: RateUnit,
    option: str,
    counts: tuple[pd.Series, pd.Series] | None,
    percent_named: bool,
) -> Parsed:
    """A column of rates as shares: all of it is per cent, or none.

    signed: rows with a per cent sign. counts: clicks and impressions beside it. `auto`: where rows have counts, all of them
    must say the same; else per cent when all rows (but for zeros) have a sign, or when a value is above 1 and none is a
    hundredth of the largest (a share beside a percentage would be); shares when no value is above .5 and the header does not
    say per cent: .85 can be a share of 85 % or .85 %. Anything else is refused (`ambiguous_rate`).
    """
    values = parsed.values
    positive = values > 0
    told = ""
    if unit == "auto" and positive.any():
        unit, told = _rate_unit(name, values[positive], signed[positive], counts, percent_named, option)
    refused = dict(parsed.refused)
    if unit == "auto" and positive.any():
        refused["ambiguous_rate"] = positive
        return Parsed(values.where(~positive), refused, told)
    percent = signed if unit == "share" else pd.Series(unit == "percent", index=values.index)
    values = values.where(~percent, values / 100)
    above = values > 1
    if above.any():
        refused["rate_above_one"] = above
        values = values.where(~above)
    return Parsed(values, refused, "; ".join(filter(None, (parsed.decided, told))))


def _rate_unit(
    name: str,
    values: pd.Series,
    signed: pd.Series,
    counts: tuple[pd.Series, pd.Series] | None,
    percent_named: bool,
    option: str,
) -> tuple[RateUnit, str]:
    """(share or percent, or auto where it cannot be decided; what was decided and why). values: those above zero."""
    largest, smallest = float(values.max()), float(values.min())
    if signed.all():
        return "percent", ""
    way_out = f"set {option} to share (0.016) or percent (1.6)"
    if signed.any():
        return "auto", f"{name} is refused: some cells have a per cent sign and some have none; write them in one way"
    if counts is not None:
        clicks, impressions = (
            column[values.index].to_numpy(dtype=float, na_value=np.nan, copy=True) for column in counts
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = values.to_numpy() / (clicks / impressions)
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            if (ratio > 10).all():
                return "percent", f"{name} is read as per cent: so say the counts beside it"
            if (ratio <= 10).all() and largest <= 1:
                return "share", f"{name} is read as shares: so say the counts beside it"
            return "auto", f"{name} is refused: it does not agree with the counts beside it; {way_out}"
    if largest <= 0.5 and not percent_named:
        return "share", f"{name} is read as shares: {largest:.6g}, the largest, is {largest:.4%}"
    if largest <= 1:
        told = (
            "its header says per cent, and no value is above 1"
            if percent_named
            else f"{largest:.6g} can be a share or per cent"
        )
        return "auto", f"{name} is refused: {told}; {way_out}"
    if percent_named or largest < 100 * smallest:
        return "percent", f"{name} is read as per cent: {largest:.6g}, the largest, is no share"
    return "auto", f"{name} is refused: {smallest:.6g} and {largest:.6g} can be shares or per cent; {way_out}"
