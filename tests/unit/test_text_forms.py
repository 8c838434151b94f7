"""The same words composed (NFC) and decomposed (NFD), as a Mac names files, are one text wherever they enter."""

import unicodedata

import numpy as np
import pytest

from countryreward.data.design import Design
from countryreward.models.product_text import ProductText
from countryreward.models.tiny_backbone import SHIPPED
from countryreward.retrieval.encoders import HashedNgrams
from countryreward.scoring.contracts import Copy, Product

WORDS = ["Fjörd coffee cup grey", "머그컵 스톤웨어", "Tasse émaillée", "Việt cà phê", "がらすのコップ"]


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("text", WORDS)
def test_a_product_and_a_copy_are_equal_in_both_forms(text: str) -> None:
    assert nfd(text) != text

    def product(words: str) -> Product:
        return Product(title=words, category=words, attributes={words: words}, tags=[words], product_id=words)

    assert product(nfd(text)) == product(text)
    assert product(nfd(text)).title == text
    assert Copy(headline=nfd(text), tags=(nfd(text),)) == Copy(headline=text, tags=(text,))
    assert Design(nfd(text), "b", "c", "d") == Design(text, "b", "c", "d")


def test_a_text_is_like_itself_in_the_other_form() -> None:
    composed, decomposed = HashedNgrams().encode(WORDS), HashedNgrams().encode([nfd(text) for text in WORDS])
    assert np.array_equal(composed, decomposed)
    assert (composed * decomposed).sum(axis=1) == pytest.approx(1.0)


def test_a_prompt_has_the_same_tokens_in_both_forms() -> None:
    from transformers import AutoTokenizer

    words = ProductText(AutoTokenizer.from_pretrained(SHIPPED))
    for text in WORDS:
        given = words.of(text, text, {text: text}, [text])
        assert words.of(nfd(text), nfd(text), {nfd(text): nfd(text)}, [nfd(text)]).pieces == given.pieces
