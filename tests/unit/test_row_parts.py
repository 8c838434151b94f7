"""Rows of one result: parts are added or kept as strata, copies and totals are refused, and every row is counted."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, TableSource
from countryreward.data.dataset import Dataset
from countryreward.data.importers.import_dataset import import_dataset, notes
from countryreward.data.importers.strata import is_total, plain
from countryreward.data.records import build_records
from tests.unit.test_importers import png

VALUES = ["impressions", "clicks", "conversions", "value", "rate", "orders", "score", "score_sd", "score_n"]


def imported(
    folder: Path, text: str, columns: dict[str, str] | None = None, **options: Any
) -> tuple[list[dict[str, Any]], list[tuple[int, str]], dict[str, Any]]:
    """The kept observations without their empty cells, the refused rows with their reasons, and the counts of a CSV's import.

    Creatives a, b and c are of the product mug.
    """
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate("abc"):
        (folder / "images" / f"{name}.png").write_bytes(png(number))
    (folder / "products.csv").write_text("product_id,title\nmug,Alder mug\n")
    (folder / "creatives.csv").write_text(
        "creative_id,product_id,image_uri\n" + "".join(f"{name},mug,{name}.png\n" for name in "abc")
    )
    (folder / "observations.csv").write_text(text, encoding="utf-8")
    config = ImportConfig(
        products=TableSource(path=str(folder / "products.csv")),
        creatives=TableSource(path=str(folder / "creatives.csv")),
        observations=TableSource(path=str(folder / "observations.csv"), columns=columns or {}),
        images=ImagesConfig(root=str(folder / "images")),
        **options,
    )
    (folder / "out").mkdir()
    counts = import_dataset(config, folder / "out")["observations"]
    assert counts["input"] == counts["kept"] + counts["dropped"] + counts["quarantined"]
    refused = pd.read_json(folder / "out" / "quarantine.jsonl", lines=True)
    reasons = [] if refused.empty else list(zip(refused["row"], refused["reason"], strict=True))
    rows = pq.read_table(folder / "out" / "observations.parquet").to_pylist()
    return [{name: cell for name, cell in row.items() if cell is not None} for row in rows], sorted(reasons), counts


def counted(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row.get(name) for name in ("creative_id", *names, "impressions", "clicks")) for row in rows]


PLATFORM = {"creative_id": "Ad ID", "market": "Country", "impressions": "Impressions", "clicks": "Clicks"}
DATED = {**PLATFORM, "period_start": "Reporting starts", "period_end": "Reporting ends"}
DEVICES = """Ad ID,Country,Device,Reporting starts,Reporting ends,Impressions,Clicks
a,Brazil,mobile,2026-03-01,2026-03-31,9000,90
a,Brazil,desktop,2026-03-01,2026-03-31,1000,60
b,Brazil,mobile,2026-03-01,2026-03-31,9500,114
b,Brazil,desktop,2026-03-01,2026-03-31,500,6
"""


def test_rows_by_device_are_strata(tmp_path: Path):
    rows, refused, counts = imported(tmp_path, DEVICES, DATED)
    assert counted(rows, "device") == [
        ("a", "desktop", 1000, 60), ("a", "mobile", 9000, 90), ("b", "desktop", 500, 6), ("b", "mobile", 9500, 114),
    ]  # fmt: skip
    assert refused == []
    assert counts["recognised"] == {"device": ["Device"]}
    assert notes(counts) == ["device read from 'Device'"]


def test_rows_by_an_unknown_column_are_added(tmp_path: Path):
    rows, refused, counts = imported(tmp_path, DEVICES.replace("Device", "Hour"), DATED)
    assert counted(rows) == [("a", 10000, 150), ("b", 10000, 120)]
    assert refused == []
    assert (counts["kept"], counts["dropped_by_reason"]) == (2, {"added_to_another_row": 2})
    assert notes(counts) == ["2 rows were parts of another row's result and were added to it"]


def test_rows_without_any_other_column_are_added(tmp_path: Path):
    text = "creative_id,market,impressions,clicks\na,BR,9000,90\na,BR,1000,60\nb,BR,500,6\n"
    assert counted(imported(tmp_path, text)[0]) == [("a", 10000, 150), ("b", 500, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("number", ["#", "Row", "row_id", "Unnamed: 0", "n"])
def test_a_copy_is_no_part_even_where_rows_are_numbered(tmp_path: Path, number: str):
    text = f"{number},creative_id,market,hour,impressions,clicks\n0,a,BR,1,90,9\n1,a,BR,1,90,9\n2,a,BR,2,90,9\n3,b,BR,1,50,6\n"
    rows, refused, _ = imported(tmp_path, text)
    assert counted(rows) == [("a", 180, 18), ("b", 50, 6)]
    assert refused == [(1, "duplicate_key")]


def test_numbers_that_are_written_differently_are_a_copy(tmp_path: Path):
    text = "creative_id,market,impressions,clicks\na,BR,900,9\na,Brazil,900.0,9\n"
    assert imported(tmp_path, text)[1] == [(1, "duplicate_key")]


def test_several_columns_of_one_stratum(tmp_path: Path):
    text = (
        "creative_id,market,Age,Gender,impressions,clicks\na,BR,18-24,f,100,1\na,BR,18-24,m,200,2\na,BR,25-34,,300,3\n"
        "b,BR,18-24,f,400,4\n"
    )
    rows, _, counts = imported(tmp_path, text)
    assert counted(rows, "audience") == [
        ("a", "Age=18-24; Gender=f", 100, 1), ("a", "Age=18-24; Gender=m", 200, 2), ("a", "Age=25-34", 300, 3),
        ("b", "Age=18-24; Gender=f", 400, 4),
    ]  # fmt: skip
    assert counts["recognised"] == {"audience": ["Age", "Gender"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "stratum"),
    [
        ("device_platform", "device"), ("PLATFORM (DEVICE)", "device"), ("Publisher platform", "placement"),
        ("Network (with search partners)", "placement"), ("Ad Set ID", "ad_set"), ("adset-name", "ad_set"),
        ("Ad group", "ad_set"), ("DMA region", "audience"), ("Language", "audience"),
    ],
)  # fmt: skip
def test_headers_of_platforms(tmp_path: Path, header: str, stratum: str):
    rows, _, counts = imported(
        tmp_path, f"creative_id,market,{header},impressions,clicks\na,BR,x,100,1\na,BR,y,200,2\n"
    )
    assert counted(rows, stratum) == [("a", "x", 100, 1), ("a", "y", 200, 2)]
    assert counts["recognised"] == {stratum: [header]}


def test_a_mapped_stratum_wins_over_a_known_header(tmp_path: Path):
    text = "creative_id,market,Device,what,impressions,clicks\na,BR,x,1,100,1\na,BR,y,1,200,2\n"
    rows, _, counts = imported(tmp_path, text, {"device": "what"})
    assert counted(rows, "device") == [("a", "1", 300, 3)]
    assert "recognised" not in counts


def test_days_and_weeks_are_periods(tmp_path: Path):
    text = "creative_id,market,Day,impressions,clicks\na,BR,2026-03-01,100,1\na,BR,2026-03-02,200,2\n"
    rows, _, counts = imported(tmp_path, text)
    assert [(str(row["period_start"]), str(row["period_end"]), row["clicks"]) for row in rows] == [
        ("2026-03-01", "2026-03-01", 1), ("2026-03-02", "2026-03-02", 2),
    ]  # fmt: skip
    assert counts["recognised"] == {"period": ["Day"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "cell", "first", "last"),
    [
        ("Week", "2026-03-02", "2026-03-02", "2026-03-08"), ("week_start", "3/30/2026", "2026-03-30", "2026-04-05"),
        ("Week", "2026-03-02 - 2026-03-08", "2026-03-02", "2026-03-08"), ("Date", "Mar 1, 2026", "2026-03-01", "2026-03-01"),
        ("Date range", "2026-03-02 – 2026-03-04", "2026-03-02", "2026-03-04"), ("Month", "2026-02", "2026-02-01", "2026-02-28"),
        ("Month", "February 2024", "2024-02-01", "2024-02-29"), ("Month", "2026-12-01", "2026-12-01", "2026-12-31"),
        ("Month", "2026-03-31", "2026-03-01", "2026-03-31"), ("Month", "202603", "2026-03-01", "2026-03-31"),
        ("Month", "März 2026", "2026-03-01", "2026-03-31"), ("Monat", "3/2026", "2026-03-01", "2026-03-31"),
        ("月", "2026年3月", "2026-03-01", "2026-03-31"), ("Month", "Mar-26", "2026-03-01", "2026-03-31"),
        ("Week", "2026-W10", "2026-03-02", "2026-03-08"), ("Tag", "1. März 2026", "2026-03-01", "2026-03-01"),
        ("Datum", "1.3.2026", "2026-03-01", "2026-03-01"), ("Fecha", "20260301", "2026-03-01", "2026-03-01"),
        ("Data", "2026-03-01", "2026-03-01", "2026-03-01"), ("日付", "2026/03/01", "2026-03-01", "2026-03-01"),
        ("날짜", "2026년 3월 1일", "2026-03-01", "2026-03-01"), ("Day", "46082", "2026-03-01", "2026-03-01"),
    ],
)  # fmt: skip
def test_weeks_months_and_ranges(tmp_path: Path, header: str, cell: str, first: str, last: str):
    rows, _, counts = imported(tmp_path, f'creative_id,market,{header},impressions,clicks\na,BR,"{cell}",100,1\n')
    assert [(str(row["period_start"]), str(row["period_end"])) for row in rows] == [(first, last)]
    assert counts["recognised"] == {"period": [header]}


def test_two_columns_of_first_and_last_days(tmp_path: Path):
    text = "creative_id,market,Reporting starts,Reporting ends,impressions,clicks\na,BR,2026-03-01,2026-03-31,100,1\n"
    rows, _, counts = imported(tmp_path, text)
    assert [(str(row["period_start"]), str(row["period_end"])) for row in rows] == [("2026-03-01", "2026-03-31")]
    assert counts["recognised"] == {"period": ["Reporting starts", "Reporting ends"]}


def test_beside_days_a_row_without_one_is_their_sum(tmp_path: Path):
    text = "creative_id,market,Day,impressions,clicks\na,BR,,300,3\na,BR,2026-03-01,100,1\na,BR,2026-03-02,200,2\nb,BR,--,9,1\n"
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(0, "total_row")]
    assert counted(rows) == [("a", 100, 1), ("a", 200, 2), ("b", 9, 1)]


def test_days_that_can_be_months_are_refused_with_the_option(tmp_path: Path):
    text = "creative_id,market,Day,impressions,clicks\na,BR,1/3/2026,100,1\na,BR,2/3/2026,200,2\n"
    assert imported(tmp_path, text)[1] == [(0, "ambiguous_date"), (1, "ambiguous_date")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "cells", "reason"),
    [
        ("Day", ("3/1/26", "3/2/26"), "ambiguous_date"), ("Day", ("3/1/99", "3/2/99"), "bad_date"),
        ("Day", ("1", "2"), "bad_date"), ("Month", ("March", "April"), "bad_date"), ("Date", ("12 soon", "13 soon"), "bad_date"),
    ],
)  # fmt: skip
def test_days_that_cannot_be_read_are_refused(tmp_path: Path, header: str, cells: tuple[str, str], reason: str):
    text = f"creative_id,market,{header},impressions,clicks\na,BR,{cells[0]},100,1\na,BR,{cells[1]},200,2\n"
    rows, refused, counts = imported(tmp_path, text)
    assert (rows, refused) == ([], [(0, reason), (1, reason)])
    assert counts["decisions"][0].startswith(header)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "cells"), [("Tag", ("v1", "v2")), ("Data", ("7", "8")), ("Date range", ("Last 30 days",) * 2)]
)
def test_columns_that_may_mean_something_else_stay_what_they_are(tmp_path: Path, header: str, cells: tuple[str, str]):
    text = f"creative_id,market,{header},impressions,clicks\na,BR,{cells[0]},100,1\na,BR,{cells[1]},200,2\n"
    assert counted(imported(tmp_path, text)[0], "period_start") == [("a", None, 300, 3)]


def test_days_of_the_week_are_no_dates(tmp_path: Path):
    text = "creative_id,market,Day,impressions,clicks\na,BR,Monday,100,1\na,BR,Tuesday,200,2\n"
    rows, refused, counts = imported(tmp_path, text)
    assert counted(rows, "period_start") == [("a", None, 300, 3)]
    assert refused == []
    assert "recognised" not in counts


# Totals


@pytest.mark.slow
@pytest.mark.parametrize(
    "word",
    [
        "Total", "All devices", "all", "(All)", "Summary", "Grand total", "Total: Devices", "合計", "Gesamt", "Totalt",
        "Yhteensä", "Ogółem", "Celkem", "Összesen", "I alt", "Totale", "Toplam", "Итого", "总计", "합계", "Totaal", "Suma total",
    ],
)  # fmt: skip
def test_a_total_beside_its_parts_is_refused(tmp_path: Path, word: str):
    text = DEVICES + f"a,Brazil,{word},2026-03-01,2026-03-31,10000,150\nc,Brazil,{word},2026-03-01,2026-03-31,700,7\n"
    rows, refused, _ = imported(tmp_path, text, DATED)
    assert refused == [(4, "total_row")]
    assert counted(rows, "device")[-1] == ("c", None, 700, 7)  # without parts it is the result
    assert sum(row["clicks"] for row in rows if row["creative_id"] == "a") == 150


def test_an_empty_column_of_another_stratum_hides_no_total(tmp_path: Path):
    text = "creative_id,market,device,audience,impressions,clicks\na,BR,x,,500,5\na,BR,y,,100,1\na,BR,All,,600,6\n"
    assert imported(tmp_path, text)[1] == [(2, "total_row")]


def test_a_total_of_a_longer_period_than_its_parts(tmp_path: Path):
    text = (
        "creative_id,market,device,period_start,period_end,impressions,clicks\n"
        "a,BR,All,2026-03-01,2026-03-02,300,3\na,BR,phone,2026-03-01,2026-03-01,100,1\na,BR,phone,2026-03-02,2026-03-02,200,2\n"
        "a,BR,All,2026-04-01,2026-04-02,50,5\n"
    )
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(0, "total_row")]
    assert counted(rows, "device") == [("a", "phone", 100, 1), ("a", "phone", 200, 2), ("a", None, 50, 5)]


def test_an_empty_stratum_that_is_the_sum_of_the_others_is_a_total(tmp_path: Path):
    text = DEVICES + "a,Brazil,,2026-03-01,2026-03-31,10000,150\nb,Brazil,,2026-03-01,2026-03-31,10000,120\n"
    assert imported(tmp_path, text, DATED)[1] == [(4, "total_row"), (5, "total_row")]


def test_an_empty_stratum_that_is_not_the_sum_is_a_part(tmp_path: Path):
    rows, refused, _ = imported(tmp_path, DEVICES + "a,Brazil,,2026-03-01,2026-03-31,40,1\n", DATED)
    assert refused == []
    assert counted(rows, "device")[:3] == [("a", None, 40, 1), ("a", "desktop", 1000, 60), ("a", "mobile", 9000, 90)]


def test_a_value_that_sums_up_the_others_throughout_is_a_total(tmp_path: Path):
    text = DEVICES + "a,Brazil,Tudo,2026-03-01,2026-03-31,10000,150\nb,Brazil,Tudo,2026-03-01,2026-03-31,10000,120\n"
    rows, refused, _ = imported(tmp_path, text, DATED)
    assert refused == [(4, "total_row"), (5, "total_row")]
    assert len(rows) == 4


def test_a_value_that_sums_up_the_others_once_is_none(tmp_path: Path):
    text = (
        "creative_id,market,device,impressions,clicks\na,BR,mobile,10000,100\na,BR,desktop,6000,60\na,BR,tablet,4000,40\n"
        "b,BR,mobile,9000,100\nb,BR,desktop,6000,60\nb,BR,tablet,4000,40\n"
    )
    assert imported(tmp_path, text)[1] == []


def test_totals_over_one_of_two_strata(tmp_path: Path):
    text = (
        "creative_id,market,Age,Gender,impressions,clicks\n"
        "a,BR,18,f,100,1\na,BR,18,m,200,2\na,BR,25,f,300,3\na,BR,25,m,400,4\n"
        "a,BR,18,All,300,3\na,BR,All,f,400,4\na,BR,All,All,1000,10\n"
    )
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(4, "total_row"), (5, "total_row"), (6, "total_row")]
    assert sum(row["impressions"] for row in rows) == 1000


def test_totals_in_other_columns(tmp_path: Path):
    text = (
        "creative_id,market,Hour,impressions,clicks\na,BR,8,100,1\na,BR,9,200,2\na,BR,All,300,3\n"
        "Total: Ads,--,,300,3\na,Total,,300,3\n"
    )
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(2, "total_row"), (3, "total_row"), (4, "total_row")]
    assert counted(rows) == [("a", 300, 3)]


def test_a_row_that_is_the_sum_of_its_key_is_a_total(tmp_path: Path):
    text = "creative_id,market,spend,impressions,clicks\na,BR,1,9000,90\na,BR,2,1000,60\na,BR,3,10000,150\n"
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(2, "total_row")]
    assert counted(rows) == [("a", 10000, 150)]


@pytest.mark.slow
@pytest.mark.parametrize("header", ["audience", "Campaign", "Ad set name"])
def test_what_people_call_all_is_a_total_where_its_counts_say_so(tmp_path: Path, header: str):
    head = f"creative_id,market,{header},impressions,clicks\n"
    text = head + "a,BR,All,5000,150\na,BR,Retargeting,1000,10\nb,BR,All,5000,100\nb,BR,Retargeting,1000,12\n"
    rows, refused, _ = imported(tmp_path, text)
    stratum = "audience" if header == "audience" else "ad_set"
    assert refused == []
    assert counted(rows, stratum) == [
        ("a", "All", 5000, 150), ("a", "Retargeting", 1000, 10), ("b", "All", 5000, 100), ("b", "Retargeting", 1000, 12),
    ]  # fmt: skip
    text = head + "a,BR,x,5000,150\na,BR,y,1000,10\na,BR,All,6000,160\nb,BR,x,4000,50\nb,BR,All,4000,50\n"
    rows, refused, _ = imported(tmp_path / "sums", text)
    assert refused == [(2, "total_row"), (4, "total_row")]
    assert counted(rows, stratum) == [("a", "x", 5000, 150), ("a", "y", 1000, 10), ("b", "x", 4000, 50)]


@pytest.mark.slow
@pytest.mark.parametrize("header", ["Gender", "device", "Objective"])
def test_a_word_of_totals_that_counts_less_than_its_parts_is_none(tmp_path: Path, header: str):
    text = f"creative_id,market,{header},impressions,clicks\na,BR,x,5000,150\na,BR,y,1000,10\na,BR,All,400,16\n"
    rows, refused, _ = imported(tmp_path, text)
    assert refused == []
    assert sum(row["impressions"] for row in rows) == 6400


def test_two_breakdowns_of_the_same_impressions(tmp_path: Path):
    text = (
        "creative_id,market,device,Gender,impressions,clicks\n"
        "a,BR,phone,,3000,30\na,BR,desktop,,2000,20\na,BR,,f,2900,31\na,BR,,m,2090,19\n"
        "b,BR,phone,,4000,60\nb,BR,desktop,,1000,10\nb,BR,,f,2500,40\nb,BR,,m,2500,30\n"
    )
    rows, refused, counts = imported(tmp_path, text)
    assert refused == [(row, "repeated_impressions") for row in (2, 3, 6, 7)]
    assert counted(rows, "device", "audience") == [
        ("a", "desktop", None, 2000, 20), ("a", "phone", None, 3000, 30), ("b", "desktop", None, 1000, 10),
        ("b", "phone", None, 4000, 60),
    ]  # fmt: skip
    assert counts["decisions"] == ["rows by Gender count again what those by device count: left out"]


def test_two_breakdowns_of_other_impressions_are_parts(tmp_path: Path):
    text = "creative_id,market,device,Gender,impressions,clicks\na,BR,phone,,3000,30\na,BR,desktop,,2000,20\na,BR,,f,700,7\n"
    rows, refused, _ = imported(tmp_path, text)
    assert (len(rows), refused) == (3, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("Income", ("120.5", "133.2")),
        ("Inventory", ("120", "133")),
        ("Age", ("12", "30")),
        ("income", ("$1,200", "$900")),
    ],
)
def test_measures_are_no_strata(tmp_path: Path, header: str, cells: tuple[str, str]):
    text = f'creative_id,market,{header},impressions,clicks\na,BR,"{cells[0]}",5000,50\nb,BR,"{cells[1]}",5000,70\n'
    rows, _, counts = imported(tmp_path, text)
    assert counted(rows, "audience", "placement") == [("a", None, None, 5000, 50), ("b", None, None, 5000, 70)]
    assert "recognised" not in counts
    assert counts["decisions"][0].startswith(f"{header} holds a number of its own")


def test_ages_in_numbers_are_strata(tmp_path: Path):
    text = "creative_id,market,Age,impressions,clicks\na,BR,18,100,1\na,BR,25,200,2\nb,BR,18,300,3\nb,BR,25,400,4\n"
    rows, _, counts = imported(tmp_path, text)
    assert [row["audience"] for row in rows] == ["18", "25", "18", "25"]
    assert counts["recognised"] == {"audience": ["Age"]}


@pytest.mark.slow
@pytest.mark.parametrize("header", ["Language", "Targeting"])
def test_a_setting_of_each_ad_compares_nothing(tmp_path: Path, header: str):
    text = f"creative_id,market,{header},impressions,clicks\na,BR,x,5000,50\nb,BR,y,5000,70\n"
    rows, _, counts = imported(tmp_path, text)
    assert [row.get("audience") for row in rows] == [None, None]
    assert counts["decisions"] == [
        f"{header} has a value of its own for each creative of a product: it is not used as a part of the showing (audience)"
    ]
    rows, _, counts = imported(tmp_path / "shared", text + "b,BR,x,100,1\n")
    assert [row["audience"] for row in rows] == ["x", "x", "y"]


def test_an_hour_that_is_the_sum_of_two_others_is_a_part(tmp_path: Path):
    text = (
        "creative_id,market,Day,Hour,impressions,clicks\na,BR,2026-03-01,8,9000,90\na,BR,2026-03-01,9,1000,60\n"
        "a,BR,2026-03-01,10,10000,150\n"
    )
    rows, refused, _ = imported(tmp_path, text)
    assert (counted(rows), refused) == ([("a", 20000, 300)], [])
    rows, refused, _ = imported(tmp_path / "two", text.replace(",10,", ",,"))
    assert (counted(rows), refused) == ([("a", 10000, 150)], [(2, "total_row")])


def test_words_of_totals():
    said = [
        "Total",
        "total: ads",
        "Total of 12 results",
        "Subtotal",
        "Sub-total",
        "All",
        "All devices",
        "全部",
        "Summary",
    ]
    names = ["Total Comfort - Autumn", "Allgäu", "All visitors", "Overall jeans", "mobile", "Summary judgement"]
    assert is_total(pd.Series([*said, *names], dtype="str")).tolist() == [True] * len(said) + [False] * len(names)
    assert plain(" Ad_Set-ID ") == "ad set id"


# What cannot be added


@pytest.mark.slow
@pytest.mark.parametrize("header", ["Conversion action", "click_type", "Asset", "Attribution setting"])
def test_rows_that_repeat_the_impressions_are_no_parts(tmp_path: Path, header: str):
    text = f"creative_id,market,{header},impressions,clicks\na,BR,x,100,1\na,BR,y,100,1\nb,BR,x,100,2\n"
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(0, "repeated_impressions"), (1, "repeated_impressions")]
    assert counted(rows) == [("b", 100, 2)]


def test_rates_are_not_added(tmp_path: Path):
    text = "creative_id,market,hour,rate\na,BR,8,0.01\na,BR,9,0.02\nb,BR,8,0.03\nb,BR,9,0.03\n"
    rows, refused, counts = imported(tmp_path, text)
    assert refused == [(0, "conflicting_value"), (1, "conflicting_value")]
    assert [(row["creative_id"], row["rate"]) for row in rows] == [("b", 0.03)]
    assert counts["dropped_by_reason"] == {"added_to_another_row": 1}


def test_orders_conversions_and_value_are_added(tmp_path: Path):
    text = (
        "creative_id,market,hour,impressions,clicks,conversions,value,orders\n"
        "a,BR,8,100,10,1.5,20.25,\na,BR,9,100,10,2,0,\nb,BR,8,100,10,,5,\nb,BR,9,100,10,2,5,\nc,BR,8,,,,,3\nc,BR,9,,,,,4\n"
    )
    rows, refused, _ = imported(tmp_path, text)
    assert refused == []
    kept = [{name: row[name] for name in VALUES if name in row} for row in rows]
    assert kept == [
        {"impressions": 200, "clicks": 20, "conversions": 3.5, "value": 20.25},
        {"impressions": 200, "clicks": 20, "value": 10.0},  # the conversions of one part are not known
        {"orders": 7.0},
    ]


def test_scores_are_pooled_as_if_from_all_ratings(tmp_path: Path):
    lines = ["a,BR,1,2,1,2", "a,BR,2,5,0,1", "b,BR,1,2,,", "b,BR,2,5,,", "c,BR,1,4,,", "c,BR,2,4,,"]
    text = "\n".join(["creative_id,market,panel,score,score_sd,score_n", *lines])
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(2, "conflicting_value"), (3, "conflicting_value")]
    a, c = rows
    # Ratings 2 -+ 1/sqrt(2) and 5: mean 3, sum of squares (n - 1) sd^2 = 1 and 2 * 1 + 1 * 4 between, so sd^2 = 7 / 2.
    assert (a["score"], a["score_n"], round(a["score_sd"] ** 2, 12)) == (3, 3, 3.5)
    assert (c["score"], c.get("score_n")) == (4, None)


def test_periods_overlap_within_a_stratum_only(tmp_path: Path):
    text = (
        "creative_id,market,device,period_start,period_end,impressions,clicks\n"
        "a,BR,phone,2026-03-01,2026-03-10,100,1\na,BR,tablet,2026-03-05,2026-03-15,100,1\na,BR,phone,2026-03-10,2026-03-20,100,1\n"
    )
    assert imported(tmp_path, text)[1] == [(2, "overlapping_period")]


# Values


def test_empty_clicks_beside_impressions(tmp_path: Path):
    text = "creative_id,market,impressions,clicks,conversions\na,BR,5000,60,\nb,BR,5200,,\n"
    rows, refused, counts = imported(tmp_path, text)
    assert (counted(rows), refused) == ([("a", 5000, 60)], [(1, "missing_value")])
    assert (
        notes(counts)[0] == "clicks empty in 1 rows: not known; where that means none, set source.empty_clicks to zero"
    )
    assert "source.empty_clicks" in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_empty_clicks_are_none_by_option(tmp_path: Path):
    text = (
        "creative_id,market,impressions,clicks,conversions,rate\na,BR,5000,60,,\nb,BR,5200,,,\nc,BR,5200,,,0.012\nc,KR,,,,0.012\n"
        "b,KR,,,,\n"
    )
    rows, refused, _ = imported(tmp_path, text, empty_clicks="zero")
    assert counted(rows, "market", "kind", "conversions") == [
        ("a", "BR", "counts", 0.0, 5000, 60), ("b", "BR", "counts", 0.0, 5200, 0), ("c", "BR", "rate", None, None, None),
        ("c", "KR", "rate", None, None, None),
    ]  # fmt: skip
    assert refused == [(4, "missing_value")]


def test_what_a_kind_does_not_use_costs_no_row(tmp_path: Path):
    text = (
        "creative_id,market,impressions,clicks,rate,score\na,DE,5000,50,1.0,\nb,DE,5000,60,1.2,inf\nc,DE,5000,70,n/a,\n"
    )
    rows, refused, counts = imported(tmp_path, text)
    assert refused == []
    assert [{name: row[name] for name in VALUES if name in row} for row in rows] == [
        {"impressions": 5000, "clicks": 50}, {"impressions": 5000, "clicks": 60}, {"impressions": 5000, "clicks": 70},
    ]  # fmt: skip
    assert counts["not_used"]["score"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("100,5,-1,", "negative_value"), ("100,5,,-0.5", "negative_value"), ("100,5,101,", "conversions_exceed_impressions"),
        ("100,5,many,", "wrong_type"), ("100,5,7,", None), ("100,5,12.50,3.99", None),
    ],
)  # fmt: skip
def test_conversions_and_value(tmp_path: Path, values: str, reason: str | None):
    refused = imported(tmp_path, f"creative_id,market,impressions,clicks,conversions,value\na,BR,{values}\n")[1]
    assert refused == ([(0, reason)] if reason else [])


# Delivery


def test_delivery_by_row_and_by_option(tmp_path: Path):
    text = (
        "creative_id,market,delivery,impressions,clicks\na,BR,A/B test,100,1\nb,BR,Rotate evenly,100,1\nc,BR,,100,1\n"
        "a,KR,optimized,100,1\nb,KR,active,100,1\n"
    )
    rows, refused, _ = imported(tmp_path, text, delivery="optimised")
    assert [row["delivery"] for row in rows] == ["randomised", "optimised", "rotated", "optimised"]
    assert refused == [(4, "unknown_delivery")]


def test_an_experiment_is_not_mixed_with_what_the_platform_chose(tmp_path: Path):
    text = "creative_id,market,hour,delivery,impressions,clicks\na,BR,8,randomised,100,1\na,BR,8,optimised,100,1\na,BR,9,,100,1\n"
    rows, _, _ = imported(tmp_path, text, delivery="randomised")
    assert [(row["delivery"], row["impressions"]) for row in rows] == [("optimised", 100), ("randomised", 200)]


# What the labels become


def winners(folder: Path) -> dict[str, tuple[str, float]]:
    """Market -> the creative that won and its pooled value."""
    records = build_records(Dataset.read(folder / "out"), RecordsConfig(label_kind="hard")).frame
    return {
        row["market"]: (row["creative_a"], row["value_a"]) if row["label"] == 1 else (row["creative_b"], row["value_b"])
        for row in records.to_dict("records")
    }


@pytest.mark.slow
@pytest.mark.parametrize("header", ["Device", "Hour of the day", "Impression device"])
def test_the_ad_with_more_clicks_over_all_rows_wins(tmp_path: Path, header: str):
    imported(tmp_path, DEVICES.replace("Device", header), DATED)
    assert winners(tmp_path) == {"BR": ("a", 0.015)}


def test_the_ad_without_clicks_loses(tmp_path: Path):
    text = "Ad ID,Country,Impressions,Link clicks\na,Brazil,5000,60\nb,Brazil,5200,\na,KR,4000,25\nb,KR,4100,33\n"
    columns = {**PLATFORM, "clicks": "Link clicks"}
    rows, refused, _ = imported(tmp_path, text, columns, empty_clicks="zero")
    assert refused == []
    assert counted(rows, "market") == [
        ("a", "BR", 5000, 60),
        ("a", "KR", 4000, 25),
        ("b", "BR", 5200, 0),
        ("b", "KR", 4100, 33),
    ]
    assert winners(tmp_path) == {"BR": ("a", 0.012), "KR": ("b", 33 / 4100)}


def test_a_rate_in_per_cent_beside_counts_decides_nothing(tmp_path: Path):
    imported(tmp_path, "creative_id,market,impressions,clicks,rate\na,DE,5000,50,1.0\nb,DE,5000,60,1.2\n")
    assert winners(tmp_path) == {"DE": ("b", 0.012)}


def test_empty_conversions_are_said(tmp_path: Path):
    _, _, counts = imported(tmp_path, "creative_id,market,impressions,clicks,conversions\na,DE,50,5,\nb,DE,50,5,1\n")
    assert notes(counts) == [
        "conversions empty in 1 rows: not known; where that means none, set source.empty_clicks to zero"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_other_formats_tell_parts_too(tmp_path: Path, ending: str):
    imported(tmp_path, "creative_id,market,impressions,clicks\n")
    frame = pd.DataFrame(
        {
            "creative_id": ["a", "a", "a", "b"],
            "market": "BR",
            "Device": pd.Series(["mobile", "desktop", "All", "mobile"], dtype="category"),
            "Date": pd.to_datetime(["2026-03-01"] * 4),
            "hour": [8, 8, None, 9],
            "impressions": [9000, 1000, 10000, 9500],
            "clicks": [90.0, 60.0, 150.0, None],
        }
    )
    path = tmp_path / f"observations.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.assign(Date="2026-03-01").to_json(path, orient="records", lines=True)
    config = ImportConfig(
        products=TableSource(path=str(tmp_path / "products.csv")),
        creatives=TableSource(path=str(tmp_path / "creatives.csv")),
        observations=TableSource(path=str(path)),
        images=ImagesConfig(root=str(tmp_path / "images")),
        empty_clicks="zero",
    )
    (tmp_path / ending).mkdir()
    counts = import_dataset(config, tmp_path / ending)["observations"]
    assert counts["quarantined_by_reason"] == {"total_row": 1}
    assert counts["recognised"] == {"device": ["Device"], "period": ["Date"]}
    rows = pq.read_table(tmp_path / ending / "observations.parquet").to_pylist()
    assert counted(rows, "device") == [("a", "desktop", 1000, 60), ("a", "mobile", 9000, 90), ("b", "mobile", 9500, 0)]


def test_a_pair_file_has_the_same_rules(tmp_path: Path):
    imported(tmp_path, "creative_id,market,impressions,clicks\n")
    (tmp_path / "pairs.csv").write_text(
        "product_id,image_a,image_b,market,Device,impressions_a,clicks_a,rate_a,impressions_b,clicks_b,rate_b\n"
        "mug,a.png,b.png,BR,mobile,9000,90,1.0,9500,,\nmug,a.png,b.png,BR,desktop,1000,60,6.0,500,6,1.2\n"
        "mug,a.png,b.png,BR,All devices,10000,150,1.5,10000,6,0.06\n"
    )
    empty = TableSource()
    config = ImportConfig(
        products=empty, creatives=empty, observations=empty, pairs=TableSource(path=str(tmp_path / "pairs.csv")),
        images=ImagesConfig(root=str(tmp_path / "images")), empty_clicks="zero", delivery="rotated",
    )  # fmt: skip
    (tmp_path / "pairs").mkdir()
    counts = import_dataset(config, tmp_path / "pairs")["pairs_file"]
    assert (counts["kept"], counts["quarantined_by_reason"]) == (2, {"total_row": 1})
    rows = pq.read_table(tmp_path / "pairs" / "observations.parquet").to_pylist()
    assert counted(rows, "device", "delivery") == [
        ("mug/a.png", "desktop", "rotated", 1000, 60), ("mug/a.png", "mobile", "rotated", 9000, 90),
        ("mug/b.png", "desktop", "rotated", 500, 6), ("mug/b.png", "mobile", "rotated", 9500, 0),
    ]  # fmt: skip


def test_a_row_that_was_loaded_twice_is_a_copy(tmp_path: Path):
    text = "creative_id,market,_fivetran_synced,impressions,clicks\na,BR,2026-04-01,90,9\na,BR,2026-04-02,90,9\n"
    rows, refused, _ = imported(tmp_path, text)
    assert (counted(rows), refused) == ([("a", 90, 9)], [(1, "duplicate_key")])
