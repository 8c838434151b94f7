"""Votes on pairs: from numbers or single votes to one row per pair, market, period and voter class."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from countryreward.data import tables
from countryreward.data.data_config import ImagesConfig, ImportConfig, TableSource
from countryreward.data.importers.import_dataset import import_dataset, source_fingerprint
from countryreward.errors import UserError
from tests.unit.test_importers import png


def config_of(folder: Path, votes: Path, **options: Any) -> ImportConfig:
    """Creatives a, b and c of the product mug (c is a's picture again), 1 and 2 of the product cup."""
    (folder / "images").mkdir()
    for number, name in enumerate("ab12"):
        (folder / "images" / f"{name}.png").write_bytes(png(number))
    (folder / "products.csv").write_text("product_id,title\nmug,Alder mug\ncup,Cup\n")
    (folder / "creatives.csv").write_text(
        "creative_id,product_id,image_uri\na,mug,a.png\nb,mug,b.png\nc,mug,a.png\n1,cup,1.png\n2,cup,2.png\n"
    )
    return ImportConfig(
        products=TableSource(path=str(folder / "products.csv")),
        creatives=TableSource(path=str(folder / "creatives.csv")),
        observations=TableSource(path=""),
        votes=TableSource(path=str(votes)),
        images=ImagesConfig(root=str(folder / "images")),
        **options,
    )


def imported(folder: Path, text: str) -> tuple[list[dict[str, Any]], list[tuple[int, str]], dict[str, Any]]:
    """The kept votes without their empty cells, the refused rows with their reasons, and the counts of a CSV's import."""
    (folder / "votes.csv").write_text(text)
    (folder / "out").mkdir()
    counts = import_dataset(config_of(folder, folder / "votes.csv"), folder / "out")["votes"]
    assert counts["input"] == counts["kept"] + counts["dropped"] + counts["quarantined"]
    refused = pd.read_json(folder / "out" / "quarantine.jsonl", lines=True)
    reasons = [] if refused.empty else list(zip(refused["row"], refused["reason"], strict=True))
    rows = pq.read_table(folder / "out" / "votes.parquet").to_pylist()
    return [{name: cell for name, cell in row.items() if cell is not None} for row in rows], sorted(reasons), counts


def test_votes_of_one_pair_are_added_whichever_stands_first(tmp_path: Path):
    rows, refused, counts = imported(
        tmp_path,
        "creative_1,creative_2,market,votes_1,votes_2,votes_tie,voter_class\n"
        "a,b,KR,10,3,2,panel\nb,a,Korea,4,6,,panel\na,b,KR,1,0,0,staff\na,b,BR,5,5,0,panel\n",
    )
    assert [tuple(row.values()) for row in rows] == [
        ("a", "b", "BR", "panel", 5, 5, 0),
        ("a", "b", "KR", "panel", 16, 7, 2),
        ("a", "b", "KR", "staff", 1, 0, 0),
    ]
    assert refused == []
    assert counts["dropped_by_reason"] == {"added_to_another_row": 1}
    assert pq.read_table(tmp_path / "out" / "votes.parquet").schema.equals(tables.VOTES)
    assert pq.read_table(tmp_path / "out" / "observations.parquet").equals(tables.OBSERVATIONS.empty_table())


def test_single_votes_are_counted(tmp_path: Path):
    rows, refused, _ = imported(
        tmp_path,
        "creative_1,creative_2,market,winner\na,b,KR,1\na,b,KR,1\na,b,KR,2.0\nb,a,KR,a\nb,a,KR,2\na,b,KR,Tie\na,b,KR,left\n"
        "1,2,KR,1\n2,1,KR,1\n2,1,KR,2\n2,1,KR,tie\n",
    )
    assert rows == [
        {"creative_1": "1", "creative_2": "2", "market": "KR", "votes_1": 1, "votes_2": 0, "votes_tie": 1},
        {"creative_1": "a", "creative_2": "b", "market": "KR", "votes_1": 4, "votes_2": 1, "votes_tie": 1},
    ]
    assert refused == [(6, "unknown_winner"), (8, "unknown_winner"), (9, "unknown_winner")]


def test_copies_are_told_by_the_number_of_the_vote(tmp_path: Path):
    text = "vote id,creative_1,creative_2,market,winner\n7,a,b,KR,1\n7,a,b,KR,1\n8,a,b,KR,1\n"
    rows, refused, _ = imported(tmp_path, text)
    assert (rows[0]["votes_1"], refused) == (2, [(1, "duplicate_key")])


def test_copies_of_numbers_are_refused_and_parts_are_added(tmp_path: Path):
    text = "creative_1,creative_2,market,wave,votes_1,votes_2\na,b,KR,1,3,2\na,b,KR,1,3,2\na,b,KR,2,3,2\n"
    rows, refused, _ = imported(tmp_path, text)
    assert (rows[0]["votes_1"], rows[0]["votes_2"], refused) == (6, 4, [(1, "duplicate_key")])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,x,KR,1,2,0", "unknown_creative"), ("a,1,KR,1,2,0", "different_products"), ("a,a,KR,1,2,0", "same_image"),
        ("a,c,KR,1,2,0", "same_image"), ("a,b,XX,1,2,0", "unknown_market"), ("a,b,KR,-1,2,0", "negative_value"),
        ("a,b,KR,0,0,0", "no_votes"), ("a,b,KR,0,0,3", None), ("a,b,KR,,2,0", "missing_value"), ("a,b,KR,1.5,2,0", "wrong_type"),
        (",b,KR,1,2,0", "missing_value"),
    ],
)  # fmt: skip
def test_bad_votes(tmp_path: Path, row: str, reason: str | None):
    refused = imported(tmp_path, f"creative_1,creative_2,market,votes_1,votes_2,votes_tie\n{row}\n")[1]
    assert refused == ([(0, reason)] if reason else [])


@pytest.mark.parametrize(("header", "words"), [("voter_class", ("Total", "All")), ("age", ("All", "Totalt"))])
def test_totals_are_no_votes(tmp_path: Path, header: str, words: tuple[str, str]):
    text = f"creative_1,creative_2,market,{header},votes_1,votes_2\na,b,KR,panel,10,2\nb,a,KR,staff,5,1\n"
    text += f"a,b,KR,{words[0]},11,7\na,b,KR,{words[1]},11,7\na,b,BR,{words[0]},3,4\n"
    rows, refused, _ = imported(tmp_path, text)
    assert refused == [(2, "total_row"), (3, "total_row")]
    assert sum(row["votes_1"] for row in rows if row["market"] == "KR") == 11
    assert [row for row in rows if row["market"] == "BR"] == [
        {"creative_1": "a", "creative_2": "b", "market": "BR", "votes_1": 3, "votes_2": 4, "votes_tie": 0}
    ]


def test_voters_without_a_class_who_are_the_sum_of_the_others_are_a_total(tmp_path: Path):
    head = "creative_1,creative_2,market,voter_class,votes_1,votes_2\n"
    text = head + "a,b,KR,panel,100,20\na,b,KR,staff,10,50\na,b,KR,,110,70\n"
    assert imported(tmp_path, text)[1] == [(2, "total_row")]


def test_votes_on_pairs_that_a_pair_file_does_not_list_make_them_pairs(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for number, name in enumerate("abc"):
        (tmp_path / "images" / f"{name}.png").write_bytes(png(number))
    (tmp_path / "pairs.csv").write_text(
        "product_id,image_a,image_b,market,score_a,score_b\np,b.png,a.png,US,1,2\np,b.png,c.png,US,1,2\n"
    )
    (tmp_path / "votes.csv").write_text(
        "creative_1,creative_2,market,votes_1,votes_2\np/a.png,p/c.png,US,10,2\np/a.png,p/b.png,KR,9,2\n"
        "p/a.png,p/b.png,US,8,2\n"
    )
    none = TableSource(path="")
    config = ImportConfig(
        products=none, creatives=none, observations=none, images=ImagesConfig(root=str(tmp_path / "images")),
        pairs=TableSource(path=str(tmp_path / "pairs.csv")), votes=TableSource(path=str(tmp_path / "votes.csv")),
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    counts = import_dataset(config, tmp_path / "out")
    assert counts["votes"]["decisions"] == ["2 pairs that the pair file does not list have votes and are pairs, too"]
    assert [tuple(row.values()) for row in pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()] == [
        ("p", "p/a.png", "p/b.png", "KR"),
        ("p", "p/a.png", "p/c.png", "US"),
        ("p", "p/b.png", "p/a.png", "US"),
        ("p", "p/b.png", "p/c.png", "US"),
    ]


@pytest.mark.parametrize(
    ("columns", "said"), [("note", "neither votes_1, votes_2 nor winner"), ("votes_1,winner", "both")]
)
def test_a_file_has_numbers_or_winners(tmp_path: Path, columns: str, said: str):
    with pytest.raises(UserError, match=said):
        imported(tmp_path, f"creative_1,creative_2,market,{columns}\n")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_other_formats(tmp_path: Path, ending: str):
    rows = [{"creative_1": "b", "creative_2": "a", "market": "KR", "votes_1": 3, "votes_2": 1, "day": "2026-03-01"}]
    path = tmp_path / f"votes.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    (tmp_path / "out").mkdir()
    config = config_of(tmp_path, path)
    assert import_dataset(config, tmp_path / "out")["votes"]["recognised"] == {"period": ["day"]}
    (row,) = pq.read_table(tmp_path / "out" / "votes.parquet").to_pylist()
    assert (row["votes_1"], row["votes_2"], str(row["period_start"])) == (1, 3, "2026-03-01")
    assert str(path) in source_fingerprint(config)


def test_votes_need_products_and_creatives():
    with pytest.raises(UserError, match=r"observations\.path may be empty when there are votes"):
        ImportConfig(products=TableSource(path=""), observations=TableSource(path=""), votes=TableSource(path="v.csv"))
    with pytest.raises(UserError, match="all three are needed"):
        ImportConfig(observations=TableSource(path=""))
