"""A reward that loves one colour, in a real loop: real writer, drawer, Ray, DPO. The writer learns to please it, the judge that
took no part sees the ads get worse, and the rule stops and keeps the writer from before.
"""

import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ray import serve

from countryreward.data.artifacts import open_artifact
from countryreward.generation.generation_config import PairRule, TasksConfig
from countryreward.on_ray.ray_config import AdMakingConfig, PairLoopConfig, RayConfig, ServicesConfig, WritersConfig
from countryreward.scoring.contracts import PairRequest, ScoreRequest, Verdict
from countryreward.training.training_config import WriterLoop, WriterTraining
from tests.unit.in_threads import ThreadedScorer, each_pair

BLUE = "loves-blue"


class LovesBlue:
    """A Scorer: the bluer ad wins, anywhere."""

    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]:
        return [[self._one(pair) for pair in each_pair(request)] for request in requests]

    def _one(self, request: PairRequest) -> Verdict:
        logit = 12 * (blueness(request.image_a) - blueness(request.image_b))
        probability = 1 / (1 + math.exp(-logit))
        return Verdict(
            market=request.market_code(), probability=probability, calibrated_probability=probability,
            choice="A" if probability > 0.5 else "B", log_odds=logit, evidence=(), past_ads=0, model_version=BLUE,
            knowledge_base_version=None,
        )  # fmt: skip


def blueness(data: bytes) -> float:
    """Mean of blue less red over an image, in [-1, 1]."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    return float((pixels[..., 2] - pixels[..., 0]).mean())


@serve.deployment(name=BLUE, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class BlueReward:
    """As `countryreward.on_ray.deployments.reward_deployment.Reward`, by handle alone."""

    def __init__(self, markets: list[str]) -> None:
        self.scorer = ThreadedScorer(LovesBlue(), markets, {"model": BLUE, "knowledge_base": None})

    async def score(self, request: ScoreRequest) -> list[Any]:
        return await self.scorer.score(request)

    async def about(self) -> dict[str, Any]:
        return await self.scorer.about()


def test_a_reward_that_loves_one_colour_is_caught(run: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "jobs"))
    import align_designs
    import import_designs
    import train_designer
    from countryreward.data.data_config import TableSource
    from countryreward.on_ray.session import session

    at: dict[str, Any] = {name: str(run / name) for name in ("dataset", "records")}
    export = run / "export"
    markets = open_artifact(export, kind="export", verify=False).manifest.config["markets"]
    with session(RayConfig(cpus=2)):
        import_designs.main(
            import_designs.Config(
                **at, designs=TableSource(path=str(export / "designs.jsonl")), out=str(tmp_path / "designs")
            )
        )
        steps = open_artifact(tmp_path / "designs", kind="designs").manifest.counts["records"]["splits"]["train"] / 16
        loop = WriterLoop(epochs=max(0.4, 250 / steps))
        train_designer.main(
            train_designer.Config(
                training=WriterTraining(designs=str(tmp_path / "designs"), dataset=at["dataset"], loop=loop),
                out=str(tmp_path / "designer"),
            )
        )
        serve.start(proxy_location="Disabled")
        serve.run(BlueReward.bind(markets), name=BLUE, route_prefix=None)
        made = align_designs.main(
            align_designs.Config(
                tasks=TasksConfig(**at, products=30, draws=2), writer=str(tmp_path / "designer"),
                held_out=str(run / "model"), truth=str(export), count=3, judged=24,
                training=WriterLoop(epochs=1), rule=PairRule(both_orders=False),
                both_orders=False, everywhere=True,
                making=AdMakingConfig(
                    writers=WritersConfig(actors=2, cpus=0),
                    services=ServicesConfig(reward=f"app:{BLUE}", reward_cpus=0, generator_cpus=0),
                    loop=PairLoopConfig(write_batch=32, write_in_flight=4, render_batch=16, score_batch=16),
                ),
                out=str(tmp_path / "aligned"),
            )
        )  # fmt: skip
        serve.delete(BLUE)
    told = json.loads((tmp_path / "alignment.json").read_text())
    decision = told["decision"]
    last = told["variants"][told["order"][-1]]["beats_reference"]
    print(
        f"\n{decision['why']}\nlast: "
        + ", ".join(f"{name} {found['share']['value']:.3f}" for name, found in last.items())
    )
    assert decision["stop"], decision
    assert last["reward"]["share"]["value"] > 0.6  # it was pleased
    assert last["held_out"]["share"]["value"] < 0.5
    assert last["truth"]["share"]["value"] < 0.5
    assert decision["last_good"] != told["order"][-1]
    assert made.manifest.config["why"] == decision["why"]
