"""Import paths of the release before still work, and say the new one."""

import importlib
import importlib.util
import sys

import pytest

from countryreward.renamed_modules import RENAMED


def test_the_old_path_of_the_client_is_the_new_module():
    with pytest.warns(FutureWarning, match=r"countryreward\.serving\.client is countryreward\.client now"):
        old = importlib.import_module("countryreward.serving.client")
    new = importlib.import_module("countryreward.client")
    assert old is new
    assert new.__spec__ is not None
    assert new.__spec__.name == "countryreward.client"
    del sys.modules["countryreward.serving.client"]


def test_names_of_an_old_module_come_from_the_new_one():
    with pytest.warns(FutureWarning, match=r"generation\.preference_table"):
        old = importlib.import_module("countryreward.generation.pair_table")
    assert old.PreferencePairs.__module__ == "countryreward.generation.preference_table"
    del sys.modules["countryreward.generation.pair_table"]


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_every_old_path_leads_to_a_module(old):
    assert importlib.util.find_spec(f"countryreward.{RENAMED[old]}") is not None


def test_an_unknown_module_is_still_unknown():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("countryreward.serving.nothing")


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("data.image_source", "ImageSource"),
        ("data.image_table", "ImageTable"),
        ("data.images", "decode"),
        ("data.items", "item_keys"),
        ("data.own_pictures", "own_pictures"),
        ("data.records", "Dataset"),
        ("data.thumbnails", "thumbnail"),
        ("data.importers.creatives", "import_creatives"),
        ("data.importers.dataset", "import_dataset"),
        ("data.importers.fingerprint", "source_fingerprint"),
        ("data.importers.output", "write_sorted"),
        ("data.marketplace.variants", "draw_variant_pairs"),
        ("data.marketplace.wording", "spec_to_design"),
        ("equations.adapter", "CountryAdapter"),
        ("equations.diffusion", "denoised"),
        ("equations.diversity", "market_effect"),
        ("equations.gain", "preferred"),
        ("equations.head", "augment"),
        ("equations.preference", "dpo_loss"),
        ("generation.outcome_store", "OutcomeStore"),
        ("generation.outline", "canny_image"),
        ("generation.render_files", "render_files"),
        ("generation.rendering", "renderer_of"),
        ("generation.tasks", "AdTask"),
        ("generation.truth", "add_truth"),
        ("on_ray.awaited", "AsyncWriter"),
        ("on_ray.handle_renderer", "HandleRenderer"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_a_merged_module_held_is_still_found_by_its_old_path(old, name):
    assert hasattr(importlib.import_module(f"countryreward.{old}"), name)
    if old in RENAMED:
        del sys.modules[f"countryreward.{old}"]
