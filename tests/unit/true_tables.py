"""Tables made from a known truth, over encodings, separators, quoting, and ways to write numbers, dates and missing cells."""

import csv
import datetime as dt
import io
import json
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import assume
from hypothesis import strategies as st

from countryreward.data.data_config import TableSource
from countryreward.data.importers.table_files import RawTable, read_table
from countryreward.errors import UserError

NUMBERS = ("impressions", "clicks", "orders", "value", "rate", "score")
DATES = ("period_start", "period_end")
KNOWN = ("creative_id", "market", *DATES, *NUMBERS)
_SEPARATORS = {
    "none": "",
    "group": "",
    "space": " ",
    "nbsp": "\u00a0",
    "narrow": "\u202f",
    "apostrophe": "'",
    "curly": "’",
}
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


@dataclass(repr=False)
class Table:
    """A table's truth and the file that tells it."""

    rows: list[dict[str, Any]]
    """Column -> int, float, date, text, or None for a missing cell."""
    name: str
    content: bytes
    source: dict[str, Any]
    """Options of `TableSource`."""
    damaged_ids: bool
    """Whether ids lost digits on their way, so that each must be refused."""
    told: dict[str, Any] = field(default_factory=dict)
    """How it is written, for messages."""


def number_text(value: float, mark: str, separator: str, decimals: int | None) -> str:
    """decimals: how many; None: as few as the value needs."""
    text = f"{abs(value):.{decimals}f}" if decimals is not None else f"{abs(value):.10f}".rstrip("0").rstrip(".")
    whole, _, rest = text.partition(".")
    if separator:
        groups = []
        while len(whole) > 3:
            groups.insert(0, whole[-3:])
            whole = whole[:-3]
        whole = separator.join([whole, *groups])
    sign = "-" if value < 0 else ""
    return sign + whole + (mark + rest if rest else "")


def date_text(day: dt.date, way: str, padded: bool) -> str:
    d, m, y = (f"{day.day:02d}", f"{day.month:02d}", day.year) if padded else (str(day.day), str(day.month), day.year)
    month = _MONTHS[day.month - 1]
    return {
        "iso": day.isoformat(),
        "midnight": f"{day.isoformat()}T00:00:00",
        "slashes": f"{y}/{m}/{d}",
        "compact": f"{day:%Y%m%d}",
        "korean": f"{y}. {m}. {d}.",
        "dotted": f"{d}.{m}.{y}",
        "day/month": f"{d}/{m}/{y}",
        "month/day": f"{m}/{d}/{y}",
        "day-month": f"{d}-{m}-{y}",
        "named": f"{month[:3]} {day.day}, {y}",
        "named in full": f"{day.day} {month} {y}",
    }[way]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any table of observations."""
    columns = [name for name in NUMBERS if draw(st.booleans())] or ["impressions", "clicks"]
    form = draw(st.sampled_from(["csv", "csv", "csv", "tsv", "tsv", "jsonl", "parquet"]))
    ids = draw(st.sampled_from(["short", "zeros", "long", "floats", "exponents", "words"]))
    count = draw(st.integers(1, 8))
    if form in ("jsonl", "parquet") and ids in ("floats", "exponents"):
        ids = "long"
    decimals = {name: draw(st.sampled_from([None, None, 2, 3])) for name in columns}
    for name in ("impressions", "clicks", "orders"):
        if name in columns:
            decimals[name] = draw(st.sampled_from([None, None, None, None, 2, 3]))
    as_text = form in ("csv", "tsv") or draw(st.booleans())
    ways = ["share", "percent", "sign", "spaced sign"]
    rate_way = draw(st.sampled_from(ways if as_text else ways[:2]))
    rows = [_row(draw, place, columns, ids, decimals, rate_way) for place in range(count)]
    counts = "impressions" in columns and "clicks" in columns
    if counts:
        for row in rows:
            if row["impressions"] is not None and row["clicks"] is not None:
                row["clicks"] = min(row["clicks"], row["impressions"])
                if row.get("rate") is not None:  # what a platform states beside counts follows from them
                    row["rate"] = row["clicks"] / row["impressions"] if row["impressions"] else 0.0
                    row["rate"] = _rounded_rate(row["rate"], decimals["rate"], rate_way)
    dated = draw(st.booleans())
    if dated:
        for row in rows:
            first = dt.date(2026, 1, 1) + dt.timedelta(days=draw(st.integers(0, 364)))
            row["period_start"], row["period_end"] = first, first + dt.timedelta(days=draw(st.integers(0, 40)))
    rates = [row["rate"] for row in rows if row.get("rate")]
    if rate_way == "percent" and rates:
        # Documented: rates of which none is above .5 are shares, where no counts say otherwise.
        beside = [row for row in rows if row["rate"] and row.get("impressions") and row.get("clicks")]
        assume(max(rates) > 0.005 or beside)
    mark, separator = draw(
        st.sampled_from(
            [(".", "none"), (".", "none"), (",", "none"), (".", "group"), (",", "group"), (".", "space"), (",", "space"),
             (",", "nbsp"), (",", "narrow"), (".", "apostrophe"), (".", "curly"), (",", "apostrophe")]
        )
    )  # fmt: skip
    way = {
        "ids": ids, "mark": mark, "separator": separator, "decimals": decimals, "rate": rate_way,
        "date": draw(st.sampled_from(["iso", "midnight", "slashes", "compact", "korean", "dotted", "day/month", "month/day",
                                      "day-month", "named", "named in full"])),
        "padded": draw(st.booleans()),
        "missing": draw(st.sampled_from(["", " ", "NaN", "NA", "N/A", "null", "None", "-", "--", "#N/A", "n/a"])),
        "currency": draw(st.sampled_from(["", "", "$", "€ ", " EUR", "R$ "])),
    }  # fmt: skip
    declared = draw(st.booleans())
    source: dict[str, Any] = {}
    if declared:
        source["decimal"] = {".": "point", ",": "comma"}[mark]
        source["rates"] = "share" if rate_way == "share" else "percent"
        if way["date"] in ("day/month", "day-month", "dotted"):
            source["dates"] = "day-first"
        if way["date"] == "month/day":
            source["dates"] = "month-first"
    names = ["creative_id", "market", *(DATES if dated else ()), *columns]
    if form == "parquet":
        content = _parquet(rows, names, way, as_text)
    elif form == "jsonl":
        content = _jsonl(rows, names, way, as_text)
    else:
        content = _delimited(draw, rows, names, way, form, source)
    return Table(rows, f"table.{form}", content, source, ids == "exponents", way | {"form": form, "columns": names})


def _rounded_rate(rate: float, decimals: int | None, way: str) -> float:
    places = 3 if decimals is None else decimals
    return round(rate, places + 2) if way == "share" else round(rate * 100, places) / 100


def _row(
    draw: st.DrawFn, place: int, columns: list[str], ids: str, decimals: dict[str, int | None], rate_way: str
) -> dict[str, Any]:
    identity = {
        "short": f"ad{place}",
        "zeros": f"{place:05d}",
        "long": str(120_210_000_000_012_345 + 7 * place),
        "floats": str(1000 + place),
        "exponents": str(120_210_000_000_012_345 + 7 * place),
        "words": ["NA", "Fjörd", unicodedata.normalize("NFD", "머그"), 'mug 5"', "a,b;c", "None", "null", "x"][place],
    }[ids]
    row: dict[str, Any] = {"creative_id": identity, "market": draw(st.sampled_from(["KR", "NA", "Brazil"]))}
    whole = st.one_of(
        st.integers(0, 999), st.integers(1000, 9999), st.integers(1, 3_000_000), st.sampled_from([1000, 1240, 12_310])
    )
    for name in columns:
        if draw(st.integers(0, 9)) == 0:
            row[name] = None
        elif name in ("impressions", "clicks", "orders"):
            row[name] = draw(whole)
        elif name == "value":
            row[name] = round(
                draw(st.integers(0, 500_000)) / 100, 2 if decimals[name] is None else min(2, decimals[name] or 2)
            )
        elif name == "rate":
            row[name] = _rounded_rate(draw(st.integers(0, 8000)) / 100_000, decimals[name], rate_way)
        else:
            row[name] = round(
                draw(st.integers(-9_000, 9_000)) / 1000, 3 if decimals[name] is None else decimals[name] or 3
            )
    return row


def _cell(name: str, value: Any, way: dict[str, Any]) -> str:
    """A value as the table writes it."""
    if value is None:
        return way["missing"]
    if name == "creative_id":
        if way["ids"] == "exponents":
            return f"{float(value):.2E}"
        return value + ".0" if way["ids"] == "floats" else value
    if name in DATES:
        return date_text(value, way["date"], way["padded"])
    if name == "market":
        return value
    separator = {",": ".", ".": ","}[way["mark"]] if way["separator"] == "group" else _SEPARATORS[way["separator"]]
    decimals = way["decimals"][name]
    if name == "rate":
        if way["rate"] == "share":
            return number_text(value, way["mark"], separator, None if decimals is None else decimals + 2)
        sign = {"percent": "", "sign": "%", "spaced sign": " %"}[way["rate"]]
        return number_text(round(value * 100, 6), way["mark"], separator, decimals) + sign
    text = number_text(value, way["mark"], separator, decimals)
    if name == "value":
        currency = way["currency"]
        return text + currency if currency.startswith(" ") else currency + text
    return text


_AD_NAMES = ("Mug plain", '"Mug of the year', "Mug", 'Mug 5"', "Tea, green; 1", "", "O'Neill", '"quoted"', "é")


def _delimited(
    draw: st.DrawFn,
    rows: list[dict[str, Any]],
    names: list[str],
    way: dict[str, Any],
    form: str,
    source: dict[str, Any],
) -> bytes:
    delimiter = draw(st.sampled_from([",", ",", ";", "\t", "|"] if form == "csv" else ["\t"]))
    quoting = draw(st.sampled_from(["minimal", "all", "raw"] if delimiter == "\t" else ["minimal", "all"]))
    way |= {"delimiter": delimiter, "quoting": quoting}
    headers = {"impressions": "Impr.", "clicks": "Clicks"} if draw(st.booleans()) else {}
    source["columns"] = {ours: theirs for ours, theirs in headers.items() if ours in names}
    titled = ["Ad name", *(headers.get(name, name) for name in names)]
    cells = [[_AD_NAMES[draw(st.integers(0, 8))], *(_cell(name, row.get(name), way) for name in names)] for row in rows]
    if quoting != "raw" and draw(st.booleans()):
        cells[0][0] = "two\nlines"
    end = draw(st.sampled_from(["\n", "\r\n"]))
    if quoting == "raw":
        body = "".join(delimiter.join(line) + end for line in [titled, *cells])
    else:
        buffer = io.StringIO(newline="")
        style = csv.QUOTE_ALL if quoting == "all" else csv.QUOTE_MINIMAL
        csv.writer(buffer, delimiter=delimiter, quoting=style, lineterminator=end).writerows([titled, *cells])
        body = buffer.getvalue()
    before = draw(
        st.sampled_from(["", "", "\n", f"sep={delimiter}\n", 'Ad report\n"March 1, 2026 - March 31, 2026"\n'])
    )
    if before and draw(st.booleans()):
        source["skip_lines"] = before.count("\n")
    text = before.replace("\n", end) + body
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    way |= {"before": before, "encoding": encoding}
    return text.encode(encoding)


def _jsonl(rows: list[dict[str, Any]], names: list[str], way: dict[str, Any], as_text: bool) -> bytes:
    lines = []
    for row in rows:
        content: dict[str, Any] = {}
        for name in names:
            value = row.get(name)
            if as_text or name in DATES or isinstance(value, str):
                content[name] = _cell(name, value, way)
            elif name == "rate" and value is not None and way["rate"] != "share":
                content[name] = round(value * 100, 6)
            else:
                content[name] = float("nan") if value is None else value
        lines.append(json.dumps(content, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode()


def _parquet(rows: list[dict[str, Any]], names: list[str], way: dict[str, Any], as_text: bool) -> bytes:
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if as_text or name in ("creative_id", "market"):
            columns[name] = pa.array([_cell(name, value, way) for value in values], pa.string())
        elif name in DATES:
            columns[name] = pa.array(values, pa.date32())
        elif name == "rate" and way["rate"] != "share":
            columns[name] = pa.array(
                [None if value is None else round(value * 100, 6) for value in values], pa.float64()
            )
        else:
            columns[name] = pa.array(
                [float("nan") if value is None else float(value) for value in values], pa.float64()
            )
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def read(table: Table, folder: Path) -> RawTable:
    path = folder / table.name
    path.write_bytes(table.content)
    source = TableSource(path=str(path), **table.source)
    return read_table(source, field="observations", known=KNOWN, required=("creative_id", "market"))


def wrong_cells(table: Table, folder: Path) -> tuple[list[str], int, int]:
    """(what was read wrong without a word, cells read, cells refused); a file refused as a whole counts as one refused cell.

    A refusal must name the field and an option or what to write.
    """
    try:
        raw = read(table, folder)
    except UserError as error:
        names_both = str(error).startswith("observations") and ";" in str(error)
        return ([] if names_both else [str(error)]), 0, 1
    if len(raw.frame) != len(table.rows):
        return [f"{len(raw.frame)} rows of {len(table.rows)}"], 0, 0
    wrong: list[str] = []
    right = refused = 0
    decisions = " ".join(raw.decisions())
    lost = raw.lost_digits.get("creative_id")
    for name in table.told["columns"]:
        numbers = raw.numbers(name) if name in NUMBERS else raw.days(name) if name in DATES else None
        values = raw.column(name) if numbers is None else numbers.values
        for place, row in enumerate(table.rows):
            if isinstance(raw.malformed.iloc[place], str):
                refused += 1
                continue
            if name == "creative_id" and lost is not None and lost.iloc[place]:
                refused += 1
                continue
            if numbers is not None and any(rows.iloc[place] for rows in numbers.refused.values()):
                refused += 1
                for reason, rows in numbers.refused.items():
                    if rows.iloc[place] and reason.startswith("ambiguous"):
                        assert f"{name} is refused" in decisions or f"{name}: refused" in decisions, (name, decisions)
                continue
            found = values.iloc[place]
            if _same(row.get(name), found):
                right += 1
            else:
                wrong.append(f"{name} of row {place} is {found!r}, not {row.get(name)!r}")
    if table.damaged_ids and (lost is None or not lost.all()):
        wrong.append("an id that has lost digits was taken")
    return wrong, right, refused


def _same(truth: Any, found: Any) -> bool:
    if truth is None:
        return str(found) in ("None", "<NA>", "NaT", "nan")
    if isinstance(truth, dt.date):
        return str(found)[:10] == truth.isoformat()
    if isinstance(truth, str):
        return found == unicodedata.normalize("NFC", truth)
    return abs(float(found) - float(truth)) <= 1e-9 * max(1.0, abs(float(truth)))
