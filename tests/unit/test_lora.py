"""LoRA and QLoRA on a micro Qwen2-VL: what is trained, what is published, what stock PEFT reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import Qwen2VLModel

from countryreward.errors import UserError
from countryreward.models.learning_rate_groups import parameter_groups
from countryreward.models.lora import TARGETS, add_lora, loading_options, lora_layers, merged, save_adapter
from countryreward.models.pair_batch import collate
from countryreward.models.reward_config import LearningRates, LoraOptions, RewardOptions
from countryreward.models.reward_model import CountryRewardModel
from countryreward.training.engine import TorchEngine
from countryreward.training.training_config import LoopConfig, RewardTraining
from tests.unit import micro_qwen
from tests.unit.micro_qwen import PAD, batch_for, builder, fields, pixels

pytestmark = pytest.mark.slow  # left to `make test`: `make check` has 90 s

LORA = LoraOptions(rank=4, alpha=6)
PAIRS = (fields(), fields(market="BR", title="Blue hat"))


def backbone(folder: Path) -> Path:
    """A saved random backbone, as a Hugging Face folder."""
    torch.manual_seed(0)
    made = Qwen2VLModel(micro_qwen.backbone_config(width=64, layers=2))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    made.save_pretrained(folder)
    return folder


def trained(folder: Path, lora: LoraOptions, steps: int = 3, **engine) -> tuple[CountryRewardModel, TorchEngine]:
    torch.manual_seed(1)
    model = CountryRewardModel.from_backbone(
        folder, RewardOptions(max_length=4096), **loading_options(lora, torch.float32)
    )
    if lora.rank:
        add_lora(model, lora)
    rates = LearningRates(merger=1e-2, llm=0.0 if lora.rank else 1e-2, lora=1e-2, adapter=1e-2, classifier=1e-2)
    made = TorchEngine(
        model, parameter_groups(model, rates), lambda step: 1.0, accumulation=1, max_grad_norm=1.0, **engine
    )
    batch = batch_for(model, *PAIRS)
    for _ in range(steps):
        made.backward(model(batch, pixel_values=pixels(batch)).logit.sum())
        made.step()
    return model.eval(), made


def logits(model: CountryRewardModel) -> torch.Tensor:
    batch = batch_for(model, *PAIRS)
    with torch.no_grad():
        return model.eval()(batch, pixel_values=pixels(batch)).logit


def test_only_the_updates_and_the_small_parts_are_trained(tmp_path: Path):
    model, engine = trained(backbone(tmp_path / "b"), LORA, steps=0)
    groups = {group["name"]: group["params"] for group in engine.optimizer.param_groups}
    assert set(groups) == {"merger", "lora", "adapter", "classifier"}
    # q: 64x64, k and v: 64x32, o: 64x64, gate, up, down: 64x128
    per_layer = 4 * (128 + 96 + 96 + 128 + 3 * 192)
    assert sum(p.numel() for p in groups["lora"]) == 2 * per_layer
    assert {name.rsplit(".", 1)[-1] for name, _ in lora_layers(model)} == set(TARGETS)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "base_layer" in n or "embed_tokens" in n)


def test_an_update_starts_without_effect(tmp_path: Path):
    folder = backbone(tmp_path / "b")
    plain, _ = trained(folder, LoraOptions(), steps=0)
    fresh, _ = trained(folder, LORA, steps=0)
    assert torch.equal(logits(plain), logits(fresh))


def test_merged_weights_are_a_plain_model_that_judges_the_same(tmp_path: Path):
    model, engine = trained(backbone(tmp_path / "b"), LORA)
    whole = merged(model, engine.state_dict())
    plain, _ = trained(tmp_path / "b", LoraOptions(), steps=0)
    assert whole.keys() == plain.state_dict().keys()
    plain.load_state_dict(whole)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=1e-5)
    untrained, _ = trained(tmp_path / "b", LORA, steps=0)
    assert (logits(untrained) - logits(model)).abs().max() > 1e-2
    assert merged(plain, plain.state_dict()).keys() == whole.keys()  # nothing to merge: as it is


def test_stock_peft_loads_the_adapter_onto_the_stock_backbone(tmp_path: Path):
    model, engine = trained(backbone(tmp_path / "b"), LORA)
    save_adapter(model, engine.state_dict(), tmp_path / "adapter", LORA, str(tmp_path / "b"))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    stock = PeftModel.from_pretrained(Qwen2VLModel.from_pretrained(tmp_path / "b"), tmp_path / "adapter").eval()
    mine = CountryRewardModel.from_backbone(tmp_path / "b", RewardOptions(max_length=4096)).eval()
    mine.load_state_dict(merged(model, engine.state_dict()))
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        theirs = stock(input_ids=ids).last_hidden_state
        torch.testing.assert_close(mine.backbone(input_ids=ids).last_hidden_state, theirs, atol=1e-4, rtol=1e-4)
        patches = torch.randn(16, 16)
        found: Any = stock.base_model.model
        torch.testing.assert_close(found.visual.merger(patches), mine.backbone.visual.merger(patches))
    untouched = Qwen2VLModel.from_pretrained(tmp_path / "b")(input_ids=ids).last_hidden_state
    assert (untouched - theirs).abs().max() > 1e-2


def test_qlora_holds_four_bits_learns_and_publishes_what_it_computed(tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    lora = LoraOptions(rank=4, base="nf4")
    model, engine = trained(backbone(tmp_path / "b"), lora)
    held = {name: p for name, p in model.named_parameters() if "base_layer.weight" in name}
    assert {p.dtype for p in held.values()} == {torch.uint8}
    assert len(held) == 2 * len(TARGETS)
    assert not any(p.dtype == torch.uint8 for name, p in model.named_parameters() if "visual" in name)
    whole = merged(model, engine.state_dict())
    plain, _ = trained(tmp_path / "b", LoraOptions(), steps=0)
    assert whole.keys() == plain.state_dict().keys()
    plain.load_state_dict(whole)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-3, rtol=1e-3)


def test_eight_bit_adam_steps_and_comes_back_exactly(tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    folder = backbone(tmp_path / "b")
    model, engine = trained(folder, LoraOptions(rank=64), optimizer="adamw8bit")
    assert any(s["state1"].dtype == torch.uint8 for s in engine.optimizer.state.values() if "state1" in s)
    (tmp_path / "c").mkdir()
    engine.save(tmp_path / "c")
    again, other = trained(folder, LoraOptions(rank=64), steps=1, optimizer="adamw8bit")
    other.load(tmp_path / "c")
    for one, made in ((model, engine), (again, other)):
        batch = batch_for(one, *PAIRS)
        made.backward(one(batch, pixel_values=pixels(batch)).logit.sum())
        made.step()
    mine, theirs = model.state_dict(), again.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_focus_penalty_reaches_the_updates_under_gradient_checkpointing(tmp_path: Path):
    folder = backbone(tmp_path / "b")
    model = CountryRewardModel.from_backbone(folder, RewardOptions(max_length=4096))
    add_lora(model, LORA)
    parameter_groups(model, LearningRates(llm=0.0))
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = collate([builder().example(fields())], PAD)
    output = model.train()(batch, pixel_values=pixels(batch), focus=True)
    output.focus.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if ".lora_A" in n)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora": {"rank": -1}}, "lora.rank"),
        ({"lora": {"rank": 4, "dropout": 1.0}}, "lora.rank, alpha, dropout"),
        ({"lora": {"base": "nf4"}}, "lora.base: nf4 holds frozen weights"),
        ({"lora": {"rank": 4}, "learning_rates": {"llm": 1e-4}}, "learning_rates.llm: LoRA freezes"),
        ({"lora": {"rank": 4, "base": "nf4"}, "loop": {"zero_stage": 3}}, "loop.zero_stage: 3 cannot shard"),
        ({"loop": {"checkpoint_every": -1}}, "loop.checkpoint_every"),
        ({"loop": {"keep_checkpoints": 0}}, "loop.checkpoint_every, keep_checkpoints"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict, said: str):
    def make() -> RewardTraining:
        parts = {"lora": LoraOptions(**options.get("lora", {})), "loop": LoopConfig(**options.get("loop", {}))}
        return RewardTraining(dataset="d", records="r", priors="", features="", **options | parts)

    with pytest.raises(UserError, match=said):
        make()
