"""What a creative is: a picture with its words, within a product."""

import pandas as pd
import pytest

from countryreward.data.creative_identity import copy_hash, with_keys


def test_words_are_compared_in_composed_form_without_spaces_around():
    assert copy_hash(" Café\n au lait", None, "") == copy_hash("Cafe\u0301 au lait", "", None, [" "])
    assert copy_hash("a", None, None) != copy_hash(None, "a", None)
    assert copy_hash(None, "", " ", []) is None


@pytest.mark.parametrize("dtype", ["str", "object"])
def test_a_picture_without_words_has_its_hash_as_key(dtype: str):
    creatives = pd.DataFrame(
        {
            "creative_id": ["x", "b", "a", "c", "d"],
            "product_id": ["p", "p", "p", "p", "q"],
            "content_hash": ["h1", "h1", "h1", "h1", "h1"],
            "copy_hash": pd.Series([None, None, "w", "w", None], dtype=dtype),
        }
    )
    keyed = with_keys(creatives)
    assert keyed["key"].tolist() == ["h1", "h1", "h1+w", "h1+w", "h1"]
    assert keyed["canonical"].tolist() == ["b", "b", "a", "a", "d"]
    assert with_keys(creatives.assign(copy_hash=pd.Series([None] * 5, dtype=dtype)))["key"].tolist() == ["h1"] * 5
