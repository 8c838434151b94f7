"""Files as Excel, ad platforms and Macs write them: which line is the header, what a quotation mark is, which cells are empty."""

import io
import json
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from countryreward.data.data_config import ImagesConfig, ImportConfig, TableSource
from countryreward.data.decoding import ImageError
from countryreward.data.images import ImageSource, read_located
from countryreward.data.importers.import_dataset import import_dataset
from countryreward.data.importers.table_files import RawTable, read_table
from countryreward.errors import UserError

KNOWN = ("creative_id", "market", "period_start", "period_end", "impressions", "clicks", "orders", "rate", "source")


def read(path: Path, content: str | bytes, **options: Any) -> RawTable:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = TableSource(path=str(path), **options)
    return read_table(source, field="observations", known=KNOWN, required=("creative_id", "market"))


def rows(raw: RawTable) -> list[list[Any]]:
    return [[None if cell != cell else cell for cell in row] for row in raw.frame.to_numpy(dtype=object).tolist()]


def counts(raw: RawTable) -> list[Any]:
    return [raw.numbers(name).values.to_list() for name in ("impressions", "clicks")]


GOOD = [["a", "DE", "5000", "50"], ["b", "DE", "5000", "60"]]
PLAIN = "creative_id,market,impressions,clicks\na,DE,5000,50\nb,DE,5000,60\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", PLAIN),
        ("t.csv", "\n" + PLAIN),
        ("t.csv", "  \r\n\r\n" + PLAIN.replace("\n", "\r\n")),
        ("t.csv", "sep=,\n" + PLAIN),
        ("t.csv", '"sep=;"\r\n' + PLAIN.replace(",", ";")),
        ("t.csv", "sep=\t\n" + PLAIN.replace(",", "\t")),
        ("t.csv", PLAIN.replace(",", ";")),
        ("t.csv", PLAIN.replace(",", "|")),
        ("t.csv", PLAIN.replace(",", "\t")),
        ("t.csv", PLAIN.replace("\n", "\r")),
        ("t.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
        ("t.csv", PLAIN.replace(",", "\t").encode("utf-16")),
        ("t.csv", b"\xfe\xff" + PLAIN.encode("utf-16-be")),
        ("t.csv", 'Ad report\n"March 1, 2026 - March 31, 2026"\n' + PLAIN),
        ("t.csv", "Report;of;three;cells\nmarket: all\n\n" + PLAIN),
        ("t.tsv", PLAIN.replace(",", "\t")),
        ("t.tsv", PLAIN),
    ],
)
def test_the_header_is_found(tmp_path: Path, name: str, content: str | bytes):
    assert rows(read(tmp_path / name, content)) == GOOD


def test_a_header_after_a_number_of_lines(tmp_path: Path):
    raw = read(tmp_path / "t.csv", "creative_id,market\nold,XX\n" + PLAIN, skip_lines=2)
    assert rows(raw) == GOOD
    with pytest.raises(UserError, match=r"line 2 of .* is no header"):
        read(tmp_path / "t.csv", PLAIN, skip_lines=1)
    with pytest.raises(UserError, match=r"^skip_lines: -1 must be at least 0"):
        TableSource(skip_lines=-1)


def test_what_was_found_is_told(tmp_path: Path):
    raw = read(tmp_path / "t.csv", "Ad report\n" + PLAIN.replace(",", ";"))
    assert raw.decisions() == [
        "line 2 is the header; what stands before it is left out ('Ad report')",
        "cells are separated by semicolons",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ad report\nMarch\n1,2\n", r"line 1 of .* is no header \(Ad report\), nor is any other of its first 3 lines: "
         r"none has the columns creative_id, market; .*observations\.skip_lines"),
        ("\n\n", "is empty; export it again"),
        ("creative,market\n1,2\n", r"column 'creative_id' is not in .*which has creative, market; .*columns: \{creative_id:"),
        (PLAIN.encode("utf-16-le"), "has zero bytes"),
        ("creative_id,market\ncaf\u00e9,DE\n".encode("latin-1"), "is not UTF-8"),
        ('creative_id,market\na,"DE\nb,DE\nc,DE\n', r"cannot be read as CSV, from line 2 on .*quotes"),
        ('creative_id,market\na,DE\nb,"D"E\n', r"cannot be read as CSV, from line 3 on .*quotes"),
    ],
)  # fmt: skip
def test_files_without_a_table_are_one_line(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(UserError, match=message) as told:
        read(tmp_path / "t.csv", content)
    assert "\n" not in str(told.value)


def test_tabs_between_cells_make_quotes_characters(tmp_path: Path):
    lines = ["creative_id\tAd name\tmarket\timpressions\tclicks", 'a\t"Mug of the year\tBR\t5000\t90', "b\tMug\tDE\t5000\t60",
             'b\tMug 5"\tKR\t5000\t20']  # fmt: skip
    raw = read(tmp_path / "t.tsv", "\n".join(lines) + "\n")
    assert rows(raw) == [["a", "BR", "5000", "90"], ["b", "DE", "5000", "60"], ["b", "KR", "5000", "20"]]
    assert raw.other("Ad name").to_list() == ['"Mug of the year', "Mug", 'Mug 5"']
    # One line is short: reading with quotes would give three rows of the right width and swallow two.
    lines.insert(3, "c\tshort\tKR")
    raw = read(tmp_path / "t.tsv", "\n".join(lines) + "\n")
    assert raw.malformed.to_list()[2] == "c\tshort\tKR"
    assert len(raw.frame) == 4


def test_tabs_with_quotes_that_hold_cells_together(tmp_path: Path):
    raw = read(tmp_path / "t.tsv", '"creative_id"\t"market"\t"source"\n"a"\t"DE"\t"5"" mug"\n')
    assert rows(raw) == [["a", "DE", '5" mug']]
    raw = read(tmp_path / "t.tsv", 'creative_id\tmarket\tsource\na\tDE\t"two\nlines"\nb\tDE\t"a\ttab"\n')
    assert rows(raw) == [["a", "DE", "two\nlines"], ["b", "DE", "a\ttab"]]


def test_a_stray_quote_between_commas_swallows_no_row_in_silence(tmp_path: Path):
    content = 'creative_id,source,market,clicks\na,"Mug of the year,BR,90\nb,Mug,DE,60\nb,Mug 5",KR,20\nc,Mug,KR,3\n'
    raw = read(tmp_path / "t.csv", content)
    assert raw.malformed.notna().to_list() == [True, True, True, False]
    assert raw.malformed.iloc[1] == "b,Mug,DE,60"
    assert raw.frame["creative_id"].iloc[3] == "c"
    raw = read(tmp_path / "t.csv", 'creative_id,source,market,clicks\na,"two\nlines, here",BR,90\n')
    assert rows(raw) == [["a", "two\nlines, here", "BR", "90"]]


@pytest.mark.parametrize(
    "lines",
    [
        ['a1b,"big,US,5000,60', "9c,y,US,5000,70", 'd4,z",US,5000,80'],
        ['a1b,"big,US,5000,60', 'd4,z",US,5000,80'],
        ['a1b,"big,US,5000,60', 'd4, z",US,5000,80'],
        ['a1b,"big', "9c,y,US,5000,70", 'd4,z",US,5000,80'],
        ['a1b,"big,US,5000,60', "9c,y,US,5000,70", 'd4",US,5000,80'],
        ['a1b,x,US,5000,"60', "9c,y,US,5000,70", 'd4,z,US,5000,80"'],
    ],
)
def test_a_stray_quote_swallows_no_row_whatever_ids_look_like(tmp_path: Path, lines: list[str]):
    content = (
        "\n".join(["creative_id,note,market,impressions,clicks", "ab,x,US,5000,50", *lines, "e,w,US,5000,90"]) + "\n"
    )
    raw = read(tmp_path / "t.csv", content)
    assert raw.malformed.to_list()[1:-1] == lines
    assert (len(raw.frame), raw.frame["clicks"].iloc[0], raw.frame["clicks"].iloc[-1]) == (len(lines) + 2, "50", "90")


def test_quoted_texts_of_several_lines(tmp_path: Path):
    content = (
        'creative_id,market,source\na,DE,"nice\n\nmug"\nb,DE,"nice, blue, big\nred, green, small\nlast"\nc,DE,"x\ny"\n'
        'd,"DE, or\nsoft, a",x\n'
    )
    assert rows(read(tmp_path / "t.csv", content)) == [
        ["a", "DE", "nice\n\nmug"], ["b", "DE", "nice, blue, big\nred, green, small\nlast"], ["c", "DE", "x\ny"],
        ["d", "DE, or\nsoft, a", "x"],
    ]  # fmt: skip
    spaced = 'creative_id, market, source\na, DE, x\nb,"DE, x\nc, DE, y\nd, DE",z\n'  # rows, as in all of the file
    assert read(tmp_path / "t.csv", spaced).malformed.notna().to_list() == [False, True, True, True]


@pytest.mark.parametrize(("kind", "first"), [("float16", 2**11), ("float32", 2**24), ("float64", 2**53)])
def test_ids_that_were_floats_are_exact_below_a_power_of_two(tmp_path: Path, kind: str, first: int):
    ids = pa.array(np.array([first - 1, first, -first], kind))
    pq.write_table(pa.table({"creative_id": ids, "market": ["DE"] * 3}), tmp_path / "t.parquet")
    raw = read_table(
        TableSource(path=str(tmp_path / "t.parquet")),
        field="observations",
        known=KNOWN,
        required=("creative_id", "market"),
    )
    assert raw.frame["creative_id"].iloc[0] == str(first - 1)
    assert raw.lost_digits["creative_id"].to_list() == [False, True, True]


def test_a_long_cell_is_no_problem(tmp_path: Path):
    raw = read(tmp_path / "t.csv", f"creative_id,market,html\na,DE,{'<p>x</p>' * 50_000}\n")
    assert rows(raw) == [["a", "DE"]]
    assert raw.other("html").str.len().to_list() == [400_000]


def test_words_for_nothing(tmp_path: Path):
    words = ["", " ", "NaN", "nan", "NA", "N/A", "null", "None", "#N/A", "-", "--", "–"]
    lines = [f"NA,NA,{word},{word}" for word in words]
    raw = read(tmp_path / "t.csv", "creative_id,market,clicks,source\n" + "\n".join(lines) + "\n")
    assert rows(raw) == [["NA", "NA", None, None]] * len(words)
    raw = read(tmp_path / "t.csv", "creative_id,market,source\nx,DE,(not set)\n(Not set),DE,y\n", missing=["(not set)"])
    assert rows(raw) == [["x", "DE", None], [None, "DE", "y"]]


def test_nan_of_json_and_parquet_is_nothing(tmp_path: Path):
    raw = read(
        tmp_path / "t.jsonl", '{"creative_id": 120210000000012345, "market": "NA", "clicks": NaN, "source": NaN}\n'
    )
    assert rows(raw) == [["120210000000012345", "NA", None, None]]
    table = pa.table(
        {
            "creative_id": [1.0, 1.2e17],
            "market": ["NA", "DE"],
            "clicks": [float("nan"), 2.0],
            "source": [float("nan"), 1.5],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    raw = read_table(TableSource(path=str(tmp_path / "t.parquet")), field="observations", known=KNOWN, required=())
    assert rows(raw)[0] == ["1", "NA", None, None]
    assert raw.numbers("clicks").values.to_list()[1] == 2
    assert raw.lost_digits["creative_id"].to_list() == [False, True]
    raw = read(tmp_path / "t.jsonl", '{"creative_id": 1.2e17, "market": "DE"}\n{"creative_id": "x", "market": "DE"}\n')
    assert raw.lost_digits["creative_id"].to_list() == [True, False]


def test_typed_numbers_need_no_mark(tmp_path: Path):
    raw = read(
        tmp_path / "t.jsonl",
        '{"creative_id": "a", "market": "DE", "orders": 1.125}\n{"market": "DE", "orders": 2.375}\n',
    )
    assert raw.numbers("orders").values.to_list() == [1.125, 2.375]
    raw = read(tmp_path / "t.jsonl", '{"creative_id": "a", "market": "DE", "orders": "1.125"}\n')
    assert list(raw.numbers("orders").refused) == ["ambiguous_number"]
    assert raw.decisions() == [
        "orders is refused: '1.125' can be 1.125 or 1125, and no cell decides it; "
        "set observations.decimal to point (1.125) or comma (1125)"
    ]


def test_text_is_composed_where_it_enters(tmp_path: Path):
    decomposed = unicodedata.normalize("NFD", "größe")
    raw = read(tmp_path / "t.csv", f"{decomposed},market\n{decomposed},DE\n", columns={"creative_id": "größe"})
    assert rows(raw) == [["größe", "DE"]] or rows(raw) == [["DE", "größe"]]
    raw = read(
        tmp_path / "t.csv",
        "größe,market\nx,DE\n",
        columns={"creative_id": decomposed},
        constants={"source": decomposed},
    )
    assert raw.frame["source"].to_list() == ["größe"]


# The cases that public reports describe, as whole imports.


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def imported(
    folder: Path,
    observations: str,
    *,
    name: str = "observations.csv",
    creatives: str = "",
    products: str = "",
    **options: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Counts of the observations, the observations kept, and the refusals."""
    (folder / "images").mkdir(exist_ok=True)
    for place in range(3):
        (folder / "images" / f"a{place}.png").write_bytes(png(place))
    files = {
        "products.csv": products or "product_id,title\nmug,Alder mug\n",
        "creatives.csv": creatives or "creative_id,product_id,image_uri\na,mug,a0.png\nb,mug,a1.png\nc,mug,a2.png\n",
        name: observations,
    }
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")
    config = ImportConfig(
        products=TableSource(path=str(folder / "products.csv")),
        creatives=TableSource(path=str(folder / "creatives.csv")),
        observations=TableSource(path=str(folder / name), **options),
        images=ImagesConfig(root=str(folder / "images"), workers=1),
    )
    (folder / "out").mkdir()
    counted = import_dataset(config, folder / "out")
    kept = pq.read_table(folder / "out" / "observations.parquet").to_pylist()
    refused = [json.loads(line) for line in (folder / "out" / "quarantine.jsonl").read_text().splitlines()]
    return counted["observations"], kept, refused


def test_case_dot_thousands_orders(tmp_path: Path):
    _, kept, _ = imported(tmp_path, "creative_id,market,orders\na,DE,1.240\nb,DE,985\na,BR,2.010\nb,BR,1.870\n")
    assert sorted((row["creative_id"], row["market"], row["orders"]) for row in kept) == [
        ("a", "BR", 2010), ("a", "DE", 1240), ("b", "BR", 1870), ("b", "DE", 985),
    ]  # fmt: skip


def test_case_excel_ids(tmp_path: Path):
    counted, kept, refused = imported(
        tmp_path,
        "creative_id,market,period_start,period_end,impressions,clicks\n1.20E+17,DE,2026-03-01,2026-03-15,5000,20\n"
        "1.20E+17,DE,2026-03-16,2026-03-31,5000,200\n1.21E+17,DE,2026-03-01,2026-03-31,5000,75\n",
        creatives="creative_id,product_id,image_uri\n1.20E+17,mug,a0.png\n1.20E+17,mug,a1.png\n1.21E+17,mug,a2.png\n",
    )
    assert (counted["input"], kept) == (3, [])
    assert counted["quarantined_by_reason"] == {"lost_digits": 3}
    assert {(row["table"], row["reason"], row["field"]) for row in refused} == {
        ("creatives", "lost_digits", "creative_id"), ("observations", "lost_digits", "creative_id"),
    }  # fmt: skip
    assert "export the column as text" in refused[0]["way_out"]


def test_case_google_ads_export(tmp_path: Path):
    content = (
        'Ad report\n"March 1, 2026 - March 31, 2026"\nAd ID,Country/Territory (User location),Impr.,Clicks,CTR\n'
        'a,Brazil,"12,310",211,1.71%\nb,Brazil,"11,870",168,1.42%\na,South Korea,940,12,1.28%\nb,South Korea,988,9,0.91%\n'
        'Total: Ads, --,"26,108",400,1.53%\n'
    )
    columns = {
        "creative_id": "Ad ID",
        "market": "Country/Territory (User location)",
        "impressions": "Impr.",
        "clicks": "Clicks",
    }
    counted, kept, refused = imported(tmp_path, content, columns=columns)
    assert (counted["input"], counted["kept"]) == (5, 4)
    assert [(row["row"], row["reason"]) for row in refused] == [(4, "total_row")]
    assert {(row["creative_id"], row["market"]): row["clicks"] / row["impressions"] for row in kept} == {
        ("a", "BR"): pytest.approx(0.01714, abs=1e-5), ("b", "BR"): pytest.approx(0.01415, abs=1e-5),
        ("a", "KR"): 12 / 940, ("b", "KR"): 9 / 988,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("creatives", "observations", "kept_ids"),
    [
        (["1.0", "2.0", "2.1"], ["1.0", "2.0"], ["1.0", "2.0"]),
        (["1.0", "2.0"], ["1.0", "2.0", "2.1"], ["1", "2"]),
        (["1.0", "2.0"], ["1.0", "2.0"], ["1", "2"]),
        (["1.0", "2.0"], ["1", "2"], ["1", "2"]),
        (["1.0", "1", "2.0"], ["1.0", "2.0"], ["1.0", "2.0"]),
    ],
)
def test_ids_with_a_point_are_those_of_the_other_table(
    tmp_path: Path, creatives: list[str], observations: list[str], kept_ids: list[str]
):
    ads = "creative_id,product_id,image_uri\n" + "".join(
        f"{ad},mug,a{place}.png\n" for place, ad in enumerate(creatives)
    )
    content = "creative_id,market,impressions,clicks\n" + "".join(f"{ad},DE,5000,50\n" for ad in observations)
    _, kept, _ = imported(tmp_path, content, creatives=ads)
    assert sorted(row["creative_id"] for row in kept) == kept_ids


def test_case_tsv_quote_rows_lost(tmp_path: Path):
    lines = [
        "creative_id\tAd name\tmarket\timpressions\tclicks", "a\tMug plain\tDE\t5000\t50", 'a\t"Mug of the year\tBR\t5000\t90',
        "b\tMug\tDE\t5000\t60", "b\tMug\tBR\t5000\t40", "a\tMug\tKR\t5000\t40", 'b\tMug 5"\tKR\t5000\t20', "a\tM\tUS\t5000\t30",
        "b\tM\tUS\t5000\t40",
    ]  # fmt: skip
    counted, kept, _ = imported(tmp_path, "\n".join(lines) + "\n", name="observations.tsv")
    assert (counted["input"], counted["kept"]) == (8, 8)
    assert sorted((row["market"], row["creative_id"], row["clicks"]) for row in kept) == [
        ("BR", "a", 90), ("BR", "b", 40), ("DE", "a", 50), ("DE", "b", 60), ("KR", "a", 40), ("KR", "b", 20), ("US", "a", 30),
        ("US", "b", 40),
    ]  # fmt: skip


def test_case_rate_in_percent(tmp_path: Path):
    _, kept, _ = imported(tmp_path, "creative_id,market,rate\na,DE,0.85\nb,DE,0.62\nc,DE,1.31\n")
    assert [row["rate"] for row in kept] == pytest.approx([0.0085, 0.0062, 0.0131])


def test_case_percent_rate_beside_counts(tmp_path: Path):
    counted, kept, _ = imported(
        tmp_path, "creative_id,market,impressions,clicks,rate\na,DE,5000,50,1.0\nb,DE,5000,60,1.2\n"
    )
    assert counted["kept"] == 2
    assert [(row["kind"], row["impressions"], row["clicks"]) for row in kept] == [
        ("counts", 5000, 50),
        ("counts", 5000, 60),
    ]


def test_case_nan_text(tmp_path: Path):
    (tmp_path / "products.jsonl").write_text('{"product_id":"mug","title":NaN,"category":NaN,"tags":NaN}\n')
    raw = read_table(
        TableSource(path=str(tmp_path / "products.jsonl")), field="products", known=("product_id", "title", "category", "tags"),
        required=("product_id", "title"),
    )  # fmt: skip
    assert rows(raw) == [["mug", None, None, None]]


# Names of files.


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_case_nfd_filename(tmp_path: Path, on_disk: Any, asked: Any):
    names = ["머그.png", "Größe/fjörd.png"]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for place, name in enumerate(names):
            spelled = unicodedata.normalize(on_disk, name)
            (tmp_path / "images" / spelled).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / spelled).write_bytes(png(place))
            archive.writestr(f"images/{spelled}", png(place))
    for root in ("images", "images.zip"):
        source = ImageSource(ImagesConfig(root=str(tmp_path / root)))
        for place, name in enumerate(names):
            uri = unicodedata.normalize(asked, name)
            assert source.read(uri) == png(place)
            assert source.state(uri) != "missing"
            assert read_located(source.locate(uri), max_bytes=2**20) == png(place)


def test_two_files_that_differ_in_their_form_alone_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for place, form in enumerate(("NFC", "NFD")):
            name = unicodedata.normalize(form, "ö.png")  # type: ignore[arg-type]
            (tmp_path / name).write_bytes(png(place))
            archive.writestr(name, png(place))
    for root in (tmp_path, tmp_path / "images.zip"):
        with pytest.raises(ImageError) as caught:
            ImageSource(ImagesConfig(root=str(root))).read("ö.png")
        assert caught.value.reason == "missing_image"
        assert caught.value.field_value == "ö.png: two files have this name, in different Unicode forms"


def test_a_link_of_another_form_leads_nowhere_outside(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(png(0))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / unicodedata.normalize("NFD", "ö.png")).symlink_to(tmp_path / "secret.png")
    with pytest.raises(ImageError) as caught:
        ImageSource(ImagesConfig(root=str(tmp_path / "images"))).read("ö.png")
    assert caught.value.reason == "forbidden_uri"


def test_a_zip_of_a_mac_names_its_members_in_utf_8_without_saying_so(tmp_path: Path):
    name = unicodedata.normalize("NFD", "머그.png")
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, png(0))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # clear the flag that says UTF-8
        at = data.index(signature) + offset
        flags = int.from_bytes(data[at : at + 2], "little") & ~0x800
        data[at : at + 2] = flags.to_bytes(2, "little")
    path.write_bytes(bytes(data))
    assert ImageSource(ImagesConfig(root=str(path))).read("머그.png") == png(0)


def test_a_column_that_cannot_be_decided_and_is_not_needed_costs_nothing_and_is_not_told(tmp_path: Path):
    content = "creative_id,market,impressions,clicks,rate,score\na,DE,5000,50,7,4.125\nb,DE,5000,60,0.02,3.875\n"
    counted, kept, refused = imported(tmp_path, content)
    assert (len(kept), refused) == (2, [])
    assert counted["decisions"] == ["score: '4.125' is read as 4.125"]  # the mark that the rate shows
