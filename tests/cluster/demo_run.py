"""One shrunken run of `python jobs/demo.py`, shared by the tests of the chain and of the model."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[2]
MARKETS = ["BR", "FR", "KR", "US"]
SMALL = ["--marketplace.products=60", "--marketplace.image_px=64", f"--marketplace.markets=[{', '.join(MARKETS)}]"]
SPLIT = ["--records.split.validation=0.1", "--records.split.test=0.2"]  # enough products in each of so few
STAGES = (
    "export", "dataset", "records", "embeddings", "knowledge_base", "priors", "priors_paper", "choose_k", "features",
    "model", "report",
)  # fmt: skip
RANKING = ("accuracy", "balanced_accuracy", "sensitivity", "discordant_sensitivity", "discordant_ordering")
BASELINES = {
    "prior_only", "prior_only_paper", "prior_shuffled", "other_markets", "constant_letter", "market_blind_oracle",
}  # fmt: skip
OF_MODEL = {"country_reward", "country_masked", "country_shuffled", "name_only_masked", "images_masked"}
TRAINING = ["--loop.epochs=0.5", "--loop.validations=2", "--loop.validation_items=10", "--loop.log_every=5"]
UNJUDGED = "--allow_collapsed=a test's model: half an epoch on 60 products says nothing of its answers"


@dataclass(frozen=True)
class Run:
    """What one run of the demo left, read before the next run changed it."""

    folder: Path
    output: str
    manifests: dict[str, dict[str, Any]]
    report: dict[str, Any]
    html: str
    priors: pd.DataFrame
    model: Path
    """A copy of the model folder, taken elsewhere: it must work there."""

    @property
    def versions(self) -> dict[str, str]:
        """Stage -> version of its artifact."""
        return {stage: manifest["version"] for stage, manifest in self.manifests.items()}

    @property
    def run_ids(self) -> dict[str, str]:
        """Stage -> the run that wrote it."""
        return {stage: manifest["run_id"] for stage, manifest in self.manifests.items()}


def run_demo(folder: Path, *options: str) -> Run:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COUNTRYREWARD_"))}
    command = [
        sys.executable,
        "jobs/demo.py",
        f"--out={folder}",
        *SMALL,
        "--draws=200",
        "--ray.cpus=2",
        *SPLIT,
        *TRAINING,
        UNJUDGED,
        *options,
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "PYTHONPATH": "platform"}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(
        folder=folder,
        output=done.stdout,
        manifests={stage: json.loads((folder / stage / "manifest.json").read_text()) for stage in STAGES},
        report=json.loads((folder / "report.json").read_text()),
        html=(folder / "report.html").read_text(),
        priors=pd.read_parquet(folder / "priors" / "priors.parquet"),
        model=Path(
            shutil.copytree((folder / "model").resolve(), folder.parent / f"model-{len(os.listdir(folder.parent))}")
        ),
    )
