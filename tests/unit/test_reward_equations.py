"""Eq. 4-11 and 16, literals worked by hand, in both readings."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from countryreward.equations import focus, reward_layers
from countryreward.equations.readings import READINGS
from countryreward.equations.reward_layers import CountryAdapter, modulate
from countryreward.errors import UserError
from countryreward.models.reward_config import PRESETS, LearningRates, RewardOptions


def test_adapter_eq_4_and_5_by_hand() -> None:
    adapter = CountryAdapter(2)
    with torch.no_grad():
        adapter.down.weight.copy_(tensor([[1.0, -1.0]]))
        adapter.down.bias.copy_(tensor([0.5]))
        adapter.up.weight.copy_(tensor([[1.0], [2.0], [3.0], [4.0]]))
    gamma, beta = adapter(tensor([[2.0, 1.0], [0.0, 3.0]]))  # relu(1.5) = 1.5 and relu(-2.5) = 0
    assert gamma.tolist() == [[2.5, 4.0], [1.0, 1.0]]
    assert beta.tolist() == [[4.5, 6.0], [0.0, 0.0]]


def test_adapter_starts_as_identity() -> None:
    gamma, beta = CountryAdapter(4)(torch.randn(3, 4))
    assert gamma.tolist() == [[1.0] * 4] * 3
    assert beta.tolist() == [[0.0] * 4] * 3


def test_modulation_eq_6_by_hand() -> None:
    visual = tensor([[1.0, 2.0], [0.0, -1.0], [5.0, 5.0]])
    gamma, beta = tensor([[2.5, 4.0], [1.0, 0.0]]), tensor([[4.5, 6.0], [0.0, 1.0]])
    assert modulate(visual, gamma, beta, tensor([0, 0, 1])).tolist() == [[7.0, 14.0], [4.5, 2.0], [5.0, 1.0]]


STATES = tensor([[[3.0, 4.0], [0.0, 1.0], [0.0, 4.0], [9.0, 9.0]]])  # norms 5, 1, 4; the last token is padding
ATTENDED = tensor([[True, True, True, False]])
SPANS = tensor([[[True, False, False, False], [False, True, True, False], [False, False, True, True]]])


def test_norm_share_eq_7_by_hand() -> None:
    assert_close(focus.norm_share(STATES, ATTENDED), tensor([[0.5, 0.1, 0.4, 0.0]]))


def test_focus_of_first_token_and_relative_to_a_uniform_reader() -> None:
    share = focus.norm_share(STATES, ATTENDED)
    paper = focus.span_focus(share, SPANS, ATTENDED, reduce="first")
    assert_close(paper, tensor([[0.5, 0.1, 0.4]]))
    repaired = focus.span_focus(share, SPANS, ATTENDED, reduce="relative")
    assert_close(repaired, tensor([[1.0, 0.75, 1.0]]))  # .5 / (1/3) and .4 / (1/3) are capped, .5 / (2/3) is not


def test_an_empty_span_was_not_overlooked() -> None:
    share = focus.norm_share(STATES, ATTENDED)
    for reduce in ("first", "relative"):
        assert focus.span_focus(share, torch.zeros_like(SPANS), ATTENDED, reduce=reduce).tolist() == [[1.0] * 3]


def test_to_the_letter_focus_is_one_over_t() -> None:
    states = torch.randn(2, 750, 16)
    normed = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True))  # the final RMSNorm
    attended = torch.ones(2, 750, dtype=torch.bool)
    spans = torch.zeros(2, 3, 750, dtype=torch.bool)
    spans[:, 0, 4], spans[:, 1, 600:700], spans[:, 2, 10:500] = True, True, True
    found = focus.span_focus(focus.norm_share(normed, attended), spans, attended, reduce="first")
    assert_close(found, torch.full((2, 3), 1 / 750))
    assert focus.penalty(found, torch.ones(2)).item() == pytest.approx(2.996)


def test_last_token_attention_by_hand() -> None:
    query = tensor([[[0.0], [math.log(3)]]])  # two heads that share one key head
    keys = tensor([[[[1.0], [0.0], [7.0]]]])
    found = focus.last_token_attention(query, keys, tensor([[True, True, False]]), 1.0)
    assert_close(found, tensor([[0.625, 0.375, 0.0]]))  # mean of (1/2, 1/2) and (3/4, 1/4)
    assert_close(focus.last_token_attention(query, keys, tensor([[True, True, False]]), 0.0), tensor([[0.5, 0.5, 0.0]]))


def test_query_heads_share_key_heads_in_order() -> None:
    query = tensor([[[math.log(3)], [math.log(3)], [0.0], [0.0]]])
    keys = tensor([[[[1.0], [0.0]], [[5.0], [0.0]]]])  # heads 0, 1 read the first, 2, 3 the second
    assert_close(focus.last_token_attention(query, keys, tensor([[True, True]]), 1.0), tensor([[0.625, 0.375]]))


def test_wrong_predictions_eq_9() -> None:
    assert focus.wrong_predictions(tensor([0.0, -0.1, 0.1, 0.1]), tensor([1.0, 1.0, 0.0, 0.5])).tolist() == [0, 1, 1, 0]


def test_penalty_and_objective_eq_8_10_11_by_hand() -> None:
    found = tensor([[0.5, 0.1, 0.4], [0.0, 0.0, 0.0]])
    assert focus.penalty(found, tensor([1.0, 0.0])).item() == pytest.approx(1.0)  # (.5 + .9 + .6) / 2 pairs
    assert focus.penalty(found, tensor([0.0, 0.0])).item() == 0.0
    assert focus.objective(tensor(0.7), tensor(1.0), 0.1).item() == pytest.approx(0.8)


def test_head_eq_11_and_16_by_hand() -> None:
    h, e = tensor([[3.0, 4.0], [3.0, 4.0]]), tensor([[0.0, 2.0], [0.0, 0.0]])
    assert reward_layers.augment(h, e, "embedding").tolist() == [[3.0, 6.0], [3.0, 4.0]]
    assert reward_layers.augment(h, e, "scaled").tolist() == [[3.0, 9.0], [3.0, 4.0]]  # |h| / |e| = 2.5; no prior: h
    for strategy in ("none", "instruct", "soft"):
        assert reward_layers.augment(h, e, strategy).tolist() == h.tolist()


def test_scaled_head_without_a_prior_has_a_gradient() -> None:
    h = tensor([[3.0, 4.0]], requires_grad=True)
    reward_layers.augment(h, torch.zeros(1, 2), "scaled").sum().backward()
    assert h.grad is not None
    assert h.grad.tolist() == [[1.0, 1.0]]


def test_soft_and_antisymmetric_by_hand() -> None:
    assert reward_layers.soft_logit(tensor([0.25]), tensor([0.5]), tensor(2.0)).tolist() == [1.25]
    assert reward_layers.antisymmetric(tensor([0.75]), tensor([0.25])).tolist() == [0.5]
    assert reward_layers.one_order(tensor([0.75, 0.25]), tensor([1.0, -1.0])).tolist() == [
        1.5,
        -0.5,
    ]  # their mean is .5


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("paper", ["scaled", "off", "norm", "final", "first"]),
        ("repaired", ["soft", "on", "attention", "inner", "relative"]),
    ],
)
def test_both_readings(reading, expected) -> None:
    names = ["strategy", "antisymmetric", "focus_measure", "focus_layer", "focus_reduce"]
    options = RewardOptions(reading=reading)
    assert [options.option(name) for name in names] == expected
    assert [getattr(options.resolved(), name) for name in names] == expected
    mixed = RewardOptions(reading=reading, strategy="none", focus_layer="final")
    assert mixed.option("strategy") == "none"
    assert mixed.option("focus_layer") == "final"
    assert mixed.option("antisymmetric") == expected[1]


def test_every_option_of_the_table_is_an_option_of_the_model() -> None:
    named = {name for name in READINGS if name.startswith(("reward.", "focus."))}
    assert named == {"reward.strategy", "reward.antisymmetric", "focus.measure", "focus.layer", "focus.reduce"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"strategy": "sfot"}, "reward.strategy"),
        ({"reading": "mine"}, "reward.reading"),
        ({"focus_weight": -1.0}, "reward.focus_weight"),
        ({"max_length": 0}, "reward.max_length"),
        ({"antisymmetric": True}, "reward.antisymmetric"),
    ],
)
def test_wrong_options_name_their_field(changes, named) -> None:
    with pytest.raises(UserError, match=named):
        RewardOptions(**changes)


def test_the_papers_rates() -> None:
    for name in ("qwen2-vl-2b", "qwen2-vl-7b"):
        assert PRESETS[name].learning_rates == LearningRates(
            merger=1e-5, llm=5e-6, adapter=1e-4, classifier=1e-4, tower=0.0
        )
    assert RewardOptions().focus_weight == 0.1
    with pytest.raises(UserError, match=r"rates\.llm"):
        LearningRates(llm=-1.0)
