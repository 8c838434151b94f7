"""Parameter groups with a learning rate of their own (Appendix G), and the frozen vision tower."""

from typing import Any

from torch import nn

from countryreward.models.reward_config import LearningRates
from countryreward.models.reward_model import CountryRewardModel

GROUPS = ("merger", "llm", "lora", "adapter", "classifier", "tower")
"""`merger` lies inside the vision tower's module and is trained; `classifier` holds the prior's weight as well."""


def group_of(parameter_name: str) -> str:
    """The group of a parameter of CountryRewardModel, by its name."""
    if ".lora_" in parameter_name:
        return "lora"
    for prefix, group in (
        ("backbone.visual.merger.", "merger"),
        ("backbone.visual.", "tower"),
        ("backbone.language_model.", "llm"),
        ("adapter.", "adapter"),
        ("classifier.", "classifier"),
        ("prior_weight", "classifier"),
    ):
        if parameter_name.startswith(prefix):
            return group
    raise AssertionError(f"{parameter_name} belongs to no group")


def freeze(model: CountryRewardModel, learning_rates: LearningRates) -> None:
    """Groups at rate 0 get no gradient, all others do."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():  # 4-bit weights can have none
            parameter.requires_grad_(getattr(learning_rates, group_of(name)) > 0)


def parameter_groups(
    model: CountryRewardModel, learning_rates: LearningRates, *, weight_decay: float = 0.01
) -> list[dict[str, Any]]:
    """Groups for torch.optim.AdamW, in the order of GROUPS, empty and frozen ones left out. Calls `freeze`.

    Each is {"name", "params", "lr", "weight_decay"}: the name survives in the optimiser, for the log and for restoring rates.
    """
    freeze(model, learning_rates)
    params: dict[str, list[nn.Parameter]] = {group: [] for group in GROUPS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            params[group_of(name)].append(parameter)
    return [
        {"name": group, "params": params[group], "lr": getattr(learning_rates, group), "weight_decay": weight_decay}
        for group in GROUPS
        if params[group]
    ]
