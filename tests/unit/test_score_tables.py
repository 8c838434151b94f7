"""Tables of pairs before anything is judged: rows and images checked, encodes and work kept on disk. No model, no Ray."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from countryreward.data.creative_identity import Copy
from countryreward.data.data_config import ImagesConfig
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.scoring import feature_cache as encodes
from countryreward.scoring.feature_cache import FeatureCache, check_space, write_refused, write_shard
from countryreward.scoring.pair_table import (
    ANSWERS,
    COLUMNS,
    FoundImages,
    ImageReader,
    PairTable,
    find_images,
    image_root,
    images_state,
    read_pairs,
    refuse_images,
)
from countryreward.scoring.scoring_config import TableScoring
from countryreward.scoring.verdict_shards import ANSWERED, WorkFolder, copies_of, merge, verdict_schema, write_rows


def png(seed: int, px: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """a.png, b.png, c.png, and same.png, a copy of a.png."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        (folder / f"{name}.png").write_bytes(png(seed))
    (folder / "same.png").write_bytes(png(0))
    return folder


def read(path: Path, rows: list[dict[str, Any]], **options: Any) -> PairTable:
    """A table of `rows`, in the format that the path's ending says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_csv(path, index=False)
    return read_pairs(TableScoring(pairs=str(path), **options), ("BR", "KR"), Quarantine("score"))


def found(table: PairTable, root: Path, folder: Path, **limits: Any) -> FoundImages:
    return find_images(table, ImagesConfig(root=str(root), **limits), folder / "images.bin")


def refused(table: PairTable) -> list[tuple[int, str, str]]:
    """(row, reason, field), by row."""
    return sorted((each.row, each.reason, each.field) for each in table.checks.quarantine.refusals)


PAIR = {"title": "Mug", "image_a": "a.png", "image_b": "b.png"}


def test_the_same_rows_from_every_format(tmp_path: Path):
    plain = {**PAIR, "row_id": "1", "market": "South Korea", "campaign": "spring"}
    structured = {**plain, "attributes": {"material": "steel"}, "tags": ["a", "b"]}
    as_text = {**plain, "attributes": '{"material": "steel"}', "tags": "a;b"}
    tables = [
        read(tmp_path / f"t{ending}", [row], keep=["campaign"])
        for ending, row in ((".csv", as_text), (".jsonl", structured), (".parquet", structured))
    ]
    for table in tables:
        (row,) = table.frame.to_dict("records")
        assert row["attributes"] == {"material": "steel"}
        assert row["tags"] == ["a", "b"]
        assert (row["row_id"], row["title"], row["market"], row["campaign"]) == ("1", "Mug", "KR", "spring")
        assert table.markets is None
        assert refused(table) == []


def test_the_words_of_each_ad_from_every_format(tmp_path: Path):
    words = {"headline_a": "Warm  light", "headline_b": "", "call_to_action_b": "Buy"}
    structured, as_text = {**PAIR, **words, "tags_a": ["eve", "oak"]}, {**PAIR, **words, "tags_a": "eve;oak"}
    for ending, row in ((".csv", as_text), (".jsonl", structured), (".parquet", structured)):
        (row,) = read(tmp_path / f"t{ending}", [row]).frame.to_dict("records")
        assert row["copy_a"] == Copy(headline="Warm light", tags=("eve", "oak"))
        assert row["copy_b"] == Copy(call_to_action="Buy")
    bad = read(tmp_path / "t.csv", [{**PAIR, "tags_b": "[1"}])
    assert refused(bad) == [(0, "wrong_type", "tags_b")]
    assert "copy_a" not in read(tmp_path / "t.csv", [PAIR]).frame


def test_columns_of_other_names_and_constants(tmp_path: Path):
    rows = [{"name": "Mug", "left": "a.png", "right": "b.png"}]
    columns = {"title": "name", "image_a": "left", "image_b": "right"}
    table = read(tmp_path / "t.csv", rows, columns=columns, constants={"market": "br"})
    assert table.frame[["title", "image_a", "image_b", "market"]].to_numpy().tolist() == [
        ["Mug", "a.png", "b.png", "BR"]
    ]


def test_which_markets_are_asked(tmp_path: Path):
    assert read(tmp_path / "t.csv", [PAIR]).markets == ("BR", "KR")  # the model's
    own = [{**PAIR, "market": "KR"}]
    assert read(tmp_path / "t.csv", own).markets is None
    assert read(tmp_path / "t.csv", own, markets=["us", "Brazil", "US"]).markets == ("US", "BR")
    with pytest.raises(UserError, match="markets: 'Atlantis' is no country"):
        read(tmp_path / "t.csv", own, markets=["Atlantis"])


def test_bad_rows_go_to_quarantine_with_their_reason(tmp_path: Path):
    rows = [
        {"row_id": "0", **PAIR, "market": "KR"},
        {"row_id": "1", **PAIR, "market": "KR", "title": " "},
        {"row_id": "2", **PAIR, "market": "KR", "image_b": None},
        {"row_id": "3", **PAIR, "market": "Oz"},
        {"row_id": "4", **PAIR},
        {"row_id": "0", **PAIR, "market": "KR"},
        {**PAIR, "market": "KR"},
        {"row_id": "7", **PAIR, "market": "KR", "attributes": "steel"},
        {"row_id": "8", **PAIR, "market": "KR", "tags": "[1"},
    ]
    table = read(tmp_path / "t.csv", rows)
    assert refused(table) == [
        (1, "missing_value", "title"),
        (2, "missing_value", "image_b"),
        (3, "unknown_market", "market"),
        (4, "missing_value", "market"),
        (5, "duplicate_key", "row_id"),
        (6, "missing_value", "row_id"),
        (7, "wrong_type", "attributes"),
        (8, "wrong_type", "tags"),
    ]
    assert table.checks.good.tolist() == [True] + [False] * 8
    assert {each.value for each in table.checks.quarantine.refusals if each.row == 3} == {"Oz"}
    with_markets = read(tmp_path / "t.csv", rows, markets=["KR"])
    assert {row for row, _, field in refused(with_markets) if field == "market"} == set()


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"title": "Mug", "image_a": "a.png"}], {}, r"column 'image_b' is not in .*columns: \{image_b: title\}"),
        ([PAIR], {"columns": {"title": "name"}}, "column 'name' is not in"),
        ([PAIR], {"columns": {"nonsense": "title"}}, r"^columns: 'nonsense' is not a column of ours"),
        ([PAIR], {"keep": ["campaign"]}, "column 'campaign' is not in"),
        ([PAIR], {"keep": ["choice"]}, "keep: 'choice' is a column of the verdicts already"),
    ],
)
def test_a_table_of_the_wrong_shape_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], said: str
):
    with pytest.raises(UserError, match=said) as told:
        read(tmp_path / "t.csv", rows, **options)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"^pairs: 'nowhere\.csv' cannot be opened"):
        read_pairs(TableScoring(pairs="nowhere.csv"), ("BR",), Quarantine("score"))


def test_images_are_known_by_their_bytes(tmp_path: Path, images: Path):
    rows = [PAIR, {**PAIR, "image_a": "same.png"}, {**PAIR, "image_b": "gone.png"}, {**PAIR, "image_b": "../t.csv"}]
    (images / "big.png").write_bytes(png(9, px=64))
    table = read(tmp_path / "t.csv", [*rows, {**PAIR, "image_b": "big.png"}, {**PAIR, "image_b": "http://x.org/a.png"}])
    seen = found(table, images, tmp_path, max_bytes=2000)
    assert seen.hashes["hash_a"][0] == seen.hashes["hash_a"][1]
    assert refused(table) == [
        (2, "missing_image", "image_b"),
        (3, "forbidden_uri", "image_b"),
        (4, "image_too_large", "image_b"),
        (5, "forbidden_uri", "image_b"),
    ]
    reader = ImageReader(ImagesConfig(root=str(images)), tmp_path / "images.bin")
    for name, place in seen.places.items():
        assert reader.read(name, place)[:4] == b"\x89PNG"
    (images / "b.png").write_bytes(png(77))
    with pytest.raises(Exception, match="changed_image"):
        reader.read(seen.hashes["hash_b"][0], seen.places[seen.hashes["hash_b"][0]])


def test_images_in_a_zip(tmp_path: Path, images: Path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, path.name)
    table = read(tmp_path / "t.csv", [PAIR])
    zipped = found(table, tmp_path / "images.zip", tmp_path)
    assert zipped.hashes.to_numpy().tolist() == found(table, images, tmp_path).hashes.to_numpy().tolist()


def test_images_in_the_table_are_copied_once(tmp_path: Path, images: Path):
    a, b = png(0), png(1)
    rows = [
        {"title": "Mug", "image_a": a, "image_b": b},
        {"title": "Mug", "image_a": b, "image_b": a},
        {"title": "Mug", "image_a": None, "image_b": a},
        {"title": "Mug", "image_a": b"x" * 5000, "image_b": a},
    ]
    table = read(tmp_path / "t.parquet", rows)
    seen = found(table, images, tmp_path, max_bytes=4000)
    assert (tmp_path / "images.bin").stat().st_size == len(a) + len(b)
    assert refused(table) == [(2, "missing_value", "image_a"), (3, "image_too_large", "image_a")]
    reader = ImageReader(ImagesConfig(), tmp_path / "images.bin")
    first, second = seen.hashes.iloc[0]
    assert [reader.read(name, seen.places[name]) for name in (first, second)] == [a, b]
    assert seen.hashes.iloc[1].tolist() == [second, first]
    # one side may be bytes and the other a path
    mixed = read(tmp_path / "t.parquet", [{"title": "Mug", "image_a": a, "image_b": "a.png"}])
    hashes = found(mixed, images, tmp_path).hashes
    assert hashes["hash_a"][0] == hashes["hash_b"][0] == first


def test_the_state_of_the_images_tells_a_change_without_reading(tmp_path: Path, images: Path):
    table = read(tmp_path / "t.csv", [PAIR])
    config = ImagesConfig(root=str(images))
    before = images_state(table, config)
    assert before == images_state(table, config)
    (images / "c.png").write_bytes(b"not asked for")
    assert before == images_state(table, config)
    (images / "b.png").write_bytes(png(77, px=20))
    assert before != images_state(table, config)
    cloud = read(tmp_path / "t.csv", [{**PAIR, "image_a": "s3://bucket/a.png"}])
    assert images_state(cloud, config) is None


def test_where_images_are_when_nobody_says(tmp_path: Path, images: Path):
    near = TableScoring(pairs=str(tmp_path / "t.csv"))
    assert image_root(near) == str(images)
    (tmp_path / "other").mkdir()
    assert image_root(TableScoring(pairs=str(tmp_path / "other" / "t.csv"))) == str(tmp_path / "other")
    assert image_root(TableScoring(pairs="t.csv", images=ImagesConfig(root="here"))) == "here"


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_encodes_come_back_to_the_bit(tmp_path: Path, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encodes, "_OPEN_SHARDS", 1)
    store = FeatureCache.open(tmp_path / "store")
    assert len(store) == 0
    features = torch.randn(3, 4, 5, generator=torch.manual_seed(1)).to(kind)
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    write_shard(store.folder, ["a", "b"], ["0f", "ff"], features[:2], vectors[:2])
    write_shard(store.folder, ["c"], ["01"], features[2:], vectors[2:])
    store = FeatureCache.open(store.folder)
    assert len(store) == 3
    assert torch.equal(store.features(["c", "a", "b", "a"]), features[[2, 0, 1, 0]])
    seen = store.image("b")
    assert (seen.content_hash, seen.perceptual_hash, seen.vector.tolist()) == ("b", 255, [2.0, 3.0])
    assert "d" not in store


def test_what_a_killed_run_left_of_a_shard_is_not_taken(tmp_path: Path):
    store = tmp_path / "store"
    FeatureCache.open(store)
    write_shard(store, ["a"], ["00"], torch.ones(1, 2, 2), np.ones((1, 2), dtype=np.float32))
    write_refused(store, {"r": ("undecodable_image", "cut off")})
    whole = {path.name for path in store.iterdir()}
    assert FeatureCache(store).refused == {"r": ("undecodable_image", "cut off")}
    (store / "dead.features.npy").write_bytes(b"half")
    (store / ".tmp-dead.parquet").write_bytes(b"half")
    assert len(FeatureCache.open(store)) == 1
    assert {path.name for path in store.iterdir()} == whole
    next(store.glob("*.vectors.npy")).unlink()
    assert len(FeatureCache(store)) == 0  # its index alone makes no shard


def test_too_small_a_disk_is_said_before_anything_is_encoded(tmp_path: Path):
    assert check_space(tmp_path, 1000, 2**20) == "1,000.0 MiB"
    with pytest.raises(UserError, match=r"work: 1,000,000 encoded images take 1,000,000\.0 GiB, .* has .* free"):
        check_space(tmp_path, 10**6, 2**30)


def test_the_work_folder_keeps_what_the_same_key_made(tmp_path: Path):
    work = WorkFolder(tmp_path / ".work" / "scores")
    with work.held():
        with pytest.raises(UserError, match="another job is at work"), WorkFolder(work.folder).held():
            pass
        mine = work.of("parts", {"table": 1})
        (mine / "part-000000.parquet").write_text("done")
        encoded = work.of("encodes", "model 1")
        assert work.of("parts", {"table": 1}) == mine
        assert (mine / "part-000000.parquet").exists()
        assert work.of("parts", {"table": 2}) != mine
        assert not mine.exists()
        assert encoded.exists()
        work.rows.write_text("rows")
    work.clear(keep_encodes=True)
    assert [path.name for path in work.folder.iterdir() if path.is_dir()] == [encoded.name]
    work.clear(keep_encodes=False)
    assert not (tmp_path / ".work").exists()
    work.clear(keep_encodes=False)  # nothing there is fine


def test_rows_go_to_parts_and_parts_into_one_table(tmp_path: Path, images: Path):
    rows = [{**PAIR, "title": f"Mug {n}", "campaign": str(n)} for n in range(5)]
    rows[1]["image_b"] = "gone.png"
    table = read(tmp_path / "t.csv", rows, keep=["campaign"])
    seen = found(table, images, tmp_path)
    refuse_images(table, "image_a", {3: ("undecodable_image", "cut off")})
    assert write_rows(table, seen.hashes, ["campaign"], tmp_path / "rows.parquet", 2) == 3
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert [file.read_row_group(part)["row"].to_pylist() for part in range(2)] == [[0, 2], [4]]
    verdict = {
        "market": "KR", "choice": None, "probability": 0.5, "calibrated_probability": 0.5, "log_odds": 0.0,
        "past_ads": 0, "note": "n", "claim": "better", "model_version": "m", "knowledge_base_version": "k",
    }  # fmt: skip
    assert list(verdict) == [field.name for field in ANSWERED]
    for part in range(2):
        answers = [{**row, **verdict} for row in file.read_row_group(part).to_pylist()]
        pq.write_table(pa.Table.from_pylist(answers, schema=verdict_schema(["campaign"])), tmp_path / f"{part}.parquet")
    shown: list[int] = []
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    assert merge(parts, tmp_path / "all.parquet", ["campaign"], lambda part: shown.append(part.num_rows)) == 3
    assert shown == [2, 1]
    merged = pq.read_table(tmp_path / "all.parquet").to_pandas()
    assert merged["row"].tolist() == [0, 2, 4]
    assert merged["campaign"].tolist() == ["0", "2", "4"]
    assert merge([], tmp_path / "none.parquet", []) == 0
    assert {"copy_a", "copy_b"}.isdisjoint(file.schema_arrow.names)  # a table without words is written as before
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_words_reach_the_scorer_of_a_part(tmp_path: Path, images: Path):
    table = read(tmp_path / "t.csv", [{**PAIR, "headline_b": "Warm light"}, PAIR])
    write_rows(table, found(table, images, tmp_path).hashes, [], tmp_path / "rows.parquet", 2)
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [copies_of(row) for row in rows] == [(None, Copy(headline="Warm light")), (None, None)]
    assert copies_of(PAIR) == (None, None)


def test_retrieval_alone_has_no_calibration_and_no_model_version(tmp_path: Path) -> None:
    schema = verdict_schema([], by_model=False)
    assert schema.names == verdict_schema([]).names
    answer = {
        field.name: None if field.nullable else {"int64": 0, "double": 0.5}.get(str(field.type), "x")
        for field in schema
    }
    assert [name for name, cell in answer.items() if cell is not None] == [
        "row",
        "market",
        "probability",
        "log_odds",
        "past_ads",
        "claim",
    ]
    pq.write_table(pa.Table.from_pylist([answer], schema=schema), tmp_path / "0.parquet")
    assert merge([tmp_path / "0.parquet"], tmp_path / "all.parquet", [], by_model=False) == 1
    assert pq.read_table(tmp_path / "all.parquet")["model_version"].to_pylist() == [None]


def test_the_page_explains_every_column():
    page = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")
    columns = [name for name in COLUMNS if not name.endswith(":")] + ["attribute:NAME"]
    for name in [*columns, *verdict_schema([]).names]:
        assert f"`{name}`" in page, name
    assert {*ANSWERS, "market"} == {"row", *(field.name for field in ANSWERED)}
