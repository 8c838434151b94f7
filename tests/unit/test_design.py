"""Designs: written, parsed, turned into the marketplace's vocabulary and back."""

from itertools import product

import pytest

from countryreward.data.design import Design
from countryreward.data.marketplace.vocabulary import AXES, Spec, design_to_spec, spec_to_design
from countryreward.errors import UserError

SOFA = Design(
    foreground="A modern white leather sectional sofa with black accents",
    background="A panoramic mountain view with layered green hills",
    color_tone="Soft blue-gray tones",
    lighting="Soft natural daylight",
)


def test_written_form() -> None:
    assert Design("a", "b", "c", "d").as_text() == "Foreground: a\nBackground: b\nColor Tone: c\nLighting: d"
    assert Design.parse(SOFA.as_text()) == SOFA


def test_fields_become_one_line() -> None:
    assert Design("a\n b ", "c", "d", "e").foreground == "a b"


@pytest.mark.parametrize(
    "text",
    [
        "Foreground:a\nwide sofa\nBackground: b\nColor Tone: c\nLighting: d",  # wrapped, as printed in the paper
        "Sure!\n\n**Foreground:** a wide sofa\n**Background**: b\n**Colour Tone:** c\n**Lighting:** d\n\nEnjoy!",
        "1. lighting: d\n2. color_tone: c\n3. BACKGROUND：b\n- foreground:\n\na wide sofa",
    ],
)
def test_parse_reads_what_models_write(text: str) -> None:
    assert Design.parse(text) == Design("a wide sofa", "b", "c", "d")


def test_parse_names_what_is_missing() -> None:
    with pytest.raises(UserError, match="Color Tone, Lighting missing"):
        Design.parse("Foreground: a\nBackground: b\nLighting:   ")
    with pytest.raises(UserError, match="Foreground, Background, Color Tone, Lighting missing"):
        Design.parse("")
    with pytest.raises(UserError, match="Background occurs twice"):
        Design.parse("Background: a\nBackground: b")


@pytest.mark.slow
def test_every_spec_survives_its_words() -> None:
    for choice in product(*AXES.values()):
        spec = Spec(**dict(zip(AXES, choice, strict=True)))
        design = spec_to_design(spec)
        assert design_to_spec(Design.parse(design.as_text())) == spec


def test_free_text() -> None:
    assert design_to_spec(SOFA) == Spec(
        scene="mountains", palette="ocean", clutter="few", lighting="daylight", text="none"
    )
    seaside = Design(
        "Several shells around it, a 20% discount label",
        "Sandy shore with gentle waves",
        "Vivid neon purple",
        "Warm sunset",
    )
    assert design_to_spec(seaside) == Spec(
        scene="beach", palette="neon", clutter="rich", lighting="golden", text="sale"
    )


def test_unknown_words_take_the_default() -> None:
    assert design_to_spec(Design("商品", "背景", "色", "光")) == Spec()


def test_unknown_choice_is_named() -> None:
    with pytest.raises(UserError, match="scene: 'moon' is unknown; write one of studio, living_room"):
        Spec(scene="moon")
