"""HTTP against in process for a model of any shape: a small folder around it, a few ads, the service without Ray or with it."""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from countryreward.data.artifacts import Artifact, publish
from countryreward.models.processor import load_processor
from countryreward.models.reward_config import RewardOptions
from countryreward.models.reward_model import CountryRewardModel
from countryreward.models.tower import backbone_folder
from countryreward.retrieval.encoders import load_image_encoder, load_text_encoder
from countryreward.scoring.contracts import Product, ScoreRequest
from countryreward.scoring.country_reward import CountryReward
from countryreward.scoring.model_folder import PROBE, ModelFolder
from countryreward.serving.http.keys import FILE, KeyStore
from countryreward.serving.inference.engine import InferenceEngine
from countryreward.serving.service_config import ServiceConfig
from tests.unit.conftest import write_world

ROOT = Path(__file__).parents[2]
MARKETS = ("BR", "FR", "KR")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Which model stands in the folder's place. It is made where it is needed, so this must travel to another process."""

    make: Callable[[], CountryRewardModel] | None = None
    """None: the folder's own, the tiny one."""
    px: int = 28
    """Side of an image as the model sees it."""
    device: str = "cpu"


def small_folder(folder: Path) -> Path:
    """A model folder with a knowledge base of random vectors; its weights are the shipped tiny backbone's."""
    names = {"text": "hashed-ngrams", "image": "layout-hog"}
    made_by = {
        "text": load_text_encoder(names["text"]).fingerprint,
        "image": load_image_encoder(names["image"]).fingerprint,
    }
    known = {"encoder_names": names, "encoders": made_by}
    text_width = load_text_encoder(names["text"]).encode(["lamp"]).shape[1]
    image_width = load_image_encoder(names["image"]).encode([Image.new("RGB", (28, 28))]).shape[1]
    base = _random_base(folder / "world", text_width, image_width)
    with publish(folder / "base", kind="knowledge_base", config=known) as draft:
        shutil.copytree(base.path, draft.path, dirs_exist_ok=True)
    with publish(folder / "model", kind="model") as draft:
        model = CountryRewardModel.from_backbone(backbone_folder("tiny"), RewardOptions())
        model.config.image_px = 28
        model.save_pretrained(draft.path)
        load_processor(backbone_folder("tiny")).save_pretrained(draft.path)
        shutil.copytree(folder / "base", draft.path / "knowledge_base")
        told = {"uri": "knowledge_base", "schema_version": 1, "retrieval": None, **known}
        told["version"] = json.loads((folder / "base" / "manifest.json").read_text())["version"]
        for name, value in (
            ("knowledge_base.json", told),
            ("calibration.json", {"temperature": 1.0}),
            ("markets.json", {"trained": [{"code": code} for code in MARKETS]}),
            ("training.json", {"precision": "fp32"}),
        ):
            (draft.path / name).write_text(json.dumps(value))
        pq.write_table(pa.Table.from_pylist([], schema=PROBE), draft.path / "probe.parquet")
    return folder / "model"


def _random_base(folder: Path, text_width: int, image_width: int) -> Artifact:
    """60 products with two past ads each in every market, all random unit vectors."""
    dice = np.random.default_rng(0)
    products = [f"p{n:02d}" for n in range(60)]
    creatives = [(f"{product}-{side}", product) for product in products for side in "ab"]
    clicks = {name: int(dice.integers(10, 90)) for name, _ in creatives}
    made = write_world(
        folder,
        products=products,
        creatives=creatives,
        rows=[
            {
                "creative_id": name, "market": market, "period_start": date(2026, 1, 1), "period_end": date(2026, 1, 28),
                "kind": "counts", "impressions": 2_000, "clicks": clicks[name],
            }
            for name, _ in creatives for market in MARKETS
        ],
        text=dict(zip(products, _unit(dice, len(products), text_width), strict=True)),
        image=dict(zip([name for name, _ in creatives], _unit(dice, len(creatives), image_width), strict=True)),
    )  # fmt: skip
    return made[0].artifact


def _unit(dice: np.random.Generator, count: int, width: int) -> NDArray[np.float32]:
    vectors = dice.normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def small_export(folder: Path, px: int, products: int = 32) -> Path:
    """Products and their two JPEGs each, as a marketplace exports them."""
    (folder / "images").mkdir(parents=True)
    dice = np.random.default_rng(0)
    ids = [f"p{n:02d}" for n in range(products)]
    for name in (f"{product}-{side}" for product in ids for side in "ab"):
        coarse = dice.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((px, px)).save(folder / "images" / f"{name}.jpg")
    pd.DataFrame(
        {"product_id": ids, "title": [f"Oak desk lamp {product}" for product in ids], "category": "Lighting"}
    ).to_csv(folder / "products.csv", index=False)
    pd.DataFrame(
        [(product, f"{product}-{side}.jpg") for product in ids for side in "ab"], columns=["product_id", "image_uri"]
    ).to_csv(folder / "creatives.csv", index=False)
    return folder


def judge_of(folder: Path, shape: Shape) -> CountryReward:
    """The folder's judge with the shape's model in it."""
    scorer = CountryReward(ModelFolder.open(folder), device="cpu" if shape.make else shape.device)
    if shape.make:
        from countryreward.judges.pairwise import PairwiseJudge

        assert isinstance(scorer.judge, PairwiseJudge)
        scorer.judge = PairwiseJudge(shape.make(), scorer.judge.processor)
    return scorer


def in_process_rate(judge: CountryReward, export: Path, seconds: float, start: int) -> float:
    """Pairs per second in lists of 64, images fresh, as benchmarks/serving.py."""
    load_pairs, questions = _benchmarks()
    calls = questions(load_pairs(export, 32), MARKETS, 1, fresh=True, start=start)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        batch = [
            ScoreRequest.of_images(
                Product(title=pair.title, category=pair.category), (a, b), markets=(asked[0],), evidence=5
            )
            for pair, (a, b), asked in islice(calls, 64)
        ]
        count += len(judge.score(batch))
    return count / (time.perf_counter() - begun)


def http_rate(url: str, key: str, export: Path, seconds: float, connections: int, start: int) -> float:
    """Pairs per second over HTTP at saturation; every answer must be a 200."""
    load = {
        "url": f"{url}/v1/score", "key": key, "export": str(export), "markets": list(MARKETS), "seconds": seconds,
        "settle": seconds / 3, "connections": connections, "start": start,
    }  # fmt: skip
    program = [sys.executable, str(ROOT / "benchmarks" / "serving_load.py")]
    done = subprocess.run(program, input=json.dumps(load), stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout)
    assert measured["failed"] == 0, measured["first_failure"]
    return measured["verdicts"] / measured["seconds"]


def make_key(state: Path) -> str:
    """One that no rate holds back."""
    return KeyStore(state / FILE, poll_s=0).create("bench", rate="1000000000/minute")


@contextlib.contextmanager
def without_ray(judge: CountryReward, config: ServiceConfig, port: int) -> Iterator[str]:
    """The service's app in a uvicorn in a thread of this process; its URL."""
    import uvicorn

    from countryreward.serving.http.apps import create_app
    from countryreward.serving.http.rates import Rates

    keys = KeyStore(Path(config.state) / FILE, config.poll_s)
    app = create_app(InferenceEngine(judge, config), config, keys=keys, rates=Rates.of(config))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextlib.contextmanager
def on_serve(folder: Path, shape: Shape, config: ServiceConfig, port: int, gpus: float) -> Iterator[str]:
    """One replica on a private Ray; its URL."""
    from countryreward.on_ray.ray_config import RayConfig
    from countryreward.on_ray.session import session

    with session(RayConfig()):
        from ray import serve

        from countryreward.on_ray.deployments.reward_deployment import RewardArgs, build

        args = RewardArgs(model=str(folder), knowledge_base="", device="cuda" if gpus else "cpu", service=config)
        options = {
            "ray_actor_options": {"num_cpus": 1, "num_gpus": gpus},
            "num_replicas": 1,
            "autoscaling_config": None,
        }
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(args, partial(_load, shape=shape), options), name="reward", route_prefix="/")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


def _load(published: Any, config: Any, device: str, watching: Any, *, shape: Shape) -> InferenceEngine:
    return InferenceEngine(judge_of(published.model, shape), config, watching)


def _benchmarks() -> tuple[Any, Any]:
    if str(ROOT / "benchmarks") not in sys.path:
        sys.path.insert(0, str(ROOT / "benchmarks"))
    from serving_questions import load_pairs, questions  # pyright: ignore[reportMissingImports]

    return load_pairs, questions
