"""Search spaces: where they are found, what is allowed in them, and what they hold in words. For `on_ray/tuning.py`."""

import importlib
import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.search.sample import Categorical, Domain, Function

from countryreward.errors import UserError
from countryreward.on_ray.ray_config import SweepConfig
from countryreward.training.sweep_plan import KS, current_names, stored_names, with_params
from countryreward.training.training_config import RewardTraining


def count_trials(space: Mapping[str, Any], config: SweepConfig) -> int:
    """Combinations of the grids, times the samples."""
    grids = [values for values in space.values() if isinstance(values, Mapping) and "grid_search" in values]
    return config.samples * math.prod(len(values["grid_search"]) for values in grids)


def open_space(name: str) -> dict[str, Any]:
    """space() of tune_spaces/NAME.py, or of a Python file, under the names of today. Raises `UserError` where there is none."""
    if name.endswith(".py"):
        spec = importlib.util.spec_from_file_location("space_of_a_user", name)
        if spec is None or spec.loader is None or not Path(name).is_file():
            raise UserError(f"space: there is no file {name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        names = sorted(
            path.stem for path in Path(str(importlib.import_module("tune_spaces").__path__[0])).glob("[a-z]*.py")
        )
        if name not in names:
            raise UserError(f"space: {name!r} is unknown; write {', '.join(names)}, or the path of a Python file")
        module = importlib.import_module(f"tune_spaces.{name}")
    if not callable(getattr(module, "space", None)):
        raise UserError(f"space: {name} has no function space(); see tune_spaces/lambda_k.py")
    space = module.space()
    current = current_names(space)
    for old, new in zip(space, current, strict=True):
        if old != new:
            print(f"space: {old} is called {new} now; the old name is read in this release only", file=sys.stderr)
    return current


def described(space: Mapping[str, Any]) -> dict[str, Any]:
    """A space in words and numbers, for manifests and fingerprints, under the names that these have."""
    return {
        name: {"values": list(listed)} if (listed := values_of(values)) is not None else _range(values)
        for name, values in stored_names(space).items()
    }


def _range(domain: Any) -> str:
    """A continuous range with its bounds and how it is drawn."""
    return f"{type(domain).__name__} {_numbers(domain)} {_drawn(domain.get_sampler())}"


def _drawn(sampler: Any) -> str:
    """A way of drawing with its numbers: mean and spread, steps, and what lies below the steps."""
    inner = getattr(sampler, "sampler", None)
    below = f" of {_drawn(inner)}" if inner is not None else ""
    return f"{type(sampler).__name__} {_numbers(sampler)}{below}"


def _numbers(of: Any) -> list[tuple[str, float]]:
    return sorted((name, value) for name, value in vars(of).items() if isinstance(value, int | float))


def ks_of(space: Mapping[str, Any], default: tuple[int, int]) -> list[tuple[int, int]]:
    """Every (text_k, image_k) that a trial can have."""
    lists = [values_of(space[name]) or () if name in space else (k,) for name, k in zip(KS, default, strict=True)]
    return [(int(text_k), int(image_k)) for text_k in lists[0] for image_k in lists[1]]


def check_space(job: RewardTraining, space: Mapping[str, Any], config: SweepConfig) -> None:
    """Every name and every value of a list is one that a training takes. Raises `UserError` naming it."""
    if not space:
        raise UserError("space: it has no parameter; see tune_spaces/lambda_k.py")
    if config.samples > 1 and not any(isinstance(values, Domain) for values in space.values()):
        raise UserError(
            f"sweep.samples: {config.samples}, but nothing in the space is drawn, so the same trainings would be repeated; put "
            "loop.seed into the space, with loop.validation_items=0"
        )
    for name, values in space.items():
        listed = values_of(values)
        if name in KS and (listed is None or not all(isinstance(k, int) and k > 0 for k in listed)):
            raise UserError(
                f"space: {name}: priors are made beforehand; give whole numbers in tune.choice or tune.grid_search"
            )
        if config.searcher == "optuna" and isinstance(values, Mapping) and "grid_search" in values:
            raise UserError(
                f"space: {name}: Optuna draws and has no grids; write tune.choice, or sweep.searcher=random"
            )
        if isinstance(values, Function):
            raise UserError(
                f"space: {name}: a function of one's own cannot be told from a changed one, so a changed space "
                "would be taken for the old one; write tune.choice, tune.uniform, tune.loguniform, tune.randn or tune.quniform"
            )
        domain: Any = values
        for value in listed if listed is not None else [domain.sample()]:
            if name not in KS:
                with_params(job, {name: value})


def values_of(values: Any) -> Sequence[Any] | None:
    """The values of a grid, a choice or a constant; None for a continuous range."""
    if isinstance(values, Mapping) and "grid_search" in values:
        return list(values["grid_search"])
    if isinstance(values, Categorical):
        return list(values.categories)
    return None if isinstance(values, Domain) else [values]
