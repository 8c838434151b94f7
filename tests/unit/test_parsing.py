"""How numbers, dates, rates and ids are written is decided for whole columns: literal cells in, values or reasons out."""

from typing import Any

import pandas as pd
import pytest

from countryreward.data.importers.date_columns import date_columns
from countryreward.data.importers.number_columns import number_columns
from countryreward.data.importers.parsing import Parsed, id_column, known_ids, read_attributes, read_tags
from countryreward.data.quarantine import REASONS


def column(*cells: str | None) -> pd.Series:
    return pd.Series(list(cells), dtype="str")


def parsed(name: str, *cells: str | None, **options: Any) -> Parsed:
    return number_columns({name: column(*cells)}, **options)[name]


def told(found: Parsed) -> list[Any]:
    """Each cell's value, or the reason why it is refused, or None where it is missing."""
    told: list[Any] = [None if pd.isna(value) else value for value in found.values.to_list()]
    for reason, rows in found.refused.items():
        assert reason in REASONS
        for place in rows[rows].index:
            assert told[place] is None
            told[place] = reason
    return told


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("impressions", ["12,310", "940", "988"], [12310, 940, 988]),
        ("impressions", ["1.240", "2.010"], [1240, 2010]),
        ("impressions", ["1 240", "1\u00a0240", "1\u202f240"], [1240, 1240, 1240]),
        ("impressions", ["1'240", "1’240"], [1240, 1240]),
        ("impressions", ["12,34,567", "1,240"], [1234567, 1240]),
        ("impressions", ["1.240.000", "5"], [1240000, 5]),
        ("impressions", ["1240.0", "5.00"], [1240, 5]),
        ("impressions", ["5.000", "6.000"], ["ambiguous_number"] * 2),  # 5 with three decimals, or 5000
        ("impressions", ["5.000", "600", "7.210"], [5000, 600, 7210]),
        (
            "impressions",
            ["1,240", "16.5", "many", None, "inf"],
            [1240, "wrong_type", "wrong_type", None, "not_a_number"],
        ),
        ("impressions", ["12 %", "1e999", "-5"], ["wrong_type", "not_a_number", -5]),
        ("impressions", ["1.23E+06", "1.2345678E7"], ["lost_digits", 12345678]),
        ("impressions", ["99999999999999999999"], ["wrong_type"]),
        ("impressions", ["1,240,000", "1.240.000"], ["ambiguous_number"] * 2),
        ("orders", ["1.240", "985", "2.010", "1.870"], [1240, 985, 2010, 1870]),
        ("orders", ["1,243", "985"], [1243, 985]),
        ("orders", ["1.240", "2.010"], ["ambiguous_number"] * 2),
        ("orders", ["1.240", "985.000"], ["ambiguous_number"] * 2),
        ("orders", ["1.24", "985"], [1.24, 985]),
        ("orders", ["1.240", "12345"], ["ambiguous_number"] * 2),
        ("value", ["$1,240.50", "$985"], [1240.5, 985]),
        ("value", ["1.240,50 €", "985,00 €"], [1240.5, 985]),
        ("value", ["R$ 1.240,50", "R$ 3,00"], [1240.5, 3]),
        ("value", ["1,240", "985"], [1240, 985]),  # 1.24 is written so only where 985 is 985,000
        ("value", ["1,243", "985"], ["ambiguous_number"] * 2),
        ("value", ["$5", "€5"], ["ambiguous_number"] * 2),
        ("value", ["(1,240.50)"], ["wrong_type"]),
        ("score", ["1.7292", "3.4565"], [1.7292, 3.4565]),
        ("score", ["-1.5", "\u22122,5"], ["ambiguous_number"] * 2),
        ("value", ["1.240", "300", "2.500"], ["ambiguous_number"] * 3),
        ("score", ["4.125", "3.870"], ["ambiguous_number"] * 2),
        ("score", ["4.250", "4", "3.125"], [4.25, 4, 3.125]),
        ("score", ["1.240", "985"], [1240, 985]),
        ("conversions", ["1.333", "3", "2.667"], [1.333, 3, 2.667]),
        ("conversions", ["1,333", "0", "3"], [1.333, 0, 3]),
        ("conversions", ["1.240", "300", "2.667"], ["ambiguous_number"] * 3),
        ("conversions", ["1.240", "985", "2.010"], [1240, 985, 2010]),
        ("conversions", ["1.234.567", "2.667"], [1234567, 2667]),
        ("orders", ["1.333", "3", "2.667"], ["ambiguous_number"] * 3),  # 3 sold beside 1,333, or parts of orders
        ("orders", ["1.240", "985", "3"], ["ambiguous_number"] * 3),
        ("orders", ["1.240", "300"], [1240, 300]),
        ("score", ["4.125", "0.870"], [4.125, 0.87]),
        ("rate", ["0,016", "0,021"], [0.016, 0.021]),
        ("rate", ["1.6e-2"], [0.016]),
        ("rate", ["1,250 %", "0 %"], [0.0125, 0]),  # 1250 % is no rate
    ],
)
def test_numbers_are_read_by_the_column(name: str, cells: list[str | None], expected: list[Any]):
    assert told(parsed(name, *cells)) == expected


def test_a_declared_mark_decides_and_typed_numbers_need_none():
    assert told(parsed("orders", "1.240", "2.010", style="comma")) == [1240, 2010]
    assert told(parsed("orders", "1.240", "2.010", style="point")) == [1.24, 2.01]
    assert told(parsed("orders", "1.240", "2,5", style="point")) == [1.24, "wrong_type"]
    assert told(parsed("orders", "1.125", "2.375", typed=["orders"])) == [1.125, 2.375]
    assert told(parsed("impressions", "1.2e+06", typed=["impressions"])) == [1_200_000]


def test_a_column_that_decides_nothing_follows_the_others():
    texts = {"value": column("1.240", "2.010"), "score": column("4,5", "3"), "orders": column("1.240", "2.010")}
    found = number_columns(texts)
    assert told(found["value"]) == told(found["orders"]) == [1240, 2010]
    pointed = number_columns(texts | {"score": column("4.5", "3")})
    assert told(pointed["value"]) == [1.24, 2.01]
    assert told(pointed["orders"]) == ["ambiguous_number"] * 2  # 1.24 units are none


def test_what_was_decided_is_told():
    assert parsed("orders", "1.240", "985").decided == "orders: '1.240' is read as 1240"
    assert parsed("impressions", "12,310").decided == "impressions: '12,310' is read as 12310"
    assert parsed("impressions", "12310").decided == ""
    assert parsed("orders", "1.240", option="observations.decimal").decided == (
        "orders is refused: '1.240' can be 1.24 or 1240, and no cell decides it; "
        "set observations.decimal to point (1.24) or comma (1240)"
    )
    assert parsed("score", "1.5", "2,5", option="decimal").decided == (
        "score is refused: numbers are written in several ways ('1.5', '2,5'); write them in one, or set decimal"
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["0.85", "0.62", "1.31"], [0.0085, 0.0062, 0.0131]),
        (["1.71%", "0.91 %", "%1.28"], [0.0171, 0.0091, 0.0128]),
        (["0.016", "0.021", "0"], [0.016, 0.021, 0]),
        (["0.85", "0.62"], ["ambiguous_rate"] * 2),  # .85 % is likely, and 85 % is written so
        (["0.016", "0.021", "1.6"], ["ambiguous_rate"] * 3),  # two shares beside a percentage?
        (["1.71%", "0.0091"], ["ambiguous_rate"] * 2),
        (["1.71%", "0.0091", "0"], ["ambiguous_rate", "ambiguous_rate", 0]),
        (["120 %", "1 %"], ["rate_above_one", 0.01]),
    ],
)
def test_rates_are_all_per_cent_or_none(cells: list[str], expected: list[Any]):
    found = told(parsed("rate", *cells))
    assert [value if isinstance(value, str) else pytest.approx(value) for value in found] == expected


def test_a_declared_unit_and_the_header_decide_rates():
    assert told(parsed("rate", "0.85", "0.62", rates="percent")) == pytest.approx([0.0085, 0.0062])
    assert told(parsed("rate", "0.85", "1.62", rates="share")) == [0.85, "rate_above_one"]
    assert told(parsed("rate", "0.01", "4", percent_named=["rate"])) == pytest.approx([0.0001, 0.04])
    assert told(parsed("rate", "0.01", "0.04", percent_named=["rate"])) == ["ambiguous_rate"] * 2


def test_counts_beside_a_rate_decide_it():
    def beside(*rates: str) -> list[Any]:
        counts = {"impressions_a": column("5000", "5000", None), "clicks_a": column("50", "60", None)}
        return told(number_columns(counts | {"rate_a": column(*rates)})["rate_a"])

    assert beside("1.0", "1.2", "0.9") == pytest.approx([0.01, 0.012, 0.009])
    assert beside("0.01", "0.012", "0.9") == [0.01, 0.012, 0.9]
    assert beside("1.0", "0.012", "0.9") == ["ambiguous_rate"] * 3


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2026-03-01", "2026/3/1", "20260301", "2026. 3. 1."], ["2026-03-01"] * 4),
        (["2026-03-01T00:00:00Z", "2026-03-01 00:00", "2026-03-01 0:00", "2026-03-01 12:00:00 AM"], ["2026-03-01"] * 4),
        (["Mar 1, 2026", "March 1 2026", "1 March 2026", "1-Mar-2026", "1st Mar 2026"], ["2026-03-01"] * 5),
        (["1.3.2026", "1. 3. 2026", "01.03.2026"], ["2026-03-01"] * 3),
        (["1/3/2026", "31/3/2026"], ["2026-03-01", "2026-03-31"]),
        (["3/1/2026", "3/31/2026"], ["2026-03-01", "2026-03-31"]),
        (["3-1-2026", "3-31-2026"], ["2026-03-01", "2026-03-31"]),
        (["3/1/2026", "3/3/2026"], ["ambiguous_date", "2026-03-03"]),
        (["31/3/2026", "3/31/2026"], ["ambiguous_date"] * 2),
        (["46082", "2026-02-30", "soon", "2026-03-01 12:00"], ["bad_date"] * 4),
        (["46082", "46083.0"], ["2026-03-01", "2026-03-02"]),
        (["3/1/26", "3/20/26"], ["2026-03-01", "2026-03-20"]),
        (["3/1/26", "3/2/26"], ["ambiguous_date"] * 2),
        (["31.3.26", "1.4.26"], ["2026-03-31", "2026-04-01"]),
        (["26-03-01", "26-03-31"], ["2026-03-01", "2026-03-31"]),
        (["26-03-12"], ["ambiguous_date"]),
        (["1/3/99"], ["bad_date"]),
        (["1. März 2026", "1 de marzo de 2026", "1er mars 2026", "1 марта 2026"], ["2026-03-01"] * 4),
        (["2026년 3월 1일", "2026年3月1日"], ["2026-03-01"] * 2),
        (["2026-03-01 00:00:00.000000+0900", "2026-03-01T00:00:00+01:00"], ["2026-03-01"] * 2),
        (["2026-02-28 15:00:00Z"], ["bad_date"]),
        (["20262803", None], ["bad_date", None]),
    ],
)
def test_dates_are_read_by_the_column(cells: list[str | None], expected: list[str | None]):
    found = date_columns({"period_start": column(*cells)})["period_start"]
    assert [
        value if value is None or not hasattr(value, "date") else str(value.date()) for value in told(found)
    ] == expected


def test_both_date_columns_decide_together_and_an_option_decides_alone():
    texts = {"period_start": column("1/3/2026"), "period_end": column("31/3/2026")}
    assert str(date_columns(texts)["period_start"].values[0].date()) == "2026-03-01"
    texts = {"period_start": column("3/1/2026")}
    (unclear,) = date_columns(texts, option="observations.dates").values()
    assert unclear.decided == (
        "period_start: refused: '3/1/2026' can be day first or month first; "
        "set observations.dates to day-first or month-first"
    )
    for style, day in (("day-first", "2026-01-03"), ("month-first", "2026-03-01")):
        assert str(date_columns(texts, style=style)["period_start"].values[0].date()) == day  # type: ignore[arg-type]
    assert told(date_columns(texts, style="iso")["period_start"]) == ["bad_date"]


@pytest.mark.parametrize(
    ("cells", "ids", "lost"),
    [
        (["1.20E+17", "1.21E+17", "x"], ["1.20E+17", "1.21E+17", "x"], [True, True, False]),
        (["1.2e+17", "1,2E+17", "1.2E17"], ["1.2e+17", "1,2E+17", "1.2E17"], [True] * 3),
        (["123.0", "124.0", None], ["123", "124", None], [False] * 3),
        (["1.0", "1.1"], ["1.0", "1.1"], [False] * 2),
        (["9007199254740994.0", "12.0"], ["9007199254740994", "12"], [True, False]),
        (["9007199254740992.0", "9007199254740991.0"], ["9007199254740992", "9007199254740991"], [True, False]),
        (["9007199254740992.0", "12"], ["9007199254740992.0", "12"], [True, False]),
        (["00123", "3e8", "1E10", "NA", " a"], ["00123", "3e8", "1E10", "NA", " a"], [False] * 5),
        (['="00123"'], ["00123"], [False]),
        (
            ["120210000000012000", "120210000000013000", "7"],
            ["120210000000012000", "120210000000013000", "7"],
            [True, True, False],
        ),
        (["120210000000012345", "120210000000013000"], ["120210000000012345", "120210000000013000"], [False] * 2),
    ],
)
def test_ids_that_lost_digits(cells: list[str | None], ids: list[str | None], lost: list[bool]):
    values, rows, _ = id_column(column(*cells))
    assert [None if pd.isna(value) else value for value in values] == ids
    assert rows.to_list() == lost


def test_ids_of_two_tables_have_their_point_in_both_or_in_neither():
    assert known_ids(column("1", "2", None), {"1.0", "2.0", "2.1"}, bare=True).to_list()[:2] == ["1.0", "2.0"]
    assert known_ids(column("1.0", "2.0", "2.1"), {"1", "2"}, bare=False).to_list() == ["1", "2", "2.1"]
    assert known_ids(column("1.0", "1"), {"1", "1.0"}, bare=False).to_list() == ["1.0", "1"]
    assert known_ids(column("1", "01"), {"1.0", "1"}, bare=False).to_list() == ["1", "01"]
    assert known_ids(column("1"), {"1.0"}, bare=False).to_list() == ["1"]


def test_texts_with_parts():
    assert read_attributes('{"material": NaN, "size": 2.0, "on": true}') == {"size": "2", "on": "true"}
    assert read_attributes("a=b; c = d;") == {"a": "b", "c": "d"}
    assert read_attributes("steel") is None
    assert read_attributes('{"a": "\\ud83d"}') is None
    assert read_tags('["a", NaN, 7]') == ["a", "7"]
    assert read_tags("coffee; gift;") == ["coffee", "gift"]
    assert read_tags("[1") is None
    assert read_tags('["o\\u0308"]') == ["ö"]
    assert read_attributes('{"o\\u0308": "o\\u0308"}') == {"ö": "ö"}


def test_both_sides_of_a_pair_file_are_one_column():
    texts = {"orders_a": column("1.240", "2.010"), "orders_b": column("985", "870")}
    found = number_columns(texts)
    assert (told(found["orders_a"]), told(found["orders_b"])) == ([1240, 2010], [985, 870])
    assert [found[name].decided for name in texts] == ["orders_a and orders_b: '1.240' is read as 1240", ""]
    texts = {"rate_b": column("1.31", "0.9"), "rate_a": column("0.85", "0.62")}
    found = number_columns(texts)
    assert told(found["rate_a"]) == pytest.approx([0.0085, 0.0062])
    assert told(found["rate_b"]) == pytest.approx([0.0131, 0.009])


def test_conversions_are_at_most_the_clicks_and_the_impressions():
    clicks = {"impressions": column("50000", "50000"), "clicks": column("500", "520")}
    assert told(number_columns(clicks | {"conversions": column("1.333", "300")})["conversions"]) == [1.333, 300]
    clicks = {"impressions": column("50000", "50000"), "clicks": column("5000", "5200")}
    assert (
        told(number_columns(clicks | {"conversions": column("1.333", "300")})["conversions"])
        == ["ambiguous_number"] * 2
    )
    only = {"impressions": column("900", "950"), "conversions": column("1.333", "300")}
    assert told(number_columns(only)["conversions"]) == [1.333, 300]


def test_the_marks_of_other_columns_and_sizes_must_agree():
    german = {"impressions": column("50.000", "61.500"), "clicks": column("5.100", "5.200")}
    assert told(number_columns(german | {"conversions": column("1.333", "300")})["conversions"]) == [1333, 300]
    assert (
        told(number_columns(german | {"conversions": column("1.333", "3")})["conversions"]) == ["ambiguous_number"] * 2
    )
    english = {"impressions": column("50,000", "61,500"), "clicks": column("5,100", "5,200")}
    assert told(number_columns(english | {"conversions": column("1.333", "300")})["conversions"]) == [1.333, 300]
    assert told(number_columns(english | {"orders": column("1.240", "985")})["orders"]) == ["ambiguous_number"] * 2


def test_impressions_are_at_least_the_clicks():
    texts = {"impressions": column("5.000", "10.000"), "clicks": column("50", "60")}
    assert told(number_columns(texts)["impressions"]) == [5000, 10000]  # 50 clicks on 5 impressions are none
    texts = {"impressions": column("5.000", "10.000"), "clicks": column("5", "6")}
    assert told(number_columns(texts)["impressions"]) == ["ambiguous_number"] * 2
