"""Importers: exactly the bad rows are quarantined, the job goes on, and the format of the file does not matter."""

import csv
import io
import json
import os
import time
import zipfile
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from countryreward.data import tables
from countryreward.data.creative_identity import copy_hash
from countryreward.data.data_config import ImagesConfig, ImportConfig, TableSource
from countryreward.data.decoding import ImageError, inspect
from countryreward.data.images import ImageTable
from countryreward.data.importers.import_dataset import import_dataset
from countryreward.errors import UserError

DATA = Path(os.environ.get("COUNTRYREWARD_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
MARKETS = ["BR", "Chile", "es", "FRA", "Korea", "JP", "USA", "mx", "AU", "Saudi Arabia"]
Row = dict[str, Any]


def png(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_csv(path: Path, rows: list[Row], delimiter: str = ",") -> TableSource:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter=delimiter)
        writer.writerow(names)
        for row in rows:
            extra = row.get("", [])  # cells beyond the header
            cells = [row.get(name) for name in names if name]
            cells = [json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in cells]
            writer.writerow(cells + extra)
    text = path.read_text(encoding="utf-8")
    if "" in names:  # the pseudo column of the extra cells is no column
        head, _, rest = text.partition("\n")
        header = [name for name in head.rstrip("\r").split(delimiter) if name and name != '""']
        path.write_text(delimiter.join(header) + "\n" + rest, encoding="utf-8")
    return TableSource(path=str(path))


def make_config(
    folder: Path, products: list[Row], creatives: list[Row], observations: list[Row], **images: Any
) -> ImportConfig:
    return ImportConfig(
        products=write_csv(folder / "products.csv", products),
        creatives=write_csv(folder / "creatives.csv", creatives),
        observations=write_csv(folder / "observations.csv", observations),
        images=ImagesConfig(**{"root": str(folder / "images"), "workers": 2, **images}),
    )


def run(config: ImportConfig, out: Path) -> tuple[dict[str, Any], list[Row]]:
    out.mkdir()
    counts = import_dataset(config, out)
    for table in counts.values():
        assert table["input"] == table["kept"] + table["dropped"] + table["quarantined"]
        assert sum(table["quarantined_by_reason"].values()) == table["quarantined"]
    return counts, [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def observation(creative: str, market: str, week: int, **values: Any) -> Row:
    start = date(2024, 1, 1) + timedelta(weeks=week)
    return {
        "creative_id": creative, "market": market, "period_start": start.isoformat(),
        "period_end": (start + timedelta(days=6)).isoformat(), "kind": "", "impressions": 1000, "clicks": 16,
        "rate": "", "orders": "", "score": "", "score_sd": "", "score_n": "", "prompt": "", **values,
    }  # fmt: skip


# What makes a good observation bad, and the reason it must be given.
BAD: list[tuple[Row, str]] = [
    ({"creative_id": ""}, "missing_value"),
    ({"market": " "}, "missing_value"),
    ({"clicks": ""}, "missing_value"),
    ({"impressions": "", "clicks": ""}, "missing_value"),
    ({"kind": "orders"}, "missing_value"),
    ({"period_end": ""}, "missing_value"),
    ({"period_start": ""}, "missing_value"),
    ({"impressions": "many"}, "wrong_type"),
    ({"impressions": "1 0"}, "wrong_type"),
    ({"clicks": "16.5"}, "wrong_type"),
    ({"clicks": "True"}, "wrong_type"),
    ({"impressions": "99999999999999999999"}, "wrong_type"),
    ({"kind": "rate", "rate": "high"}, "wrong_type"),
    ({"clicks": "NaN"}, "missing_value"),
    ({"kind": "rate", "rate": "inf"}, "not_a_number"),
    ({"kind": "score", "score": "-Infinity"}, "not_a_number"),
    ({"kind": "orders", "orders": "1e999"}, "not_a_number"),
    ({"clicks": -1}, "negative_value"),
    ({"kind": "rate", "rate": "-0.01"}, "negative_value"),
    ({"kind": "score", "score": 1, "score_sd": -1}, "negative_value"),
    ({"impressions": 0, "clicks": 0}, "zero_impressions"),
    ({"clicks": 1001}, "clicks_exceed_impressions"),
    ({"kind": "rate", "rate": 160}, "rate_above_one"),
    ({"creative_id": "nobody"}, "unknown_creative"),
    ({"creative_id": "truncated"}, "unknown_creative"),
    ({"creative_id": "orphan"}, "unknown_creative"),
    ({"market": "Atlantis"}, "unknown_market"),
    ({"market": "nan"}, "unknown_market"),
    ({"market": "US", "prompt": "For Korean market, based on the French press"}, "market_mismatch"),
    ({"market": "US", "prompt": "Brazilian"}, "market_mismatch"),
    ({"kind": "vibes"}, "unknown_kind"),
    ({"period_start": "2024-02-30"}, "bad_date"),
    ({"period_end": "01/02/2024"}, "ambiguous_date"),
    ({"period_start": "2999-01-01"}, "period_reversed"),
    ({"": ["one cell too many"]}, "malformed_row"),
]


@pytest.fixture
def shop(tmp_path: Path) -> tuple[list[Row], list[Row]]:
    """45 good products with 2 good creatives each, and a bad row for every reason a product or creative can have."""
    images = tmp_path / "images"
    images.mkdir()
    products: list[Row] = [{"product_id": f"p{i}", "title": f"Süßes № {i}", "category": "tea"} for i in range(45)]
    creatives: list[Row] = []
    for i in range(90):
        (images / f"{i}.png").write_bytes(png(i))
        creatives.append({"creative_id": f"c{i}", "product_id": f"p{i // 2}", "image_uri": f"{i}.png"})
    products += [
        {"product_id": "", "title": "no id"},
        {"product_id": "untitled", "title": ""},
        {"product_id": "p3", "title": "again"},
    ]
    (images / "truncated.png").write_bytes(png(1000, (64, 64))[:2000])
    (images / "large.png").write_bytes(png(1001, (300, 300)))
    (images / "bomb.png").write_bytes(png(1002)[:16] + b"\0\0\xff\xff\0\0\xff\xff" + png(1002)[24:])
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "GIF")
    (images / "moving.gif").write_bytes(buffer.getvalue())
    creatives += [
        {"creative_id": "", "product_id": "p0", "image_uri": "0.png"},
        {"creative_id": "x1", "product_id": "", "image_uri": "0.png"},
        {"creative_id": "x2", "product_id": "p0", "image_uri": ""},
        {"creative_id": "orphan", "product_id": "untitled", "image_uri": "0.png"},
        {"creative_id": "c7", "product_id": "p0", "image_uri": "0.png"},
        {"creative_id": "truncated", "product_id": "p0", "image_uri": "truncated.png"},
        {"creative_id": "x3", "product_id": "p0", "image_uri": "large.png"},
        {"creative_id": "x4", "product_id": "p0", "image_uri": "bomb.png"},
        {"creative_id": "x5", "product_id": "p0", "image_uri": "moving.gif"},
        {"creative_id": "x6", "product_id": "p0", "image_uri": "../products.csv"},
        {"creative_id": "x7", "product_id": "p0", "image_uri": "https://example.com/0.png"},
        {"creative_id": "x8", "product_id": "p0", "image_uri": "none.png"},
    ]
    return products, creatives


def test_1000_planted_bad_rows_of_10000(tmp_path: Path, shop: tuple[list[Row], list[Row]]) -> None:
    random = np.random.default_rng(7)
    good = [observation(f"c{i % 90}", MARKETS[i // 90 % 10], i // 900) for i in range(9000)]
    keyed: list[tuple[float, Row, str]] = [(float(i), row, "") for i, row in enumerate(good)]
    for i in range(900):
        change, reason = BAD[i % len(BAD)]
        keyed.append(
            (random.uniform(0, 9000), {**observation(f"c{i % 90}", MARKETS[i // 90], 100 + i), **change}, reason)
        )
    for i in range(50):  # these come after the row that they repeat
        keyed.append((random.uniform(4500, 9000), dict(good[i * 7]), "duplicate_key"))
        start = date.fromisoformat(good[i * 7 + 1]["period_start"]) + timedelta(days=3)
        overlap = {**good[i * 7 + 1], "period_start": start.isoformat()}
        keyed.append((random.uniform(4500, 9000), overlap, "overlapping_period"))
    keyed.sort(key=lambda entry: entry[0])
    planted = {row: reason for row, (_, _, reason) in enumerate(keyed) if reason}
    assert (len(keyed), len(planted)) == (10_000, 1_000)

    config = make_config(tmp_path, *shop, [row for _, row, _ in keyed], max_bytes=100_000)
    counts, quarantine = run(config, tmp_path / "out")

    refused = {entry["row"]: entry["reason"] for entry in quarantine if entry["table"] == "observations"}
    assert refused == planted
    assert counts["observations"]["quarantined_by_reason"] == dict(Counter(planted.values()).most_common())
    parts = ("input", "kept", "dropped", "quarantined")
    assert [counts["observations"][name] for name in parts] == [10_000, 9_000, 0, 1_000]
    assert counts["products"] == {
        "input": 48, "kept": 45, "dropped": 0, "quarantined": 3,
        "quarantined_by_reason": {"missing_value": 2, "duplicate_key": 1},
    }  # fmt: skip
    assert counts["creatives"] == {
        "input": 102, "kept": 90, "dropped": 0, "quarantined": 12,
        "quarantined_by_reason": {
            "missing_value": 3, "forbidden_uri": 2, "unknown_product": 1, "duplicate_key": 1, "image_too_large": 1,
            "missing_image": 1, "pixel_bomb": 1, "undecodable_image": 1, "unsupported_format": 1,
        },
    }  # fmt: skip
    assert all(entry["way_out"] and entry["field"] and entry["content"] for entry in quarantine)

    observations = pq.read_table(tmp_path / "out" / "observations.parquet")
    assert observations.schema.equals(tables.OBSERVATIONS)
    assert set(observations["market"].to_pylist()) == {"BR", "CL", "ES", "FR", "KR", "JP", "US", "MX", "AU", "SA"}
    assert set(observations["kind"].to_pylist()) == {"counts"}
    images = ImageTable(tmp_path / "out")
    creatives = pq.read_table(tmp_path / "out" / "creatives.parquet").to_pylist()
    assert [row["creative_id"] for row in creatives] == sorted(f"c{i}" for i in range(90))
    assert all(images.bytes_of(row["content_hash"]) == png(int(row["creative_id"][1:])) for row in creatives)


@pytest.mark.slow
def test_96000_observations_with_4800_bad_ones(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(0))
    creatives = [{"creative_id": f"c{i}", "product_id": "p", "image_uri": "0.png"} for i in range(800)]
    rows = [observation(f"c{i % 800}", MARKETS[i // 800 % 10], i // 8000) for i in range(96_000)]
    for row in rows[::20]:
        row["clicks"] = "bad"
    config = make_config(tmp_path, [{"product_id": "p", "title": "P"}], creatives, rows)
    counts, _ = run(config, tmp_path / "out")
    assert (counts["observations"]["kept"], counts["observations"]["quarantined"]) == (91_200, 4_800)


def small(tmp_path: Path) -> tuple[list[Row], list[Row], list[Row]]:
    (tmp_path / "images").mkdir()
    for i in range(4):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(i))
    products: list[Row] = [
        {
            "product_id": "1",
            "title": "Tea, “green”",
            "attributes": {"color": "red", "size": 2},
            "tags": ["a", "b"],
            "attribute:m": "x",
        },
        {"product_id": "2", "title": "Café\nau lait", "attributes": None, "tags": None, "attribute:m": None},
    ]
    creatives: list[Row] = [
        {"creative_id": f"{i}", "product_id": str(i // 2 + 1), "image_uri": f"{i}.png"} for i in range(4)
    ]
    observations: list[Row] = [
        {
            "creative_id": "3",
            "market": "KR",
            "rate": 0.1 + 0.2,
            "score": None,
            "score_n": None,
            "impressions": None,
            "clicks": None,
        },
        {
            "creative_id": "0",
            "market": "KR",
            "rate": None,
            "score": -1.5,
            "score_n": 7,
            "impressions": None,
            "clicks": None,
        },
        {
            "creative_id": "1",
            "market": "NA",
            "rate": None,
            "score": None,
            "score_n": None,
            "impressions": 123456789,
            "clicks": 5,
        },
        {
            "creative_id": "1",
            "market": "NA",
            "rate": None,
            "score": 2.0,
            "score_n": None,
            "impressions": None,
            "clicks": None,
        },
        {
            "creative_id": "2",
            "market": "US",
            "rate": 1.25,
            "score": None,
            "score_n": None,
            "impressions": None,
            "clicks": None,
        },
    ]
    return products, creatives, observations


def test_csv_tsv_parquet_and_jsonl_give_the_same_bytes(tmp_path: Path) -> None:
    tables_of_rows = dict(zip(("products", "creatives", "observations"), small(tmp_path), strict=True))
    outputs: dict[str, dict[str, bytes]] = {}
    for ending in ("csv", "tsv", "parquet", "jsonl"):
        sources = {}
        for name, rows in tables_of_rows.items():
            path = tmp_path / f"{name}.{ending}"
            if ending == "parquet":
                pq.write_table(pa.Table.from_pylist(rows), path)
            elif ending == "jsonl":
                path.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            else:
                write_csv(path, rows, "\t" if ending == "tsv" else ",")
                path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
            sources[name] = TableSource(path=str(path), rates="share")
        config = ImportConfig(**sources, images=ImagesConfig(root=str(tmp_path / "images")))
        counts, _ = run(config, tmp_path / ending)
        assert counts["observations"]["quarantined_by_reason"] == {"rate_above_one": 1}
        outputs[ending] = {
            path.relative_to(tmp_path / ending).as_posix(): path.read_bytes()
            for path in sorted((tmp_path / ending).rglob("*.parquet"))
        }
    assert list(outputs["csv"]) == [
        "creatives.parquet",
        "images/part-00000.parquet",
        "observations.parquet",
        "products.parquet",
    ]
    assert outputs["csv"] == outputs["tsv"] == outputs["jsonl"] == outputs["parquet"]
    products = pq.read_table(tmp_path / "csv" / "products.parquet").to_pylist()
    assert products[0]["attributes"] == [("color", "red"), ("size", "2"), ("m", "x")]
    assert products[0]["tags"] == ["a", "b"]
    assert products[1] == {
        "product_id": "2", "title": "Café\nau lait", "category": None, "attributes": [], "tags": [], "seller": None,
    }  # fmt: skip
    observations = pq.read_table(tmp_path / "csv" / "observations.parquet").to_pylist()
    assert [(row["creative_id"], row["kind"]) for row in observations] == [
        ("0", "score"),
        ("1", "counts"),
        ("1", "score"),
        ("3", "rate"),
    ]
    assert observations[3]["rate"] == 0.1 + 0.2


@pytest.mark.slow
def test_image_bytes_zip_and_reference_give_the_same_images(tmp_path: Path) -> None:
    products, creatives, observations = small(tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in range(4):
            archive.writestr(f"images/{i}.png", png(i))
    config = make_config(tmp_path, products, creatives, observations)
    with_bytes = [
        {"creative_id": row["creative_id"], "product_id": row["product_id"], "image_bytes": png(i)}
        for i, row in enumerate(creatives)
    ]
    with_bytes += [
        {"creative_id": "empty", "product_id": "1", "image_bytes": None},
        {"creative_id": "bad", "product_id": "1", "image_bytes": b"x"},
    ]
    pq.write_table(pa.Table.from_pylist(with_bytes), tmp_path / "creatives.parquet")
    variants = {
        "folder": config,
        "zip": ImportConfig(**{**vars(config), "images": ImagesConfig(root=str(tmp_path / "images.zip"))}),
        "reference": ImportConfig(
            **{**vars(config), "images": ImagesConfig(root=str(tmp_path / "images"), store="reference")}
        ),
        "bytes": ImportConfig(**{**vars(config), "creatives": TableSource(path=str(tmp_path / "creatives.parquet"))}),
    }
    for name, variant in variants.items():
        counts, _ = run(variant, tmp_path / name)
        assert counts["creatives"]["kept"] == 4
        images = ImageTable(tmp_path / name)
        rows = pq.read_table(tmp_path / name / "creatives.parquet").to_pylist()
        assert [images.bytes_of(row["content_hash"]) for row in rows] == [png(i) for i in range(4)]
        stored = pq.read_table(tmp_path / name / "images")
        assert stored["bytes"].null_count == (4 if name == "reference" else 0)
        assert stored["uri"].null_count == (0 if name == "reference" else 4)
    assert counts["creatives"]["quarantined_by_reason"] == {"missing_value": 1, "undecodable_image": 1}
    with pytest.raises(UserError, match=r"images\.store: 'reference' needs"):
        import_dataset(
            ImportConfig(**{**vars(variants["bytes"]), "images": ImagesConfig(store="reference")}), tmp_path / "bytes"
        )


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        (
            b"product_id,name\n1,x\n",
            {},
            r"products: column 'title' is not in .*which has product_id, name; .*products\.columns: \{title:",
        ),
        (
            b"product_id,title\n1,x\n",
            {"columns": {"titel": "title"}},
            r"products\.columns: 'titel' is not a column of ours",
        ),
        (b"product_id,title\n1,x\n", {"columns": {"seller": "shop"}}, r"column 'shop' is not in"),
        (b"product_id,title\n1,x\n", {"constants": {"colour": "x"}}, r"products\.constants: 'colour'"),
        (b"product_id,title,title\n1,x,y\n", {}, "stands twice"),
        (b"product_id,title\n1,caf\xe9\n", {}, "is not UTF-8"),
        (b"", {}, "is empty"),
    ],
)
def test_broken_files_are_user_errors(tmp_path: Path, text: bytes, source: Row, message: str) -> None:
    config = make_config(tmp_path, [{}], [{}], [{}])
    (tmp_path / "products.csv").write_bytes(text)
    config.products = TableSource(path=str(tmp_path / "products.csv"), **source)
    with pytest.raises(UserError, match=message):
        import_dataset(config, tmp_path)


def test_missing_and_unknown_files_are_user_errors(tmp_path: Path) -> None:
    config = make_config(tmp_path, [{}], [{}], [{}])
    config.products = TableSource(path=str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match=r"products\.path: .*none\.csv' cannot be opened"):
        import_dataset(config, tmp_path)
    config.products = TableSource(path=str(tmp_path / "none.xlsx"))
    with pytest.raises(UserError, match=r"products\.path: .*ends in none of"):
        import_dataset(config, tmp_path)


def test_columns_constants_aliases_and_text_attributes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(0))
    products: list[Row] = [
        {"sku": "p", "name": "P", "attributes": "color=red; size = 2;", "tags": "a; b;"},
        {"sku": "q", "name": "Q", "attributes": "{broken", "tags": ""},
        {"sku": "r", "name": "R", "attributes": "no equals sign", "tags": ""},
        {"sku": "s", "name": "S", "attributes": "", "tags": "[1"},
    ]
    config = make_config(
        tmp_path, products, [{"creative_id": "c", "product_id": "p", "image_uri": "0.png"}],
        [{"creative_id": "c", "orders": 3, "where": "Channel Islands"}],
    )  # fmt: skip
    config.products.columns = {"product_id": "sku", "title": "name"}
    config.products.constants = {"seller": "us"}
    config.observations.columns = {"market": "where"}
    config.market_aliases = {"channel islands": "JE"}
    counts, _ = run(config, tmp_path / "out")
    assert counts["products"]["quarantined_by_reason"] == {"wrong_type": 3}
    assert pq.read_table(tmp_path / "out" / "products.parquet").to_pylist() == [
        {"product_id": "p", "title": "P", "category": None, "attributes": [("color", "red"), ("size", "2")],
         "tags": ["a", "b"], "seller": "us"}
    ]  # fmt: skip
    (row,) = pq.read_table(tmp_path / "out" / "observations.parquet").to_pylist()
    assert (row["market"], row["kind"], row["orders"], row["period_start"]) == ("JE", "orders", 3.0, None)


def test_periods_keep_the_first_row_and_forget_the_refused_ones(tmp_path: Path) -> None:
    days = [
        ("01-01", "01-10"),
        ("01-05", "01-15"),
        ("01-12", "01-20"),
        ("01-21", "01-21"),
        ("01-20", "01-22"),
        (None, None),
    ]
    rows: list[Row] = [
        {
            "creative_id": "1",
            "market": "KR",
            "rate": 0.5,
            "period_start": start and f"2024-{start}",
            "period_end": end and f"2024-{end}",
        }
        for start, end in days
    ]
    products, creatives, _ = small(tmp_path)
    _, quarantine = run(make_config(tmp_path, products, creatives, rows), tmp_path / "out")
    assert [(entry["row"], entry["reason"]) for entry in quarantine] == [
        (row, "overlapping_period") for row in (1, 4, 5)
    ]


def test_bad_json_lines_are_rows(tmp_path: Path) -> None:
    products, creatives, observations = small(tmp_path)
    config = make_config(tmp_path, products, creatives, observations)
    lines = [
        '{"product_id": "1", "title": "x"}',
        "{broken",
        "[1]",
        "",
        '{"product_id": "2", "title": "\\ud800"}',
        "[" * 100_000,
    ]
    (tmp_path / "products.jsonl").write_text("\n".join(lines))
    config.products = TableSource(path=str(tmp_path / "products.jsonl"))
    counts, _ = run(config, tmp_path / "out")
    assert counts["products"]["kept"] == 1
    assert counts["products"]["quarantined_by_reason"] == {"malformed_row": 4}


def pair_config(path: Path, root: Path, columns: dict[str, str] | None = None) -> ImportConfig:
    empty = TableSource
    return ImportConfig(
        products=empty(), creatives=empty(), observations=empty(),
        pairs=TableSource(path=str(path), columns=columns or {}), images=ImagesConfig(root=str(root)),
    )  # fmt: skip


def test_pair_file(tmp_path: Path) -> None:
    small(tmp_path)

    def pair(product: str, a: str, b: str, market: str, orders_a: Any, orders_b: Any) -> Row:
        return {
            "product_id": product,
            "image_a": a,
            "image_b": b,
            "market": market,
            "orders_a": orders_a,
            "orders_b": orders_b,
        }

    rows = [
        pair("1", "0.png", "1.png", "UK", 5, 2),
        pair("1", "0.png", "2.png", "UK", 5, 9),  # 0.png again
        pair("1", "1.png", "2.png", "UK", 3, 9),  # 1.png had 2: conflict
        pair("1", "1.png", "3.png", "UK", 2, 1),
        pair("1", "1.png", "0.png", "UK", 2, 5),  # the first row turned round
        pair("1", "0.png", "1.png", "EIRE", 7, 7),
        pair("1", "0.png", "none.png", "UK", 5, 1),
        pair("1", "0.png", "0.png", "UK", 5, 5),
        pair("1", "0.png", "1.png", "Atlantis", 5, 2),
        pair("1", "0.png", "1.png", "FR", -5, 2),
        pair("1", "0.png", "1.png", "FR", 5, ""),
        pair("", "0.png", "1.png", "FR", 5, 2),
        pair("1", "3.png", "2.png", "UK", 4, 9),  # 3.png had 1: conflict
    ]
    write_csv(tmp_path / "pairs.csv", rows)
    counts, quarantine = run(pair_config(tmp_path / "pairs.csv", tmp_path / "images"), tmp_path / "out")
    assert {entry["row"]: entry["reason"] for entry in quarantine if entry["table"] == "pairs_file"} == {
        2: "conflicting_value", 6: "unknown_creative", 7: "same_image", 8: "unknown_market", 9: "negative_value",
        10: "missing_value", 11: "missing_value", 12: "conflicting_value",
    }  # fmt: skip
    assert [(e["row"], e["reason"], e["key"]) for e in quarantine if e["table"] == "creatives"] == [
        (6, "missing_image", "1/none.png")
    ]
    parts = ("input", "kept", "dropped", "quarantined")
    assert {name: tuple(table[part] for part in parts) for name, table in counts.items()} == {
        "products": (1, 1, 0, 0), "creatives": (5, 4, 0, 1), "observations": (8, 6, 2, 0), "pairs_file": (13, 4, 1, 8),
    }  # fmt: skip
    read = {name: pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in ("products", "observations", "pairs")}
    assert read["pairs"].schema.equals(tables.LISTED_PAIRS)
    assert [tuple(row.values()) for row in read["pairs"].to_pylist()] == [
        ("1", "1/0.png", "1/1.png", "GB"), ("1", "1/0.png", "1/1.png", "IE"), ("1", "1/0.png", "1/2.png", "GB"),
        ("1", "1/1.png", "1/3.png", "GB"),
    ]  # fmt: skip
    assert [(row["creative_id"], row["market"], row["orders"]) for row in read["observations"].to_pylist()] == [
        ("1/0.png", "GB", 5), ("1/0.png", "IE", 7), ("1/1.png", "GB", 2), ("1/1.png", "IE", 7), ("1/2.png", "GB", 9),
        ("1/3.png", "GB", 1),
    ]  # fmt: skip
    assert read["products"].to_pylist()[0]["title"] == "1"


def test_pair_file_with_a_winner_only_is_refused(tmp_path: Path) -> None:
    row = {"product_id": "1", "image_a": "0.png", "image_b": "1.png", "market": "KR", "label": "A"}
    write_csv(tmp_path / "pairs.csv", [row])
    with pytest.raises(UserError, match="a winner alone is no evidence: give impressions_a/_b"):
        import_dataset(pair_config(tmp_path / "pairs.csv", tmp_path), tmp_path)


@pytest.mark.slow
def test_real_pair_file_with_zipped_images(tmp_path: Path) -> None:
    if not (DATA / "bass").is_dir():
        pytest.skip(f"no real data at {DATA}; set COUNTRYREWARD_DATA")
    columns = {"product_id": "product", "market": "country"}
    config = pair_config(DATA / "bass" / "pairs_us_cn.csv", DATA / "bass" / "BASS_images.zip", columns)
    counts, quarantine = run(config, tmp_path / "out")
    assert quarantine == []
    assert {name: (table["input"], table["kept"]) for name, table in counts.items()} == {
        "products": (460, 460), "creatives": (2424, 2424), "observations": (38_948, 4_848),
        "pairs_file": (19_474, 19_474),
    }  # fmt: skip
    assert len(ImageTable(tmp_path / "out")) == 580
    assert pq.read_table(tmp_path / "out" / "pairs.parquet").num_rows == 2 * 9_737


def test_nothing_and_nothing_good_are_still_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    products: list[Row] = [{"product_id": "1", "title": ""}]
    creatives: list[Row] = [{"creative_id": "1", "product_id": "1", "image_uri": "x"}]
    observations: list[Row] = [{"creative_id": "1", "market": "KR", "rate": 0.1}]
    config = make_config(tmp_path, products, creatives, observations)
    for name, rows in (("bad", 1), ("empty", 0)):
        if not rows:
            for table in ("products", "creatives", "observations"):
                path = tmp_path / f"{table}.csv"
                path.write_text(path.read_text().partition("\n")[0] + "\n")
        counts, _ = run(config, tmp_path / name)
        assert [(table["input"], table["kept"]) for table in counts.values()] == [(rows, 0)] * 3
        assert len(ImageTable(tmp_path / name)) == 0
        assert pq.read_table(tmp_path / name / "products.parquet").schema.equals(tables.PRODUCTS)


def test_typed_parquet_columns(tmp_path: Path) -> None:
    """Dictionary, nullable, date and timestamp columns mean what their text in a CSV would mean."""
    products, creatives, _ = small(tmp_path)
    config = make_config(tmp_path, products, creatives, [{"creative_id": "1", "market": "KR"}])
    days = [date(2024, 1, 1)] * 4
    columns = {
        "creative_id": pa.array([1, 1, 1, 1], pa.int64()),
        "market": pa.array(["US", "KR", "FR", "JP"]).dictionary_encode(),
        "impressions": pa.array([100, None, None, None], pa.int64()),
        "clicks": pa.array([1, None, None, None], pa.float32()),
        "rate": pa.array([None, 0.5, float("nan"), 0.5], pa.float64()),
        "period_start": pa.array(days, pa.date32()),
        "period_end": pa.array([1_704_153_600 + 3600 * (row == 3) for row in range(4)], pa.timestamp("s")),
    }
    pq.write_table(pa.table(columns), tmp_path / "observations.parquet")
    config.observations = TableSource(path=str(tmp_path / "observations.parquet"))
    _, quarantine = run(config, tmp_path / "out")
    assert [(e["row"], e["reason"]) for e in quarantine] == [(2, "missing_value"), (3, "bad_date")]
    kept = pq.read_table(tmp_path / "out" / "observations.parquet").to_pylist()
    assert [(row["kind"], row["clicks"], row["rate"], row["period_end"]) for row in kept] == [
        ("rate", None, 0.5, date(2024, 1, 2)), ("counts", 1, None, date(2024, 1, 2)),
    ]  # fmt: skip


def test_an_open_quote_is_an_error_and_never_swallows_rows(tmp_path: Path):
    (tmp_path / "products.csv").write_text('product_id,title\np1,"abc\np2,Lamp\np3,Chair\n')
    (tmp_path / "creatives.csv").write_text("creative_id,product_id,image_uri\n")
    (tmp_path / "observations.csv").write_text("creative_id,market,impressions,clicks\n")
    products, creatives, observations = (
        TableSource(path=str(tmp_path / f"{name}.csv")) for name in ("products", "creatives", "observations")
    )
    config = ImportConfig(products=products, creatives=creatives, observations=observations)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="quotes"):
        import_dataset(config, tmp_path / "out")


def test_a_refusal_says_the_same_in_every_run():
    broken = b"\x89PNG\r\n\x1a\n" + b"\x00" * 60
    texts = set()
    for _ in range(3):
        with pytest.raises(ImageError) as caught:
            inspect(bytes(broken), max_bytes=10**6, max_pixels=10**6)
        texts.add(caught.value.field_value)
    assert len(texts) == 1
    assert " at 0x" not in texts.pop()


def test_a_machine_short_of_memory_never_quarantines_a_good_image(monkeypatch: pytest.MonkeyPatch):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, format="PNG")

    def short(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", short)
    with pytest.raises(MemoryError):
        inspect(buffer.getvalue(), max_bytes=10**6, max_pixels=10**6)


# The words of ads


def test_words_of_creatives(tmp_path: Path) -> None:
    products, _, observations = small(tmp_path)
    creatives: list[Row] = [
        {"creative_id": "0", "product_id": "1", "image_uri": "0.png"},
        {"creative_id": "1", "product_id": "1", "image_uri": "0.png", "headline": "Café", "tags": "sale; new"},
        {
            "creative_id": "2",
            "product_id": "1",
            "image_uri": "0.png",
            "headline": " Cafe\u0301 ",
            "tags": '["sale", "new"]',
        },
        {"creative_id": "3", "product_id": "1", "image_uri": "0.png", "headline": "Café", "tags": "[broken"},
        {"creative_id": "4", "product_id": "1", "image_uri": "1.png", "body": "Warm", "call_to_action": "Buy"},
    ]
    counts, quarantine = run(make_config(tmp_path, products, creatives, observations), tmp_path / "out")
    assert counts["creatives"]["quarantined_by_reason"] == {"wrong_type": 1}
    assert [(entry["row"], entry["field"]) for entry in quarantine if entry["table"] == "creatives"] == [(3, "tags")]
    table = pq.read_table(tmp_path / "out" / "creatives.parquet")
    assert table.schema.equals(tables.CREATIVES)
    rows = table.to_pylist()
    assert [row["tags"] for row in rows] == [[], ["sale", "new"], ["sale", "new"], []]
    assert [row["copy_hash"] for row in rows] == [
        None, copy_hash("Café", None, None, ["sale", "new"]), copy_hash("Café", None, None, ["sale", "new"]),
        copy_hash(None, "Warm", "Buy"),
    ]  # fmt: skip
    assert rows[3]["call_to_action"] == "Buy"


def test_one_picture_with_two_headlines_is_a_pair(tmp_path: Path) -> None:
    small(tmp_path)
    keys = ("product_id", "image_a", "image_b", "headline_a", "headline_b", "market", "device", "clicks_a", "clicks_b")
    lines = [
        ("1", "0.png", "0.png", "Warm", "Cold", "KR", "phone", 50, 60),
        ("1", "0.png", "0.png", "Warm", "Cold", "KR", "tablet", 5, 6),  # another part of the same two ads
        ("1", "0.png", "0.png", "Warm", "Warm", "KR", "phone", 50, 50),
        ("1", "0.png", "1.png", "Warm", "", "KR", "phone", 50, 70),
        ("1", "0.png", "0.png", "Cold", "Warm", "KR", "phone", 60, 50),  # the first row turned round
    ]
    rows = [{**dict(zip(keys, line, strict=True)), "impressions_a": 1000, "impressions_b": 1000} for line in lines]
    write_csv(tmp_path / "pairs.csv", rows)
    counts, quarantine = run(pair_config(tmp_path / "pairs.csv", tmp_path / "images"), tmp_path / "out")
    assert [(entry["row"], entry["reason"]) for entry in quarantine] == [(2, "same_image")]
    assert (counts["pairs_file"]["kept"], counts["pairs_file"]["dropped"]) == (3, 1)
    warm, cold = (f"1/0.png+{copy_hash(text, None, None)}" for text in ("Warm", "Cold"))
    read = {
        name: pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist()
        for name in ("pairs", "observations", "creatives")
    }
    assert sorted((row["creative_1"], row["creative_2"]) for row in read["pairs"]) == [(warm, cold), (warm, "1/1.png")]
    assert sorted((row["creative_id"], row["device"], row["clicks"]) for row in read["observations"]) == sorted(
        [(warm, "phone", 50), (cold, "phone", 60), (warm, "tablet", 5), (cold, "tablet", 6), ("1/1.png", "phone", 70)]
    )
    assert sorted((row["creative_id"], row["headline"]) for row in read["creatives"]) == sorted(
        [(warm, "Warm"), (cold, "Cold"), ("1/1.png", None)], key=lambda pair: pair[0]
    )


@pytest.mark.slow
def test_a_hundred_thousand_refused_rows_are_cheap(tmp_path: Path) -> None:
    products, creatives, _ = small(tmp_path)
    rows = [{"creative_id": "1", "market": "KR", "impressions": 5, "clicks": number} for number in range(6, 100_006)]
    config = make_config(tmp_path, products, creatives, rows)
    start = time.perf_counter()
    counts, quarantine = run(config, tmp_path / "out")
    assert time.perf_counter() - start < 20
    assert counts["observations"]["quarantined"] == 100_000
    assert quarantine[-1]["row"] == 99_999
    assert quarantine[-1]["value"] == "100005"
