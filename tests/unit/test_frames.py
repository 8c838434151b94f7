"""The DataFrame door: a cell means what it means in a table, and one bad row never takes the others with it."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from countryreward.scoring.contracts import Product, ScoreRequest, Verdict
from countryreward.scoring.frames import score_frame

ROW: dict[str, Any] = {"title": "Cup", "image_a": b"a", "image_b": b"b", "market": "KR", "category": "Tableware"}


class Recorder:
    """A scorer that keeps what it was asked and always says A."""

    def __init__(self) -> None:
        self.products: list[Product] = []

    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]:
        self.products += [request.product for request in requests]
        return [[verdict(market) for market in request.markets] for request in requests]


def verdict(market: str) -> Verdict:
    return Verdict(
        market=market, probability=0.7, calibrated_probability=None, choice="A", log_odds=0.8, evidence=(), past_ads=0,
        model_version=None, knowledge_base_version=None,
    )  # fmt: skip


def asked(**cells: Any) -> Product:
    """The product that a row with these cells is asked about."""
    recorder = Recorder()
    answers = score_frame(recorder, pd.DataFrame([ROW, {**ROW, **cells}], dtype=object))
    assert answers["refused"].isna().all()
    return recorder.products[1]


def refusal(**cells: Any) -> str:
    """Why a row with these cells is refused, beside a good row that is answered."""
    answers = score_frame(Recorder(), pd.DataFrame([ROW, {**ROW, **cells}, ROW], dtype=object))
    assert answers["choice"].eq("A").to_list() == [True, False, True]
    return answers["refused"].iloc[1]


@pytest.mark.parametrize(
    "cell",
    ["coffee;gift", '["coffee", "gift"]', ["coffee", "gift"], ("coffee", None, "gift"), np.array(["coffee", "gift"])],
)
def test_tags_are_a_list_however_they_are_held(cell: Any):
    assert asked(tags=cell).tags == ["coffee", "gift"]


@pytest.mark.parametrize(
    "cell",
    ['{"material": "stoneware", "size": 2.0}', "material=stoneware; size=2", {"material": "stoneware", "size": 2, "none": None},
     [("material", "stoneware"), ("size", np.float64(2.0))]],
)  # fmt: skip
def test_attributes_are_a_mapping_however_they_are_held(cell: Any):
    assert asked(attributes=cell).attributes == {"material": "stoneware", "size": "2"}


def test_a_column_of_one_attribute_wins():
    assert asked(attributes="a=b;c=d", **{"attribute:c": "e"}).attributes == {"a": "b", "c": "e"}


@pytest.mark.parametrize("cell", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "", "NaN", "N/A"])
def test_an_empty_cell_is_none(cell: Any):
    product = asked(category=cell, attributes=cell, tags=cell)
    assert (product.category, product.attributes, product.tags) == (None, {}, [])


def test_numbers_are_read_as_they_are_written():
    product = asked(title=7, category=7.0, product_id=np.int64(12))
    assert (product.title, product.category, product.product_id) == ("7", "7", "12")
    assert asked(product_id=120_210_000_000_012_345).product_id == "120210000000012345"


def test_text_is_composed():
    decomposed = unicodedata.normalize("NFD", "Fjörd")
    product = asked(title=decomposed, category=decomposed, tags=decomposed, attributes={decomposed: decomposed})
    assert (product.title, product.category, product.tags, product.attributes) == (
        "Fjörd", "Fjörd", ["Fjörd"], {"Fjörd": "Fjörd"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ({"title": "cup \ud83d"}, "title: 'cup \\ud83d' holds a character that is no Unicode; write UTF-8"),
        ({"category": "\udc00"}, "category: '\\udc00' holds a character that is no Unicode; write UTF-8"),
        ({"tags": ["a", "\ud83d"]}, "tags: '\\ud83d' holds a character that is no Unicode; write UTF-8"),
        ({"attributes": {"a": "\ud83d"}}, "attributes.a: '\\ud83d' holds a character that is no Unicode; write UTF-8"),
        ({"market": "\ud83d"}, "market: '\\ud83d' holds a character that is no Unicode; write UTF-8"),
        ({"image_a": "\ud83d.png"}, "image_a: "),
        ({"image_a": "a\0.png"}, "image_a: "),
        ({"image_a": 3.5}, "image_a: 3.5 is neither file bytes nor a path"),
        ({"title": ["Cup"]}, "title: \"['Cup']\" is no text; write it as text"),
        ({"title": True}, "title: 'True' is no text; write it as text"),
        ({"title": None}, "product.title: it is empty"),
        ({"title": "NaN"}, "product.title: it is empty"),
        ({"market": 7}, "market: '7' is no country"),
        ({"market": pd.NA}, "market: '' is no country"),
        ({"attributes": "steel"}, "attributes: 'steel' is no mapping, no JSON object and no name=value;name=value"),
        ({"attributes": 7}, "attributes: '7' is no mapping"),
        ({"attributes": "{broken"}, "attributes: '{broken' is no mapping"),
        ({"tags": "[1"}, "tags: '[1' is no list, no JSON list and no a;b"),
        ({"tags": 7}, "tags: '7' is no list"),
        ({"tags": {"a": 1}}, "tags: \"{'a': 1}\" is no list"),
        ({"product_id": 1.2e17}, "product_id: '1.2e+17' has lost digits, as large floats do; give ids as text"),
        ({"product_id": 2.0**53}, "product_id: '9007199254740992.0' has lost digits"),
        ({"product_id": np.float32(2**24)}, "product_id: '16777216' has lost digits"),
        ({"attributes": {"m": [b"x"]}}, "attributes.m: \"[b'x']\" is nothing that JSON holds; write it as text"),
        ({"attributes": {"m": [{1, 2}]}}, "attributes.m: '[{1, 2}]' is nothing that JSON holds"),
        ({"attributes": {"m": b"x"}}, "attributes.m: \"b'x'\" is no text"),
        ({"attributes": {"m": [10**5000]}}, "attributes.m: a value of type list is nothing that JSON holds"),
        ({"title": 10**5000}, "title: a value of type int is too long a number"),
        ({"tags": [["x", {1}]]}, "tags: \"['x', {1}]\" is nothing that JSON holds"),
        ({"tags": b"ab"}, "tags: \"b'ab'\" is no list"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_alone(cells: dict[str, Any], told: str):
    assert refusal(**cells).startswith(told)


def test_attributes_and_tags_with_numbers_of_numpy_in_lists():
    attributes = {"m": [np.int64(1), np.nan], "n": {"z": np.float32(0.5)}, "k": np.array([1, 2]), "on": np.True_}
    assert asked(attributes=attributes).attributes == {"m": "[1, null]", "n": '{"z": 0.5}', "k": "[1, 2]", "on": "true"}
    assert list(asked(tags=[["x", np.int64(1)], "y"]).tags) == ['["x", 1]', "y"]


def test_product_ids_of_a_column_of_floats():
    for kind, exact in (("float32", 2**24 - 1), ("Float32", 2**24 - 1), ("float64", 2**53 - 1)):
        pairs = pd.DataFrame([ROW, ROW, ROW]).assign(product_id=pd.Series([exact, exact + 1, None], dtype=kind))
        scorer = Recorder()
        answers = score_frame(scorer, pairs)
        assert [product.product_id for product in scorer.products] == [str(exact), None]
        assert answers["choice"].eq("A").to_list() == [True, False, True]
        assert "has lost digits" in answers["refused"].iloc[1]


def test_a_path_is_found_in_any_form(tmp_path: Path):
    (tmp_path / unicodedata.normalize("NFD", "größe.png")).write_bytes(b"1")
    frame = pd.DataFrame(
        [{**ROW, "image_a": str(tmp_path / "größe.png")}, {**ROW, "image_a": str(tmp_path / "größer.png")}]
    )
    answers = score_frame(Recorder(), frame)
    assert answers["choice"].eq("A").to_list() == [True, False]
    assert (
        answers["refused"]
        .iloc[1]
        .endswith("größer.png cannot be read (No such file or directory); give a PNG, JPEG or WEBP file")
    )


def test_product_na_is_a_title_and_namibia_a_market():
    assert asked(title="NA", market="NA").title == "NA"
