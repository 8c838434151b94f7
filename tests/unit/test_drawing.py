"""The drawer as a renderer: bytes, products drawn anew and cut out, fidelity's bounds, the list of templates."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from countryreward.data.design import Design
from countryreward.data.marketplace.drawer import Craft, ProductLook, draw
from countryreward.data.marketplace.shapes import ProductTile
from countryreward.data.marketplace.vocabulary import Spec, design_to_spec, spec_to_design
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import RenderJob
from countryreward.generation.fidelity import fidelity, find
from countryreward.generation.foreground import foreground
from countryreward.generation.generation_config import RendererConfig
from countryreward.generation.product_view import ProductView
from countryreward.generation.renderers import DrawerRenderer, renderer_of
from countryreward.generation.subject import drawn_view, subject_of
from countryreward.generation.templates import TEMPLATES, draw_designs, draw_templates, name_of
from countryreward.scoring.contracts import Product
from tests.unit.photo_like import BODY, bottle

MUG = ProductLook(category="mug", colour="RED", pattern="dots")
MUG_WORDS = Product(title="Brisa stoneware coffee cup", category="Tableware", attributes={"colour": "red"})
BOTTLE_WORDS = Product(title="Cold-pressed olive oil")


def nothing(side: int) -> ProductTile:
    return ProductTile(
        np.zeros((side, side, 3), np.uint8), np.full((side, side, 3), 255, np.uint8), foot=0.9, breadth=0.1
    )


def outline(picture: np.ndarray) -> np.ndarray:
    mask = foreground(picture)
    assert mask is not None
    return mask


def job(picture: np.ndarray, product: Product, number: int = 0, **more: int) -> RenderJob:
    return RenderJob(design=TEMPLATES[number].design, product=product, image=picture, image_hash="p", **more)


def mug_picture(**craft: float) -> np.ndarray:
    return draw(Spec(scene="kitchen", clutter="rich"), MUG, seed=3, craft=Craft(**craft))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_fidelity_tells_the_product_from_another_from_none_and_from_another_colour(template) -> None:
    """Literal bounds, with the one template in whose dim light and confetti least can be seen among them."""
    view = drawn_view(MUG)
    same = fidelity(view, draw(template.design, MUG, seed=1)).score
    other = fidelity(view, draw(template.design, ProductLook(category="lamp", colour="BLUE"), seed=1)).score
    green = fidelity(view, draw(template.design, replace(MUG, colour="GREEN"), seed=1)).score
    none = fidelity(view, draw(template.design, nothing, seed=1)).score
    assert same >= 0.80
    assert max(other, green, none) <= 0.65
    assert same - max(other, green, none) >= 0.25


def test_the_product_is_found_where_it_stands() -> None:
    craft = Craft(size=0.4, offset_x=0.2, offset_y=-0.1)
    place, found = find(drawn_view(MUG), draw(Spec(scene="garden"), MUG, craft=craft))
    # the mug fills its tile from 0.14 to about 0.93 across and from 0.18 to 0.88 down
    assert place.x == pytest.approx(0.5 + 0.2 + 0.4 * 0.035, abs=0.02)
    assert place.y == pytest.approx(0.56 - 0.1 + 0.4 * 0.03, abs=0.02)
    assert place.size == pytest.approx(0.4 * 0.79, rel=0.08)
    assert found.score >= 0.9


def test_all_of_fidelity_is_between_0_and_1_and_1_for_the_picture_itself() -> None:
    picture = bottle(224)
    view = ProductView(picture, outline(picture))
    own = fidelity(view, picture)
    assert min(own.edges, own.look, own.score) >= 0.95
    for ad in (np.zeros((64, 64, 3), np.uint8), np.full((300, 300, 3), 255, np.uint8)):
        found = fidelity(view, ad)
        assert found.edges == found.score == 0.0
        assert 0 <= found.look <= 1
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert fidelity(view, noise).score <= 0.5


def test_a_drawn_product_is_recognised_and_drawn_anew() -> None:
    subject = subject_of(MUG_WORDS, mug_picture(size=0.45, blur=0.006, contrast=0.8))
    assert subject.seen == "drawn"
    assert subject.look == MUG


def test_the_colour_is_seen_where_no_word_tells_it() -> None:
    subject = subject_of(Product(title="Coffee cup"), mug_picture())
    assert subject.look == MUG


def test_a_photo_is_cut_out_whatever_its_words_say() -> None:
    subject = subject_of(MUG_WORDS, bottle())
    assert (subject.seen, subject.look) == ("cut out", None)


def test_the_cut_out_is_the_bottle_without_its_shadow() -> None:
    mask = outline(bottle()) > 127
    middle, half, _, bottom = BODY
    columns = np.flatnonzero(mask.any(axis=0)) / 400
    rows = np.flatnonzero(mask.any(axis=1)) / 400
    assert columns[[0, -1]] == pytest.approx([middle - half, middle + half], abs=0.02)
    assert rows[[0, -1]] == pytest.approx([0.08, bottom], abs=0.02)
    assert mask.mean() == pytest.approx(0.185, abs=0.02)


def test_a_hole_that_shows_the_backdrop_is_a_hole() -> None:
    picture = np.full((300, 300, 3), 245, np.uint8)
    cv2.circle(picture, (150, 150), 80, (160, 60, 30), 30)
    mask = outline(picture)
    assert mask[150, 150] == 0
    assert mask[150, 70] == 255
    assert mask[10, 10] == 0


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_one_colour_all_over_is_shown_whole(grey: int) -> None:
    subject = subject_of(BOTTLE_WORDS, np.full((80, 120, 3), grey, np.uint8))
    assert subject.seen == "whole picture"
    assert subject.view.box == (0, 0, 120, 80)


def test_a_cut_out_product_stands_in_the_drawn_scene() -> None:
    ad = DrawerRenderer().render([job(bottle(), BOTTLE_WORDS, 13)])[0]
    assert ad.made["product"] == "cut out"
    assert ad.fidelity.score >= 0.9
    empty = draw(TEMPLATES[13].design, nothing, seed=0)
    assert np.array_equal(ad.pixels[:40], empty[:40])
    green = ad.pixels[175, 105:110].astype(int)
    assert (green[:, 1] > green[:, 0] + 20).all()


@pytest.mark.slow
def test_same_job_same_bytes_alone_or_among_others() -> None:
    jobs = [job(mug_picture(), MUG_WORDS, n, seed=n) for n in range(6)] + [job(bottle(), BOTTLE_WORDS, 3)]
    together = DrawerRenderer(threads=4).render([replace(one, image_hash=one.product.title) for one in jobs])
    alone = [DrawerRenderer(threads=1).render([one])[0] for one in jobs]
    for first, second in zip(together, alone, strict=True):
        assert first.pixels.tobytes() == second.pixels.tobytes()
        assert first.fidelity == second.fidelity


def test_what_made_it() -> None:
    renderer = DrawerRenderer(px=96)
    ad = renderer.render([job(mug_picture(), MUG_WORDS, 15, seed=7)])[0]
    assert ad.pixels.shape == (96, 96, 3)
    assert ad.pixels.dtype == np.uint8
    assert {key: ad.made[key] for key in ("renderer", "version", "seed", "px", "steps", "image_hash", "product")} == {
        "renderer": "drawer", "version": renderer.version, "seed": 7, "px": 96, "steps": None, "image_hash": "p",
        "product": "drawn",
    }  # fmt: skip
    assert ad.made["spec"] == {
        "scene": "beach", "palette": "tropical", "clutter": "crowded", "lighting": "high_key", "text": "sale",
    }  # fmt: skip
    assert Design(**ad.made["design"]) == TEMPLATES[15].design


def test_jobs_that_the_drawer_cannot_do_are_named() -> None:
    renderer = renderer_of(RendererConfig())
    assert (renderer.name, renderer.px) == ("drawer", 224)
    with pytest.raises(UserError, match="px: 9"):
        renderer.render([job(bottle(), BOTTLE_WORDS, px=9)])
    with pytest.raises(UserError, match="image: uint8"):
        renderer.check(job(np.zeros((40, 40), np.uint8), BOTTLE_WORDS))
    with pytest.raises(UserError, match="seed: -1"):
        renderer.check(job(bottle(), BOTTLE_WORDS, seed=-1))
    assert renderer.render([]) == []


def test_templates_are_different_and_the_drawer_reads_them_back() -> None:
    assert len(TEMPLATES) == 24
    assert len({template.name for template in TEMPLATES}) == len({template.design for template in TEMPLATES}) == 24
    for template in TEMPLATES:
        assert spec_to_design(design_to_spec(template.design)) == template.design
    used = [design_to_spec(template.design) for template in TEMPLATES]
    for axis, count in (("scene", 8), ("palette", 8), ("clutter", 4), ("lighting", 6), ("text", 4)):
        assert len({getattr(spec, axis) for spec in used}) == count


def test_designs_are_drawn_by_seed() -> None:
    assert [template.name for template in draw_templates(3, 0)] == [name_of(design) for design in draw_designs(3, 0)]
    assert draw_designs(5, 1) == draw_designs(24, 1)[:5]
    assert draw_designs(5, 1) != draw_designs(5, 2)
    assert len(set(draw_designs(24, 3))) == 24
    with pytest.raises(UserError, match="25 designs; the list holds 24"):
        draw_designs(25, 0)
    with pytest.raises(UserError, match="0 designs"):
        draw_designs(0, 0)


def test_the_example_of_the_documentation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    code = (root / "docs/generation.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["ads"]) == 4


def test_the_documentation_names_every_template() -> None:
    page = (Path(__file__).parents[2] / "docs/generation.md").read_text(encoding="utf-8")
    names = page.split("with their\nnames: ")[1].split(". They")[0]
    assert tuple(names.replace("\n", " ").split(", ")) == tuple(template.name for template in TEMPLATES)
