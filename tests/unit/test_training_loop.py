"""Feature store, examples and the reward loop on the shipped tiny backbone."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from countryreward.data.artifacts import publish
from countryreward.data.feature_store import KIND, FeatureStore
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.models.learning_rate_groups import parameter_groups
from countryreward.models.processor import load_processor, pixels
from countryreward.models.reward_config import LearningRates, RewardOptions
from countryreward.models.reward_model import CountryRewardModel
from countryreward.models.reward_prompts import PromptBuilder
from countryreward.models.tower import VisionTower, backbone_folder
from countryreward.scoring.predict import Examples, Loader, StoredFeatures, build_examples, judge
from countryreward.training.data_order import DataOrder, Swaps
from countryreward.training.divergence import Diverged
from countryreward.training.engine import TorchEngine
from countryreward.training.reward_loop import train_reward
from countryreward.training.training_config import LoopConfig

pytestmark = pytest.mark.slow

PX = 28  # one visual token an image


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    return VisionTower("tiny", px=PX)


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"h{n}": np.full((40, 40, 3), rng.integers(0, 255, 3), dtype=np.uint8) for n in range(6)}


@pytest.fixture(scope="module")
def store(
    tower: VisionTower, pictures: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> FeatureStore:
    path = tmp_path_factory.mktemp("features") / "features"
    with publish(path, kind=KIND, config={"tower": tower.fingerprint}) as draft:
        np.save(draft.path / "features.npy", tower.encode(list(pictures.values())))
        pq.write_table(pa.table({"content_hash": list(pictures), "row": np.arange(6)}), draft.path / "index.parquet")
    return FeatureStore.open(path, tower=tower.fingerprint)


def make(store: FeatureStore, **options) -> tuple[CountryRewardModel, Loader]:
    torch.manual_seed(0)
    model = CountryRewardModel.from_backbone(backbone_folder("tiny"), RewardOptions(**options))
    tokenizer = load_processor(backbone_folder("tiny")).tokenizer
    rows = [
        {"record_id": f"r{n}-{market}", "product_id": "p", "market": market, "hash_a": f"h{n}", "hash_b": f"h{(n + 1) % 6}",
         "target": float(n % 2 == 0)}
        for n in range(6) for market in ("KR", "BR")
    ]  # fmt: skip
    product = {"product_id": "p", "title": "Oak lamp", "category": "Lighting", "attributes": None, "tags": None}
    builder = PromptBuilder(tokenizer, model.options)
    examples = build_examples(
        pd.DataFrame(rows), pd.DataFrame([product]), None, builder, grid=(1, 2, 2), quarantine=Quarantine("test")
    )
    return model, Loader(examples, StoredFeatures(store), tokenizer.pad_token_id)


def test_the_words_of_creatives_reach_the_prompts_of_records():
    tokenizer = load_processor(backbone_folder("tiny")).tokenizer
    builder = PromptBuilder(tokenizer, RewardOptions())
    record = {"record_id": "r", "product_id": "p", "market": "KR", "hash_a": "h", "hash_b": "h", "target": 1.0}
    records = pd.DataFrame([record | {"creative_a": "c2", "creative_b": "c1"}])
    products = pd.DataFrame(
        [{"product_id": "p", "title": "Oak lamp", "category": None, "attributes": None, "tags": None}]
    )
    creatives = pd.DataFrame(
        [["c1", "Warm light", None, None, None, "x"], ["c2", None, None, None, None, None]],
        columns=["creative_id", "headline", "body", "call_to_action", "tags", "copy_hash"],
    )
    examples, bare = (
        build_examples(records, products, None, builder, grid=(1, 2, 2), quarantine=Quarantine("test"), creatives=table)
        for table in (creatives, creatives.assign(copy_hash=None))
    )
    (prompt,) = examples.prompts
    assert tokenizer.decode(prompt.ids[prompt.spans[4]]).strip() == "Warm light"
    assert not prompt.spans[3].any()
    assert (examples.copy, bare.copy) == (True, False)


def test_the_store_refuses_another_tower_and_an_unknown_image(store: FeatureStore):
    with pytest.raises(UserError, match="made by tower"):
        FeatureStore.open(store.artifact.path, tower="other")
    with pytest.raises(UserError, match="image nobody is not in the store"):
        store.read(["nobody"])


@pytest.mark.parametrize("half", [False, True])
def test_stored_features_give_the_loss_of_encoding_in_the_step(
    store: FeatureStore, pictures: dict[str, np.ndarray], half: bool
):
    model, loader = make(store)
    processor = load_processor(backbone_folder("tiny"))
    batch, stored, target = loader.load(np.arange(12))
    values, _ = pixels(processor, [pictures[name] for name in batch.images], PX)
    for block in model.backbone.visual.blocks:
        block.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        losses = [
            torch.nn.functional.binary_cross_entropy_with_logits(model(batch, **images).logit, target)
            for images in (stored, {"pixel_values": values})
        ]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)


@pytest.mark.parametrize("orders", ["both", "one"])
def test_a_few_steps_lower_the_loss_and_the_log_tells(store: FeatureStore, orders: Any):
    model, loader = make(store)
    config = LoopConfig(
        epochs=1,
        precision="fp32",
        orders=orders,
        batch_size=6,
        accumulation=1,
        log_every=10,
        validations=2,
        engine="torch",
    )
    rates = LearningRates(merger=3e-3, llm=3e-3, adapter=3e-3, classifier=3e-3)
    engine = TorchEngine(model, parameter_groups(model, rates), lambda step: 1.0, accumulation=1, max_grad_norm=1.0)
    lines: list[dict] = []
    validated: list[int] = []
    made = train_reward(engine, model, loader, config, steps=40, log=lines.append, validate=validated.append)
    assert made == 40
    assert validated == [20, 40]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["bce"] < 0.1  # a coin: .69
    assert all(line["penalty_to_bce_gradient"] is not None for line in lines)
    assert 0 <= lines[-1]["padding_share"] < 0.5
    assert 0 < lines[-1]["gradient_norm"] < lines[0]["gradient_norm"]


def test_a_planted_nan_ends_the_training_at_its_step_before_anything_is_logged_validated_or_saved(store: FeatureStore):
    model, loader = make(store)
    loader.examples.records.loc[7, "target"] = float("nan")
    loader = Loader(Examples(loader.examples.prompts, loader.examples.records), loader.images, loader.pad_id)
    config = LoopConfig(
        epochs=1, precision="fp32", orders="one", batch_size=4, accumulation=1, log_every=1, validations=3, engine="torch",
        checkpoint_every=1,
    )  # fmt: skip
    order = DataOrder(loader.examples.lengths, batch_size=4, seed=0, workers=1)
    bad = next(step for step in range(1, 4) if 7 in order.batch(step - 1, 0)[1])
    rates = LearningRates(merger=3e-3, llm=1e-3, adapter=3e-3, classifier=3e-3)
    engine = TorchEngine(model, parameter_groups(model, rates), lambda step: 1.0, accumulation=1, max_grad_norm=1.0)
    reached: dict[str, list[int]] = {"log": [], "validate": [], "checkpoint": []}
    with pytest.raises(Diverged) as error:
        train_reward(
            engine, model, loader, config, steps=4, log=lambda line: reached["log"].append(line["step"]),
            validate=reached["validate"].append, checkpoint=lambda progress: reached["checkpoint"].append(progress.step),
        )  # fmt: skip
    assert f"at step {bad} of 4 the loss is nan for the batch of 4 records" in str(error.value)
    assert loader.examples.records["record_id"][7] in str(error.value)
    assert "llm 0.001" in str(error.value)
    assert all(step < bad for steps in reached.values() for step in steps)


def test_one_order_of_each_pair_is_drawn_anew_in_every_epoch_and_the_same_for_any_number_of_workers(
    store: FeatureStore,
):
    _, loader = make(store)

    def told(world: int) -> list[dict[int, bool]]:
        epochs: list[dict[int, bool]] = [{}, {}]
        for rank in range(world):
            order = DataOrder(loader.examples.lengths, batch_size=3, seed=4, workers=world)
            swaps = Swaps(4, 12)
            for number in range(2 * 12 // (3 * world)):
                epoch, chosen = order.batch(number, rank)
                epochs[epoch] |= dict(zip(chosen.tolist(), swaps.of(epoch, chosen).tolist(), strict=True))
        return epochs

    first, second = told(1)
    assert told(2) == [first, second]
    assert len(first) == len(second) == 12
    assert first != second
    assert set(first.values()) == {True, False}


def test_judgements_do_not_depend_on_the_batching(store: FeatureStore):
    model, loader = make(store)
    model.eval()
    one, many = judge(model, loader, batch_size=1), judge(model, loader, batch_size=12)
    assert one == pytest.approx(many, abs=1e-5)


def test_a_refused_prompt_goes_to_quarantine_and_the_rest_goes_on(store: FeatureStore):
    model, loader = make(store)
    quarantine = Quarantine("examples")
    products = pd.DataFrame(
        [
            {"product_id": "p", "title": "Oak lamp", "category": None, "attributes": None, "tags": None},
            {"product_id": "q", "title": "Lamp " * 2000, "category": None, "attributes": None, "tags": None},
        ]
    )
    records = loader.examples.records.assign(product_id=["p", "q"] * 6)
    builder = PromptBuilder(load_processor(backbone_folder("tiny")).tokenizer, model.options)
    examples = build_examples(records, products, None, builder, grid=(1, 2, 2), quarantine=quarantine)
    assert len(examples.prompts) == len(examples.records) == 6
    assert quarantine.counts() == {"refused_prompt": 6}
    assert "title" in quarantine.refusals[0].value


def test_the_package_folder_is_found():
    assert (Path(backbone_folder("tiny")) / "model.safetensors").is_file()
    assert backbone_folder("qwen2-vl-7b") == "Qwen/Qwen2-VL-7B-Instruct"
    assert backbone_folder("some/folder") == "some/folder"
