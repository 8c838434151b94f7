"""CountryRewardModel on a Qwen2-VL of a few thousand parameters, and the 7B preset on the meta device."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close
from transformers import Qwen2VLForConditionalGeneration

from countryreward.equations import focus as focus_equations
from countryreward.errors import UserError
from countryreward.models.attention import attention_implementation
from countryreward.models.focus_probe import FocusProbe
from countryreward.models.learning_rate_groups import GROUPS, freeze, group_of, parameter_groups
from countryreward.models.pair_batch import collate
from countryreward.models.reward_config import PRESETS, LearningRates, RewardOptions
from countryreward.models.reward_model import CountryRewardModel, preset_config
from countryreward.models.reward_prompts import PromptBuilder
from tests.unit.micro_qwen import (
    PAD,
    SMALL,
    TALL,
    TOKENIZER,
    backbone_config,
    batch_for,
    fields,
    model,
    pixels,
    trained_adapter,
)


@pytest.fixture(autouse=True)
def one_thread():
    """So small a model is slower on several, and the machine is shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


STRATEGIES = ("none", "instruct", "embedding", "scaled", "soft")
PAIRS = [
    fields(),
    fields(market="FR", images=("c", "a"), grids=(TALL, SMALL), title="A longer title " * 3, letter="B", log_odds=-0.4),
    fields(market="SA", images=("b", "c"), grids=(SMALL, TALL), letter=None, log_odds=0.0),
]


def judged(made, *pairs, focus=False):
    """Logits (and focus) from pixels."""
    batch = batch_for(made, *pairs)
    return made(batch, pixel_values=pixels(batch) if batch.images else None, focus=focus)


@pytest.mark.parametrize("antisymmetric", ["off", "on"])
def test_adapter_is_the_identity_at_start_and_not_afterwards(antisymmetric) -> None:
    made = model(antisymmetric=antisymmetric)
    start = judged(made, *PAIRS).logit
    adapter, made.adapter = made.adapter, None
    assert torch.equal(judged(made, *PAIRS).logit, start)
    made.adapter = adapter
    assert (judged(trained_adapter(made), *PAIRS).logit - start).abs().min() > 1e-4


def test_adapter_gives_each_pair_its_own_country() -> None:
    """One row of the batch hears KR, the other FR: each is judged as if it were alone."""
    made = trained_adapter(model(antisymmetric="off", strategy="none"))
    korean, french = fields(mask_country=True), fields(mask_country=True, market="FR")
    masked = judged(made, korean, french).logit  # nothing tells them apart but a row's place in a matrix product
    assert_close(masked[0], masked[1], atol=1e-6, rtol=0)
    batch = batch_for(made, korean, french)
    ids = torch.tensor([[100, 101], [102, 103]])
    heard = replace(batch, country_ids=ids, country_mask=torch.ones_like(ids, dtype=torch.bool))
    both = made(heard, pixel_values=pixels(batch)).logit
    assert (both[0] - both[1]).abs() > 1e-4  # the prompts are the same, so it is the adapter that hears them
    for row in range(2):
        alone = replace(batch_for(made, korean), country_ids=ids[row : row + 1], country_mask=heard.country_mask[:1])
        assert_close(made(alone, pixel_values=pixels(batch)).logit[0], both[row], atol=1e-5, rtol=0)


def test_country_embedding_is_detached() -> None:
    made = trained_adapter(model(antisymmetric="off", strategy="scaled"))
    batch = batch_for(made, fields())
    assert not (batch.input_ids == 200).any()  # a token that the prompt does not hold
    ids, augment_ids = torch.full_like(batch.country_ids, 200), torch.full_like(batch.augment_ids, 200)
    heard = replace(batch, country_ids=ids, augment_ids=augment_ids)
    made(heard, pixel_values=pixels(batch)).logit.sum().backward()
    gradient = made.get_input_embeddings().weight.grad
    assert gradient[200].abs().max() == 0
    assert made.adapter.down.weight.grad.abs().max() > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("reading", ["paper", "repaired"])
def test_scores_do_not_depend_on_batch_and_padding(strategy, reading) -> None:
    made = trained_adapter(model(reading=reading, strategy=strategy))
    together = judged(made, *PAIRS, focus=True)
    reversed_order = judged(made, *PAIRS[::-1], focus=True)
    assert_close(reversed_order.logit.flip(0), together.logit, atol=1e-5, rtol=0)
    for i, pair in enumerate(PAIRS):
        alone = judged(made, pair, focus=True)
        assert_close(alone.logit[0], together.logit[i], atol=1e-5, rtol=0)
        assert_close(alone.focus[0], together.focus[i], atol=1e-5, rtol=0)
    batch = batch_for(made, *PAIRS)
    other_padding = torch.where(batch.attention_mask == 1, batch.input_ids, 77)
    changed = made(replace(batch, input_ids=other_padding), pixel_values=pixels(batch), focus=True)
    assert_close(changed.logit, together.logit, atol=1e-6, rtol=0)
    assert_close(changed.focus, together.focus, atol=1e-6, rtol=0)


def test_no_mask_is_the_same_as_a_mask() -> None:
    """Right padding under causal attention: the mask that is left out would change no state that is read."""
    made = model()
    batch = batch_for(made, *PAIRS)
    embeds = made._embed(batch, None, pixels(batch))
    states = [
        made.backbone.language_model(inputs_embeds=embeds, position_ids=batch.position_ids, attention_mask=mask)[0]
        for mask in (None, batch.attention_mask)
    ]
    real = batch.attention_mask.bool()
    assert_close(states[0][real], states[1][real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_swapping_negates_the_logit(strategy) -> None:
    made = trained_adapter(model(strategy=strategy, antisymmetric="on"))
    there = judged(made, *PAIRS).logit
    back = judged(made, *(pair.swapped() for pair in PAIRS)).logit
    assert there.abs().min() > 1e-4
    assert_close(back, -there, atol=1e-6, rtol=0)
    assert_close(there.sigmoid() + back.sigmoid(), torch.ones(3), atol=1e-6, rtol=0)
    one_way = trained_adapter(model(strategy=strategy, antisymmetric="off"))
    assert (
        judged(one_way, *(pair.swapped() for pair in PAIRS)).logit + judged(one_way, *PAIRS).logit
    ).abs().max() > 1e-3


def test_identical_images_without_a_prior_are_a_draw() -> None:
    made = trained_adapter(model())
    for changes in ({"images": ("a", "a")}, {"mask_images": True}):
        assert judged(made, fields(**changes, letter=None, log_odds=0.0)).logit.item() == pytest.approx(0.0, abs=1e-6)


def test_the_prior_reaches_the_logit_as_each_strategy_says() -> None:
    for strategy in STRATEGIES:
        made = model(strategy=strategy, antisymmetric="off")
        prior_a, prior_b, none = judged(
            made, fields(), fields(letter="B", log_odds=-0.8), fields(letter=None, log_odds=0.0)
        ).logit.tolist()
        plain = judged(model(strategy="none", antisymmetric="off"), fields()).logit.item()
        if strategy == "none":
            assert (prior_a, prior_b, none) == pytest.approx((plain,) * 3, abs=1e-6)
        else:
            assert len({prior_a, prior_b, none}) == 3
            assert none == pytest.approx(plain, abs=1e-5)  # without a prior every strategy is `none`
        if strategy == "soft":
            assert (prior_a - plain, prior_b - plain) == pytest.approx((0.8, -0.8), abs=1e-5)


def test_the_weight_of_the_prior_starts_at_the_prior_in_one_order_and_in_both() -> None:
    assert model(antisymmetric="off").prior_weight.item() == 1.0
    assert model(antisymmetric="on").prior_weight.item() == 0.5
    assert model(antisymmetric="on", prior_weight_start=0.0).prior_weight.item() == 0.0
    assert model(strategy="scaled").prior_weight is None


@pytest.mark.parametrize("layer", ["final", "inner"])
def test_attention_focus_is_what_eager_attention_says(layer) -> None:
    made = model(layers=5)
    made.set_attn_implementation("eager")
    batch = batch_for(made, *PAIRS)
    language_model, attended = made.backbone.language_model, batch.attention_mask.bool()
    with FocusProbe(language_model, measure="attention", layer=layer) as probe:
        out = language_model(
            inputs_embeds=made._embed(batch, None, pixels(batch)),
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            output_attentions=True,
        )
    rows = torch.arange(len(batch.last))
    chosen = out.attentions[4:] if layer == "final" else out.attentions[2:]
    expected = torch.stack([weights[rows, :, batch.last].mean(1) for weights in chosen]).mean(0)
    found = probe.share(attended, batch.last)
    assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert_close(found.sum(1), torch.ones(6))
    assert found.std() > 1e-4  # not uniform


def test_norm_focus_reads_states_before_or_after_the_final_norm() -> None:
    paper = judged(model(reading="paper"), *PAIRS, focus=True)
    lengths = batch_for(model(reading="paper"), *PAIRS).last + 1
    assert_close(paper.focus[:, :3], (1 / lengths)[:, None].expand(3, 3), atol=1e-7, rtol=1e-4)  # all norms equal
    assert paper.focus[:, 3:].tolist() == [[1.0, 1.0]] * 3  # ads without words: nothing was overlooked
    inner = judged(model(reading="paper", focus_layer="inner"), *PAIRS, focus=True)
    assert (inner.focus[:, :3] * lengths[:, None] - 1).abs().max() > 0.01


def test_focus_is_averaged_over_both_orders() -> None:
    both = model(antisymmetric="on")
    one = model(antisymmetric="off")
    one.load_state_dict(both.state_dict())
    pairs = PAIRS[:2]
    there, back = judged(one, *pairs, focus=True).focus, judged(one, *(p.swapped() for p in pairs), focus=True).focus
    assert_close(judged(both, *pairs, focus=True).focus, (there + back) / 2, atol=1e-6, rtol=0)
    assert judged(both, *pairs).focus is None


def penalty_gradients(made):
    """Gradient of the penalty alone, every prediction wrong: by parameter, and at the token embeddings."""
    batch = batch_for(made, PAIRS[0])
    kept = {}

    def keep(_module, _inputs, kwargs):
        kept["embeds"] = kwargs["inputs_embeds"]
        kept["embeds"].retain_grad()

    hook = made.backbone.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    out = made(batch, pixel_values=pixels(batch), focus=True)
    hook.remove()
    focus_equations.penalty(out.focus, torch.ones(1)).backward()
    return (
        {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in made.named_parameters()},
        kept["embeds"].grad,
        batch,
    )


def test_attention_penalty_reaches_queries_keys_country_and_adapter_and_nothing_else() -> None:
    gradients, at_tokens, batch = penalty_gradients(trained_adapter(model()))
    layer = "backbone.language_model.layers.{}.".format
    for i in (0, 1, 2, 3):
        for name in ("self_attn.q_proj.weight", "self_attn.k_proj.weight"):
            assert gradients[layer(i) + name] > 1e-9, (i, name)
    for name in ("self_attn.v_proj.weight", "self_attn.o_proj.weight", "mlp.up_proj.weight"):
        assert gradients[layer(2) + name] > 1e-9  # read by the keys of layer 3
        assert gradients[layer(3) + name] == 0.0  # read by no attention
    assert (
        gradients["classifier.weight"]
        == gradients["prior_weight"]
        == gradients["backbone.language_model.norm.weight"]
        == 0.0
    )
    assert gradients["adapter.up.weight"] > 1e-9
    assert gradients["backbone.visual.merger.mlp.2.weight"] > 1e-9
    for span in range(3):
        assert at_tokens[batch.spans[:, span]].norm() > 1e-9
    assert at_tokens[batch.attention_mask == 0].abs().sum() == 0


def test_inner_means_the_last_half_of_the_layers() -> None:
    gradients, _, _ = penalty_gradients(model(focus_layer="final", focus_reduce="first"))
    everywhere, _, _ = penalty_gradients(model(focus_layer="inner", focus_reduce="first"))
    name = "backbone.language_model.layers.3.self_attn.k_proj.weight"
    assert 0 < everywhere[name] != gradients[name] > 0
    language_model = model(layers=5).backbone.language_model
    counts = [len(FocusProbe(language_model, measure="attention", layer=one).attentions) for one in ("final", "inner")]
    assert counts == [1, 3]  # of 5 layers


def test_the_papers_penalty_is_nearly_without_gradient_and_before_the_norm_it_is_not() -> None:
    paper, paper_tokens, _ = penalty_gradients(model(reading="paper"))
    inner, inner_tokens, _ = penalty_gradients(model(reading="paper", focus_layer="inner"))
    assert paper_tokens.norm() < inner_tokens.norm() / 50
    assert inner["backbone.language_model.layers.3.mlp.up_proj.weight"] > 1e-9
    assert inner["backbone.language_model.norm.weight"] == 0.0  # not read
    assert paper["backbone.language_model.norm.weight"] > 0.0


@pytest.mark.parametrize("measure", ["attention", "norm"])
def test_gradient_checkpointing_changes_nothing(measure) -> None:
    grads = []
    for checkpointing in (False, True):
        made = model(focus_measure=measure).train()
        if checkpointing:
            made.gradient_checkpointing_enable({"use_reentrant": False})
        out = judged(made, *PAIRS, focus=True)
        (out.logit.sum() + focus_equations.penalty(out.focus, torch.ones(3))).backward()
        grads.append({n: p.grad for n, p in made.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        assert_close(grads[0][name], grads[1][name], atol=1e-5, rtol=1e-4)


def test_every_trained_parameter_gets_a_gradient() -> None:
    """Else DistributedDataParallel would wait for it for ever."""
    for options in ({}, {"reading": "paper"}, {"adapter": False}, {"strategy": "instruct"}):
        made = trained_adapter(model(**options)) if options.get("adapter", True) else model(**options)
        freeze(made, LearningRates())
        judged(made, *PAIRS).logit.sum().backward()
        assert all((p.grad is not None) == p.requires_grad for p in made.parameters())


def test_stored_features_are_as_good_as_pixels() -> None:
    losses, grads = [], []
    for stored in (False, True):
        made = trained_adapter(model())
        freeze(made, LearningRates())
        batch = batch_for(made, *PAIRS)
        with torch.no_grad():
            features = made.encode_images(pixels(batch), batch.image_grid_thw)
        given = {"features": features} if stored else {"pixel_values": pixels(batch)}
        out = made(batch, focus=True, **given)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(out.logit, torch.tensor([0.0, 1.0, 0.0]))
        loss = focus_equations.objective(bce, focus_equations.penalty(out.focus, torch.ones(3)), 0.1)
        loss.backward()
        losses.append(loss)
        grads.append(made.backbone.visual.merger.mlp[0].weight.grad)
        assert all(p.grad is None for p in made.backbone.visual.blocks.parameters())
    assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    assert_close(grads[0], grads[1], atol=1e-5, rtol=0)
    assert grads[0].norm() > 1e-6


def test_features_come_image_by_image_as_well() -> None:
    made = model()
    batch = batch_for(made, fields(), fields(images=("b", "c")))
    features = made.encode_images(pixels(batch), batch.image_grid_thw)
    flat, by_image = made(batch, features=features), made(batch, features=features.view(3, 16, -1))
    assert torch.equal(flat.logit, by_image.logit)
    with pytest.raises(AssertionError, match="patches"):
        made(batch, features=features[:-4])


def test_a_trained_tower_gets_a_gradient() -> None:
    made = model()
    freeze(made, LearningRates(tower=1e-6))
    judged(made, *PAIRS).logit.sum().backward()
    assert made.backbone.visual.blocks[0].mlp.fc1.weight.grad.norm() > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_folder_round_trip_is_bit_exact(tmp_path, dtype) -> None:
    made = trained_adapter(model(reading="paper", strategy="soft", focus_reduce="relative", max_length=3_000))
    made.save_pretrained(tmp_path / "first")
    made = CountryRewardModel.from_pretrained(tmp_path / "first", dtype=dtype).eval()
    made.save_pretrained(tmp_path / "second")
    again = CountryRewardModel.from_pretrained(tmp_path / "second", dtype=dtype).eval()
    assert (
        again.options
        == made.options
        == RewardOptions(reading="paper", strategy="soft", focus_reduce="relative", max_length=3_000).resolved()
    )
    assert made.state_dict().keys() == again.state_dict().keys()
    for name, value in made.state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, again.state_dict()[name]), name
    assert torch.equal(judged(made, *PAIRS).logit, judged(again, *PAIRS).logit)
    files = {path.name for path in (tmp_path / "second").iterdir()}
    assert files == {"config.json", "model.safetensors"}
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["options"]["focus_layer"] == "final"
    with safe_open(tmp_path / "second" / "model.safetensors", "pt") as saved:
        assert not any("lm_head" in name for name in saved.keys())  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_backbone_takes_a_whole_qwen2_vl_as_it_is(tmp_path, dtype) -> None:
    torch.manual_seed(3)
    whole = Qwen2VLForConditionalGeneration(backbone_config())
    whole.save_pretrained(tmp_path)
    made = CountryRewardModel.from_backbone(tmp_path, RewardOptions(max_length=2_000), dtype=dtype)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(made.backbone.state_dict()[name], value.to(dtype)), name
    assert {value.dtype for value in made.state_dict().values()} == {dtype}
    assert made.backbone.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert made.adapter.up.bias.tolist() == [1.0] * 32 + [0.0] * 32
    assert made.adapter.up.weight.abs().max() == 0
    assert made.adapter.down.weight.std() > 0.01
    assert made.classifier.weight.std() > 0.005
    assert made.prior_weight.item() == 0.5
    assert made.options.max_length == 2_000
    assert torch.isfinite(judged(made, *PAIRS).logit).all()


def test_from_backbone_reads_causally_as_a_reloaded_model_does(tmp_path) -> None:
    """Attention without a named implementation sees the future and padding; a model from a backbone once had none."""
    Qwen2VLForConditionalGeneration(backbone_config()).save_pretrained(tmp_path / "qwen")
    made = CountryRewardModel.from_backbone(tmp_path / "qwen", RewardOptions(max_length=4_096)).eval()
    assert made.backbone.language_model.config._attn_implementation == "sdpa"
    assert made.backbone.visual.config._attn_implementation == "sdpa"
    made.save_pretrained(tmp_path / "model")
    again = CountryRewardModel.from_pretrained(tmp_path / "model").eval()
    batch = batch_for(made, fields(), fields(title="A much longer title that pads the other one"))
    with torch.no_grad():
        assert torch.equal(
            made(batch, pixel_values=pixels(batch)).logit, again(batch, pixel_values=pixels(batch)).logit
        )


def test_a_batch_of_another_kind_is_refused() -> None:
    batch = batch_for(model(antisymmetric="off"), fields())
    with pytest.raises(AssertionError, match="antisymmetric"):
        model(antisymmetric="on")(batch, pixel_values=pixels(batch))


def test_attention_implementation() -> None:
    assert attention_implementation("cpu", torch.float32) == "sdpa"
    assert attention_implementation("cpu", torch.bfloat16) == "sdpa_float32"
    assert attention_implementation("cuda", torch.float32) == "sdpa"


def test_rate_groups_are_complete_and_disjoint() -> None:
    made = model()
    rates = LearningRates(merger=1.0, llm=2.0, adapter=3.0, classifier=4.0, tower=5.0)
    groups = parameter_groups(made, rates)
    assert [group["name"] for group in groups] == [name for name in GROUPS if name != "lora"]  # there is none here
    assert [group["lr"] for group in groups] == [1.0, 2.0, 3.0, 4.0, 5.0]
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in made.parameters())
    assert len(set(ids)) == len(ids)
    frozen = parameter_groups(made, LearningRates())
    assert [group["name"] for group in frozen] == ["merger", "llm", "adapter", "classifier"]
    assert sum(len(group["params"]) for group in frozen) == sum(p.requires_grad for p in made.parameters())
    assert {group_of(n) for n, p in made.named_parameters() if not p.requires_grad} == {"tower"}
    assert any(p is made.prior_weight for p in frozen[3]["params"])


TYPICAL = {
    "title": "Women's Vintage Leather Crossbody Bag with Adjustable Shoulder Strap, Large Capacity Handbag for Work",
    "category": "Bags & Luggage > Women's Handbags > Crossbody Bags",
    "attributes": {
        "Material": "genuine cow leather",
        "Color": "brown",
        "Closure": "zipper and magnetic button",
        "Lining": "polyester",
        "Style": "vintage casual",
        "Season": "all seasons",
        "Size": "28 x 22 x 8 cm",
        "Packing": "1 bag, 1 strap",
    },
    "tags": ["handbag", "gift for her", "leather bag", "travel", "work", "new arrival"],
}


class WordTokenizer:
    """Counts as Qwen2's tokenizer would if every word were in its vocabulary: one token per piece of its split expression."""

    split = re.compile(r"<\|\w+\|>|'(?:s|t|re|ve|m|ll|d)|[^\r\n\w]?[^\W\d_]+|\d| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+")

    def __init__(self) -> None:
        self.control = {
            token: i
            for i, token in enumerate(
                ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
            )
        }

    def get_vocab(self):
        return self.control

    get_added_vocab = get_vocab

    def __call__(self, text, add_special_tokens=False, split_special_tokens=False):
        return {"input_ids": [self.control.get(piece, 9) for piece in self.split.findall(text)]}


def test_a_typical_record_has_712_tokens_at_448_px() -> None:
    """448 px: 32 x 32 patches of 14 px, merged 2 x 2: 256 visual tokens per image, 512 per pair; 4 tokens mark the images;
    the words, counted without Qwen's vocabulary by its split expression, make up the rest."""
    side = PRESETS["qwen2-vl-7b"].image_px // 14
    example = PromptBuilder(WordTokenizer(), RewardOptions()).example(
        fields(**TYPICAL, grids=((1, side, side), (1, side, side)))
    )
    assert example.spans[2].sum() == 512
    assert len(example.ids) == 712


def test_the_7b_preset_on_the_meta_device() -> None:
    with torch.device("meta"):
        made = CountryRewardModel(preset_config("qwen2-vl-7b", RewardOptions()))
    assert len(made.backbone.language_model.layers) == 28
    assert made.backbone.language_model.embed_tokens.weight.shape == (152064, 3584)
    assert len(made.backbone.visual.blocks) == 32
    adapter = sum(p.numel() for p in made.adapter.parameters())
    assert adapter == 19_276_544  # 19.3 million
    groups = parameter_groups(made, PRESETS["qwen2-vl-7b"].learning_rates)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("merger", 1e-5),
        ("llm", 5e-6),
        ("adapter", 1e-4),
        ("classifier", 1e-4),
    ]
    sizes = {group["name"]: sum(p.numel() for p in group["params"]) for group in groups}
    assert sizes == {"merger": 44_575_744, "llm": 7_070_619_136, "adapter": adapter, "classifier": 3_585}
    tower = sum(p.numel() for p in made.parameters() if not p.requires_grad)
    assert sum(sizes.values()) + tower == sum(p.numel() for p in made.parameters())
    assert 0.62e9 < tower < 0.64e9


def test_presets() -> None:
    with torch.device("meta"):
        small = CountryRewardModel(preset_config("qwen2-vl-2b", RewardOptions(adapter=False), num_hidden_layers=2))
    assert small.backbone.language_model.embed_tokens.weight.shape == (151936, 1536)
    assert len(small.backbone.language_model.layers) == 2
    assert small.adapter is None
    with pytest.raises(UserError, match="preset: the shape of tiny"):
        preset_config("tiny", RewardOptions())


def test_one_order_is_the_antisymmetric_logit_on_average_and_half_the_work() -> None:
    made = trained_adapter(model(antisymmetric="on"))
    prompts = PromptBuilder(TOKENIZER, made.options)
    examples = [prompts.example(pair) for pair in PAIRS]
    both = collate(examples, PAD)
    with torch.no_grad():
        wanted = made(both, pixel_values=pixels(both)).logit
        found = []
        for swap in (np.zeros(3, bool), np.ones(3, bool)):
            one = collate(examples, PAD, swap=swap)
            assert len(one.last) == one.pairs == 3
            found.append(made(one, pixel_values=pixels(one)).logit)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    torch.testing.assert_close((found[0] + found[1]) / 2, wanted, atol=1e-5, rtol=0)
    plain = model(antisymmetric="off")
    assert collate([PromptBuilder(TOKENIZER, plain.options).example(PAIRS[0])], PAD, swap=np.ones(1, bool)).sign is None


def test_a_batch_can_be_collated_for_a_plain_model() -> None:
    made = model(antisymmetric="off")
    prompts = PromptBuilder(TOKENIZER, made.options)
    assert len(collate([prompts.example(pair) for pair in PAIRS], PAD).last) == 3
