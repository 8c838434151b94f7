"""The writer's whole way on the shrunken demo, as commands: designs, cold start by DeepSpeed, one round of alignment, ads.

The ads are SDXL's with a canny ControlNet, tiny and of random weights: it shows that the loop holds, not what a writer is worth.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from countryreward.data.artifacts import open_artifact
from countryreward.data.tables import CASES, PREFERENCE_PAIRS
from tests.cluster.demo_run import MARKETS, ROOT, Run

pytestmark = pytest.mark.long  # four minutes


@dataclass(frozen=True)
class Aligned:
    """What the commands left."""

    folder: Path
    said: dict[str, str]


def job(name: str, *options: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "COUNTRYREWARD_"))}
    done = subprocess.run(
        [sys.executable, f"jobs/{name}.py", *options],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": "platform"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def aligned(demo: Run, tmp_path_factory: pytest.TempPathFactory) -> Aligned:
    folder, run = tmp_path_factory.mktemp("aligned"), demo.folder
    data = [f"--dataset={run}/dataset", f"--records={run}/records"]
    said = {
        "designs": job("import_designs", *data, f"--designs.path={run}/export/designs.jsonl", f"--out={folder}/designs")
    }
    teach = ["--loop.epochs=14", "--loop.batch_size=8", "--loop.learning_rate=2e-3", "--loop.checkpoint_every=0"]
    said["designer"] = job(
        "train_designer", f"--designs={folder}/designs", data[0], f"--out={folder}/designer", *teach, "--ray.cpus=2"
    )
    said["aligned"] = job(
        "align_designs", *data, f"--writer={folder}/designer", f"--out={folder}/aligned", "--count=1", "--products=4",
        "--judged=3", "--both_orders=false", "--rule.both_orders=false", "--rule.margin=0.51", f"--truth={run}/export",
        f"--services.reward={run}/model", "--services.reward_cpus=0", "--services.generator_cpus=0", "--writers.cpus=0",
        "--services.renderer.kind=tiny", "--loop.write_batch=16", "--training.epochs=1", "--training.batch_size=2",
        "--bootstrap=50", "--ray.cpus=2",
    )  # fmt: skip
    said["ads"] = job(
        "generate_ads", "--market=KR", f"--product={_a_product(folder)}", "--n=2", data[0], f"--writer={folder}/aligned",
        f"--model={run}/model", "--renderer.kind=tiny", f"--out={folder}/ads",
    )  # fmt: skip
    return Aligned(folder, said)


def _a_product(folder: Path) -> str:
    return pq.read_table(folder / "rounds/reference/cases/cases.parquet").column("product_id")[0].as_py()


def test_a_writer_is_taught_and_published(aligned: Aligned) -> None:
    made = open_artifact(aligned.folder / "designer", kind="design_writer")
    about = json.loads((made.path / "writer.json").read_text())
    with safe_open(made.path / "model.safetensors", framework="pt") as weights:
        assert not [name for name in weights.keys() if "market" in name]  # noqa: SIM118
    assert (about["stage"], about["image_px"], about["preset"]) == ("supervised", 112, "tiny")
    assert about["validation_log_prob"] > -1.5
    assert "model.safetensors" in made.manifest.files
    assert not [name for name in made.manifest.files if name.endswith((".bin", ".pt", ".pth"))]


def test_pairs_of_a_round_add_up_and_say_what_made_them(aligned: Aligned) -> None:
    pairs = open_artifact(aligned.folder / "rounds/round-1/pairs", kind="pairs")
    tasks = pairs.manifest.counts["tasks"]
    assert tasks["input"] == 4 * len(MARKETS) == tasks["kept"] + tasks["dropped"] + tasks["quarantined"]
    assert tasks["kept"] >= 4, tasks
    table = pq.read_table(pairs.path / "pairs.parquet", schema=PREFERENCE_PAIRS)
    assert set(table.column("renderer").to_pylist()[0].split()[:1]) == {"tiny"}
    assert min(table.column("probability").to_pylist()) >= 0.51


def test_the_round_is_judged_and_its_writer_published(aligned: Aligned) -> None:
    folder = aligned.folder
    for name in ("reference", "round-1"):
        rows = pq.read_table(folder / f"rounds/{name}/cases/cases.parquet", schema=CASES).to_pylist()
        assert rows
        judges = {judge for row in rows for judge, _ in row["beats_original"]}
        assert judges == {"reward", "truth"}
        assert any(row["beats_reference"] for row in rows) == (name == "round-1")
    logs = pq.read_table(folder / "rounds/reference/cases/log_probs.parquet").to_pylist()
    assert all(row["log_prob"] == row["log_prob_reference"] for row in logs)
    table = json.loads((folder / "table2.json").read_text())
    assert {row["variant"] for row in table["rows"]} == {"reference", "round-1"}
    assert table["kept"] in ("reference", "round-1")
    made = open_artifact(folder / "aligned", kind="design_writer")
    kept = folder / "designer" if table["kept"] == "reference" else folder / "rounds/round-1/designer"
    assert made.manifest.inputs["writer"]["version"] == open_artifact(kept, kind="design_writer").manifest.version
    assert "There is no held-out judge" in (folder / "alignment.html").read_text()


def test_ads_of_the_aligned_writer(aligned: Aligned) -> None:
    told = json.loads((aligned.folder / "ads" / "ads.json").read_text())
    assert "KR" in json.dumps(told)
    assert (aligned.folder / "gallery.html").is_file()
    assert len(list((aligned.folder / "ads" / "ads").glob("KR-*.png"))) == 2
