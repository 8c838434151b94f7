"""From what is published to a model that answers: opened, checked, warmed up."""

from pathlib import Path

import pyarrow.parquet as pq
import torch

from countryreward import __version__
from countryreward.errors import UserError
from countryreward.scoring.contracts import Product, ScoreRequest
from countryreward.scoring.country_reward import CountryReward
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.probe import run_probe, tolerance
from countryreward.scoring.scoring_config import RewardScorerConfig
from countryreward.serving.inference.engine import InferenceEngine
from countryreward.serving.inference.hot_reload import Published
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import RewardServiceConfig


def load_reward(
    published: Published, config: RewardServiceConfig, device: str, watching: MetricsObserver
) -> InferenceEngine:
    """Open a model with every file checked against its hash, run its probe, read all that requests will need.

    device: cpu, cuda, or auto. Raises `UserError` for a folder that is broken, damaged, or whose model is collapsed.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    limits = RewardScorerConfig(
        abstain_below=config.abstain_below, max_bytes=config.max_image_bytes, max_pixels=config.max_pixels
    )
    folder = ModelFolder.open(published.model, published.knowledge_base)
    reward = CountryReward(folder, device=device, config=limits)
    passed = Path(config.state) / "accepted" / f"{folder.artifact.manifest.version}-{__version__}-{device}"
    if not passed.exists():  # a replica that takes a dead one's place need not ask the probe again
        _probe(reward, device)
        passed.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        passed.touch()
    for code in folder.base.markets:  # an old version's folder may be gone when a market is first asked for
        market = folder.base.market(code)
        assert market is not None, code
        market.evidence(None)
    _warm_up(reward)
    return InferenceEngine(reward, config, watching)


def _probe(reward: CountryReward, device: str) -> None:
    """Raises `UserError` for a model that answers otherwise than when it was trained, or is collapsed without a reason given."""
    probe = run_probe(reward.judge, reward.folder)
    if probe.deviation > (allowed := tolerance(reward.folder, device)):
        raise UserError(
            f"model: its probe answers differ by {probe.deviation:.3g} from those of its training, at most {allowed:g}"
            " is rounding; publish it again with this version of the library"
        )
    told = reward.folder.artifact.manifest.counts.get("probe", {})
    if (collapsed := probe.collapsed()) and not told.get("allowed"):
        raise UserError(f"model: {collapsed}; publish it with --allow_collapsed if that is meant")


def _warm_up(reward: CountryReward) -> None:
    """One question of the probe, retrieval and verdict included: the first caller must not wait for what is loaded late."""
    row = pq.ParquetFile(reward.folder.artifact.path / "probe.parquet").read_row_group(0).slice(0, 1).to_pylist()[0]
    images = (row["image_a"], row["image_b"])
    reward.score([ScoreRequest.of_images(Product(title=row["title"]), images, markets=(row["market"],))])
