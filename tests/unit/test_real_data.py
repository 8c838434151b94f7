"""The shipped configs on the real data room: import and records of BASS and of UCI retail, without Ray.

Reads the folder in COUNTRYREWARD_DATA, by default shared/data beside the repository; skipped where it is absent.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import draw_variants
import prior_chain
from countryreward.command import run
from countryreward.data.artifacts import publish
from countryreward.data.check import check, describe
from countryreward.data.dataset import Dataset
from countryreward.data.importers.import_dataset import import_dataset
from countryreward.data.records import Records, build_records

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("COUNTRYREWARD_DATA") or ROOT.parent / "shared" / "data").absolute()


def needs(path: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (DATA / path).exists(), reason=f"{DATA / path} is absent; set COUNTRYREWARD_DATA to the folder of real data"
    )


@dataclass(frozen=True)
class Imported:
    """A data set of the data room through import and records."""

    source: pd.DataFrame
    counts: dict[str, Any]
    dataset: Dataset
    records: Records


def shipped(job: Any, config: str) -> Any:
    """The options of jobs/configs/`config`, parsed as the job does."""
    found: list[Any] = []
    run(job.Config, found.append, ["--config", str(ROOT / "jobs" / "configs" / config)])
    return found[0]


def take(source: Path, config: Any, folder: Path) -> Imported:
    with publish(folder / "dataset", kind="dataset") as draft:
        draft.counts |= import_dataset(config.source, draft.path)
    dataset = Dataset.read(folder / "dataset")
    return Imported(pd.read_csv(source), draft.counts, dataset, build_records(dataset, config.records))


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNTRYREWARD_DATA", str(DATA))
        yield patch


@pytest.fixture(scope="module")
def bass(patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    config = shipped(prior_chain, "bass.yaml")
    return take(DATA / "bass" / "pairs_us_cn.csv", config, tmp_path_factory.mktemp("bass"))


@pytest.fixture(scope="module")
def retail(patched: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("retail")
    patched.chdir(folder)  # retail.yaml reads what retail_draw.yaml drew under runs/
    drawing = shipped(draw_variants, "retail_draw.yaml")
    drawing.image_px = 32
    draw_variants.main(drawing)
    config = shipped(prior_chain, "retail.yaml")
    return take(DATA / "retail" / "colour_variant_pairs.csv", config, folder)


def adds_up(imported: Imported) -> None:
    for name, table in imported.counts.items():
        assert table["input"] == table["kept"] + table["dropped"] + table["quarantined"], name
    pairs = imported.records.counts["pairs"]
    assert pairs["input"] == pairs["records"] + pairs["dropped"] + pairs["quarantined"]
    assert sum(pairs["dropped_by_reason"].values()) == pairs["dropped"]
    assert len(imported.records.frame) == pairs["records"]
    assert imported.records.frame["record_id"].is_unique


@needs("bass")
def test_bass_is_imported_whole(bass: Imported):
    adds_up(bass)
    assert bass.counts["pairs_file"]["input"] == 19_474 == bass.counts["pairs_file"]["kept"]
    assert bass.dataset.creatives["content_hash"].nunique() == 580
    assert {name: table["quarantined"] for name, table in bass.counts.items()} == dict.fromkeys(bass.counts, 0)
    assert set(bass.dataset.observations["kind"]) == {"score"}


@needs("bass")
def test_bass_drops_the_pairs_that_cross_the_image_split(bass: Imported):
    pairs, frame = bass.records.counts["pairs"], bass.records.frame
    assert pairs["input"] == 19_474
    assert pairs["dropped_by_reason"] == {"crosses_split": 12_702}
    assert pairs["records"] == 6_772
    assert (frame["label"] == 0.5).sum() == 8
    assert bass.records.counts["splits"] == {"test": 2_900, "train": 2_828, "validation": 1_044}
    split = bass.records.units.set_index("unit")["split"]
    assert (frame["hash_a"].map(split) == frame["split"]).all()
    assert (frame["hash_b"].map(split) == frame["split"]).all()


@needs("bass")
def test_bass_labels_are_those_of_the_file(bass: Imported):
    file = bass.source.assign(
        one=bass.source["product"] + "/" + bass.source["image_a"],
        two=bass.source["product"] + "/" + bass.source["image_b"],
    )
    winner = {
        (row.country, frozenset((row.one, row.two))): (row.one if row.label == "A" else row.two)
        for row in file.itertuples()
    }
    frame = bass.records.frame
    ties = frame["label"] == 0.5
    assert (frame["value_a"] == frame["value_b"])[ties].all()
    frame = frame[~ties]
    ours = frame["creative_a"].where(frame["label"] == 1, frame["creative_b"])
    keys = zip(frame["market"], frame["creative_a"], frame["creative_b"], strict=True)
    assert [winner[market, frozenset((a, b))] for market, a, b in keys] == ours.tolist()
    assert frame["soft_label"].isna().all()  # ratings have no impressions: nothing is invented
    assert frame["impressions_a"].isna().all()
    assert 0.45 < frame["label"].mean() < 0.55  # hashed orientation


@needs("bass")
def test_data_check_of_bass(bass: Imported):
    facts = check(bass.dataset, bass.records)
    assert facts["noise_ceiling"] is None
    assert facts["discordant_share"] == pytest.approx(0.1616, abs=0.0005)
    assert facts["markets"] == {"CN": 3386, "US": 3386}
    assert "noise ceiling     unknown" in describe(facts)


@needs("retail")
def test_retail_is_imported_whole_and_understands_its_countries(retail: Imported):
    adds_up(retail)
    assert retail.counts["pairs_file"]["input"] == 1_044 == retail.counts["pairs_file"]["kept"]
    assert retail.counts["products"]["kept"] == 215
    markets = retail.dataset.observations.groupby("market").size()
    assert set(markets.index) == {"GB", "DE", "IE", "FR", "ES", "NL", "BE", "CH", "AU", "NO", "FI", "CY"}
    assert retail.dataset.listed_pairs is not None
    listed = retail.dataset.listed_pairs["market"].value_counts()
    assert listed["IE"] == 120 == int((retail.source["country"] == "EIRE").sum())
    assert listed["GB"] == 416


@needs("retail")
def test_retail_records_assume_equal_exposure_and_say_so(retail: Imported):
    pairs, frame = retail.records.counts["pairs"], retail.records.frame
    ties = int((retail.source["orders_a"] == retail.source["orders_b"]).sum())
    assert pairs["dropped_by_reason"] == {}
    assert pairs["records"] == 1_044
    assert (frame["label"] == 0.5).sum() == ties == 147
    assert retail.records.counts["splits"] == {"test": 392, "train": 439, "validation": 213}
    assert frame["equal_exposure_assumed"].all()
    assert set(frame["kind"]) == {"orders"}
    assert frame["soft_label"].isna().all()
    assert (frame.groupby("product_id")["split"].nunique() == 1).all()
    facts = check(retail.dataset, retail.records)
    assert facts["noise_ceiling"] is None
    assert facts["markets"]["IE"] == 120
