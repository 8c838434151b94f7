"""What the simulated customers of a market prefer, of ads that were shown and of ads that were not."""

import numpy as np
import pytest
from scipy.special import logit

from countryreward.data.artifacts import publish
from countryreward.data.design import Design
from countryreward.data.marketplace.drawer import GOOD_CRAFT, Craft
from countryreward.data.marketplace.export import spec_of, write_export
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig
from countryreward.data.marketplace.simulate import simulate
from countryreward.data.marketplace.true_preference import TruePreference, visible_quality
from countryreward.data.marketplace.vocabulary import spec_to_design
from countryreward.errors import UserError

CONFIG = MarketplaceConfig(products=6, image_px=32, markets=["KR", "BR"], periods=1, seed=3, world_seed=7)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> TruePreference:
    folder = tmp_path_factory.mktemp("truth") / "export"
    with publish(folder, kind="export", config=CONFIG) as draft:
        write_export(draft.path, CONFIG)
    return TruePreference(folder)


def test_differences_between_shown_ads_are_those_of_their_true_click_rates(truth: TruePreference) -> None:
    made = simulate(CONFIG)
    rates = made.truth.set_index(["creative_id", "market"])["ctr"]
    for product in ("p00000", "p00003"):
        for market in ("KR", "BR"):
            first, second = f"{product}-c1", f"{product}-c3"
            expected = logit(rates[first, market]) - logit(rates[second, market])
            found = truth.of_creative(first, market) - truth.of_creative(second, market)
            assert found == pytest.approx(expected)


def test_an_ad_of_the_same_design_differs_by_its_craft_and_by_what_cannot_be_seen(truth: TruePreference) -> None:
    made = simulate(CONFIG)
    row = {str(name): value for name, value in made.specs.iloc[0].items()}
    craft = Craft(**{name: row[name] for name in ("size", "offset_x", "offset_y", "blur", "contrast")})
    design = spec_to_design(spec_of(row))
    level = truth.level
    drawn = truth.of_design(design, row["creative_id"], "KR", craft)
    seen = level.shared_sd * np.sqrt(level.visible_share) * visible_quality(craft)
    assert truth.of_creative(row["creative_id"], "KR") - drawn == pytest.approx(row["shared"] - seen)
    assert abs(row["shared"] - seen) < 4 * level.shared_sd * np.sqrt(1 - level.visible_share)
    assert visible_quality(GOOD_CRAFT) > 2 > visible_quality(Craft(size=0.5, offset_x=0.08, blur=0.006, contrast=0.85))


def test_countries_differ_and_strangers_are_refused(truth: TruePreference) -> None:
    designs = [
        Design(foreground="Alone.", background=scene, color_tone=tone, lighting="Daylight.")
        for scene in ("A beach.", "A city street.", "A kitchen.")
        for tone in ("Neon.", "Neutral beige.")
    ]
    likings = {m: [truth.of_design(design, "p00000-c1", m) for design in designs] for m in ("KR", "BR")}
    assert np.argsort(likings["KR"]).tolist() != np.argsort(likings["BR"]).tolist()
    with pytest.raises(UserError, match="creative_id: 'x' is not in this marketplace"):
        truth.of_creative("x", "KR")
