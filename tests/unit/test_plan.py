"""`countryreward plan`: counts, bytes and FLOPs against the real model, engine and autograd."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from countryreward import cli
from countryreward.errors import UserError
from countryreward.models.attention import attention_implementation
from countryreward.models.learning_rate_groups import freeze, parameter_groups
from countryreward.models.pair_batch import collate
from countryreward.models.reward_config import LearningRates, LoraOptions, RewardOptions
from countryreward.models.reward_model import CountryRewardConfig, CountryRewardModel
from countryreward.training.engine import TorchEngine
from countryreward.training.planning.memory import Setting, kept_bytes, memory
from countryreward.training.planning.options import PlanOptions, gpus
from countryreward.training.planning.plan import make_plan, paper_efficiency, paper_options, work
from countryreward.training.planning.rehearsal import measure
from countryreward.training.planning.shape import Shape, config_of, shape_of, shape_of_model, with_layers
from countryreward.training.training_config import LoopConfig
from tests.unit.micro_qwen import PAD, backbone_config, builder, fields, pixels

pytestmark = pytest.mark.slow  # left to `make test`: `make check` has 90 s

PX = 112
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def micro_config(layers: int = 6) -> CountryRewardConfig:
    options = {"max_length": 4_096}
    return CountryRewardConfig(qwen2_vl=backbone_config(width=128, layers=layers), options=options)


def setting(precision: str = "fp32") -> Setting:
    return Setting(world=1, cuda=False, bf16_weights=precision == "weights", autocast=precision == "autocast")


def plan_options(tokens: int, **loop: Any) -> PlanOptions:
    chosen = {"batch_size": 4, "accumulation": 1, "precision": "fp32", "engine": "torch"} | loop
    return PlanOptions(
        preset="tiny", image_px=PX, text_tokens=tokens - 2 * 16, loop=LoopConfig(**chosen), reward=RewardOptions()
    )


def batch_of_four(orders: str = "both") -> Any:
    side = PX // 14
    made = builder()
    pairs = [fields(images=(f"a{n}", f"b{n}"), grids=((1, side, side),) * 2) for n in range(4)]
    swap = np.zeros(4, bool) if orders == "one" else None
    return collate([made.example(pair) for pair in pairs], PAD, swap=swap)


@pytest.fixture(scope="module")
def large() -> Shape:
    return shape_of(config_of("qwen2-vl-7b", RewardOptions()))


# Counts


def test_counts_of_the_7b_preset_are_those_of_qwen2_vl(large: Shape) -> None:
    assert large.layers == 28
    assert round(large.groups["llm"] / 1e9, 2) == 7.07  # 7.6 B with the output layer, which a judge has not
    assert large.embeddings == 152_064 * 3_584
    assert round(large.groups["tower"] / 1e9, 2) == 0.63
    assert large.layer_linear == 2 * 3_584**2 + 2 * 3_584 * 512 + 3 * 3_584 * 18_944
    assert (large.visual_tokens(448), large.patches(448)) == (256, 1_024)


def test_loras_parameters_are_pefts() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = CountryRewardModel(micro_config())
    shape = shape_of_model(model)
    language: Any = model.backbone.language_model
    adapted = get_peft_model(language, LoraConfig(r=4, target_modules=TARGETS))
    assert shape.lora(4) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_another_depth_changes_the_layers_alone() -> None:
    config = config_of("tiny", RewardOptions())
    three, one = shape_of(config), shape_of(with_layers(config, 1))
    assert (three.layers, one.layers) == (3, 1)
    assert {name for name in three.groups if three.groups[name] != one.groups[name]} == {"llm"}


# Bytes


def test_weights_gradients_and_optimizer_states_are_exactly_the_engines() -> None:
    torch.manual_seed(0)
    model = CountryRewardModel(micro_config())
    engine = TorchEngine(
        model, parameter_groups(model, LearningRates()), lambda _: 1.0, accumulation=1, max_grad_norm=1.0
    )
    batch = batch_of_four()
    output = engine.model(batch, pixel_values=pixels(batch), focus=True)
    engine.backward(output.logit.sum() + output.focus.sum())
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
    engine.step()
    states = [state for held in engine.optimizer.state.values() for state in held.values()]
    found = memory(shape_of_model(model), plan_options(batch.input_ids.shape[1]), setting())
    assert found.gradients == gradients
    assert found.weights == sum(p.nbytes for p in trained)
    assert found.tower == sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert found.optimizer == sum(state.nbytes for state in states if state.ndim > 0)
    assert found.masters == 0


@pytest.mark.parametrize("orders", ["both", "one"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "autocast", "weights"])
def test_kept_activations_are_those_that_autograd_keeps(precision: str, checkpointing: bool, orders: str) -> None:
    torch.manual_seed(0)
    model = CountryRewardModel(micro_config())
    compute = torch.bfloat16 if precision == "autocast" else torch.float32
    model.set_attn_implementation(attention_implementation("cpu", compute))
    if precision == "weights":
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    freeze(model, LearningRates())
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = batch_of_four(orders)
    stored = model.encode_images(pixels(batch), batch.image_grid_thw).detach().float()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}  # holding them keeps an address from being used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        output = model(batch, features=stored, focus=True)
        loss = output.logit.sum() + output.focus.sum()
    assert loss.requires_grad
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    options = plan_options(batch.input_ids.shape[1], gradient_checkpointing=checkpointing, orders=orders)
    planned = kept_bytes(shape_of_model(model), options, setting(precision))
    assert planned == pytest.approx(real, rel=0.1)


def test_zero_divides_what_it_shards(large: Shape) -> None:
    options = PlanOptions(text_tokens=200)
    eight = Setting(world=8, cuda=True, bf16_weights=True, autocast=False)
    trained = sum(large.groups[name] for name in ("llm", "merger", "adapter", "classifier"))
    found = [memory(large, options.with_loop(zero_stage=stage), eight) for stage in range(4)]
    assert [m.weights / trained for m in found] == [2, 2, 2, 2 / 8]
    assert [m.gradients / trained for m in found] == [2, 2, 2 / 8, 2 / 8]
    assert [m.masters / trained for m in found] == [4, 4 / 8, 4 / 8, 4 / 8]
    assert [m.optimizer / trained for m in found] == [8, 1, 1, 1]


def test_lora_and_quantized_weights_shrink_what_they_say(large: Shape) -> None:
    options = PlanOptions(text_tokens=200, lora=LoraOptions(rank=16))
    one = Setting(world=1, cuda=True, bf16_weights=True, autocast=False)
    full, nf4 = (
        memory(large, replace(options, lora=replace(options.lora, base=base)), one) for base in ("full", "nf4")
    )
    small = sum(large.groups[name] for name in ("merger", "adapter", "classifier")) + large.lora(16)
    assert full.gradients == 2 * small
    assert full.weights == 2 * (small + large.groups["llm"])
    assert full.weights - nf4.weights == (2 - 0.5 - 1 / 64 - 4 / (64 * 256)) * 28 * large.layer_linear
    eight_bit = memory(large, options.with_loop(optimizer="adamw8bit"), one)
    assert eight_bit.optimizer == (2 + 8 / 256) * small


# Work and time


def test_work_counts_what_the_model_multiplies() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    model = CountryRewardModel(micro_config())
    freeze(model, LearningRates())
    batch = batch_of_four()
    with FlopCounterMode(display=False) as counter:
        output = model(batch, pixel_values=pixels(batch))
        output.logit.sum().backward()
    tokens = batch.input_ids.shape[1]
    options = replace(plan_options(tokens, orders="both"), features="decoded")
    attention = 3.5 * 2 * 2 * tokens**2 * 128 * 6  # the counter does not know the processor's attention
    planned = 4 * (work(shape_of_model(model), options).total - attention)
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_papers_speed_is_a_plausible_share_of_an_a100() -> None:
    assert 0.35 < paper_efficiency() < 0.55
    plan = make_plan(paper_options())
    assert plan.hours == pytest.approx(20, rel=0.001)
    assert plan.pairs_per_second == pytest.approx(34.3, rel=0.001)


def test_gradient_checkpointing_costs_the_layers_forward_pass(large: Shape) -> None:
    options = PlanOptions(text_tokens=200, loop=LoopConfig(gradient_checkpointing=False))
    plain, again = work(large, options), work(large, options.with_loop(gradient_checkpointing=True))
    assert again.total / plain.total == pytest.approx(4 / 3, rel=0.01)
    lora = work(large, replace(options, lora=LoraOptions(rank=16)))
    assert lora.total / plain.total == pytest.approx(2 / 3, rel=0.02)


def test_a_measured_step_is_a_line_through_two_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    from countryreward.training.planning import rehearsal as probe

    class Rehearsed:
        def __init__(self, config: CountryRewardConfig, *_: Any) -> None:
            self.layers: int = shape_of(config).layers

        def run(self, steps: int) -> list[float]:
            return [0.5 + 0.1 * self.layers] * (steps - 1) + [9.0]  # the last one logs

    monkeypatch.setattr(probe, "rehearse", Rehearsed)
    found = measure(micro_config(6), plan_options(100), "cpu", rounds=2)
    assert found.seconds == pytest.approx(1.1)
    assert found.per_layer == pytest.approx(0.1)
    assert found.measured == pytest.approx({1: 0.6, 3: 0.8})


# The command


def test_what_does_not_fit_comes_with_what_would() -> None:
    assert make_plan(PlanOptions(gpus="8xA100-80")).fits  # the paper's machine holds the preset as it is
    plan = make_plan(PlanOptions(gpus="8xA100-80", loop=LoopConfig(gradient_checkpointing=False)))
    assert not plan.fits
    assert plan.memory.moment == "log line"
    assert plan.ways[0].changes == ("--batch_size 4 --accumulation 4",)
    assert all(way.peak <= plan.capacity for way in plan.ways)
    one = make_plan(PlanOptions(gpus="1xH200-141"))
    assert all("--zero_stage 3" not in way.changes for way in one.ways)  # there is nobody to share with


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", "--gpus", "8xA100-80", "--gradient-checkpointing"])
    said = capsys.readouterr().out
    assert "fits" in said
    assert "20 hours on 8 x A100: 34.3 pairs/s, 4.29 per GPU" in said
    cli.main(["plan", "--preset", "tiny", "--gpus", "1xL4-24", "--pairs", "1000", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["parameters"]["tower"] == found["parameters"]["groups"]["tower"]
    assert found["hours"] == pytest.approx(1000 / found["pairs_per_second"] / 3600)


@pytest.mark.slow
def test_the_command_measures_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    cli.main(["plan", "--preset", "tiny", "--gpus", "here", "--engine", "torch", "--batch_size", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["seconds_per_step"] > 0
    assert set(found["measured"]["measured"]) == {"1", "3"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpus", "8xP100"], "error: --gpus: '8xP100' is unknown; write here, or a count and one of A100-40, "),
        (["--preset", "gpt"], "error: preset: 'gpt' is unknown"),
        (["--lora-base", "nf4"], "error: lora.base: nf4 holds frozen weights"),
        (["--image_px", "100"], "error: --image_px: 100 is not a multiple of 28"),
        (["--pairs", "-1"], "error: --pairs, --text_tokens: -1, 0 must be at least 0"),
        (["--batch_size", "0"], "error: loop.batch_size: 0 must be at least 1"),
    ],
)
def test_wrong_options_name_the_way_out(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["plan", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_count_and_a_device() -> None:
    assert [(count, device.name) for count, device in map(gpus, ("2xh100-80", "H200-141", "16 x L40S-48"))] == [
        (2, "H100-80"),
        (1, "H200-141"),
        (16, "L40S-48"),
    ]
    with pytest.raises(UserError, match="unknown"):
        gpus("0xA100-80")
