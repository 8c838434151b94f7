"""Options of the release before under their new names: on the command line, in YAML, in artifacts and in the identity of a run.

The old name works in this release only. What lies on a disk is read without a word; who types an old name is told the new one.
Standard library only, but for YAML where a file has to be read.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from countryreward.errors import UserError

CONTAINED = "contained"
"""In the metadata of a field whose own fields are options of the job (`job_options.contained`)."""
RENAMED_OPTIONS = {
    "reward.trust_start": "reward.prior_weight_start",
    "rates": "learning_rates",
    "loop.patience_s": "loop.retry_s",
}
"""Old dotted name -> new one, which differs in its last part alone. An entry holds in every job that has the new option and
not the old one."""


def renamed(options: Mapping[str, Any], names: Mapping[str, str] = RENAMED_OPTIONS, within: str = "") -> dict[str, Any]:
    """The same options, inner mappings included, under the names that `names` gives them; their order stays.

    within: dotted name of the option that they belong to, such as `reward`; empty: they are those of a whole job.
    """
    current = {}
    for name, value in options.items():
        path = f"{within}.{name}" if within else name
        inner = renamed(value, names, path) if isinstance(value, Mapping) else value
        current[names.get(path, path).rpartition(".")[2]] = inner
    return current


def names_before(options: Mapping[str, Any]) -> dict[str, Any]:
    """A job's options under their old names: what identities are made from, so that a run begun before goes on."""
    return renamed(options, {new: old for old, new in RENAMED_OPTIONS.items()})


def current_name(option: str) -> str:
    """The name of today of an option, such as a parameter of a sweep: `rates.llm` is `learning_rates.llm`."""
    return _renamed(option, RENAMED_OPTIONS)


def name_before(option: str) -> str:
    """The name that an option had in the release before."""
    return _renamed(option, {new: old for old, new in RENAMED_OPTIONS.items()})


def _renamed(option: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if f"{option}.".startswith(f"{old}."):
            return new + option.removeprefix(old)
    return option


def current_arguments(arguments: Sequence[str], config_class: type) -> list[str]:
    """The command line with old names made new, also inside `--config` and inside a group (`--reward`), given as a file or as its
    content; says each on standard error.

    A file with old names is replaced by its content. One that cannot be read stays as it is: the parser says what is wrong.
    Raises `UserError` where both names of an option stand together.
    """
    names = {
        old: new for old, new in RENAMED_OPTIONS.items() if _has(config_class, new) and not _has(config_class, old)
    }
    current = list(arguments)
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        old = next((name for name in names if f"{option}.".startswith(f"--{name}.")), None)
        if old is not None:
            _say(old, names[old])
            current[position] = argument.replace(old, names[old], 1)
            continue
        group = "" if option == "--config" else option.removeprefix("--")
        if option == "--config" or any(name.startswith(f"{group}.") for name in names):
            place = position if equals else position + 1
            content = _current_content(value if equals else "".join(arguments[place : place + 1]), names, group)
            if content is not None:
                current[place] = f"{option}={content}" if equals else content
    return current


def _current_content(given: str, names: Mapping[str, str], group: str) -> str | None:
    """A YAML file, or YAML itself, with the new names, as JSON; None where it has no old name or cannot be read.

    group: dotted name of the option whose value it is; empty: the options of a whole job.
    """
    import yaml

    try:
        path = Path(given)
        options = yaml.safe_load(path.read_text(encoding="utf-8") if path.is_file() else given)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    within = f"{group}." if group else ""
    present = {
        old: new
        for old, new in names.items()
        if old.startswith(within) and _holds(options, old.removeprefix(within).split("."))
    }
    for old, new in present.items():
        if _holds(options, new.removeprefix(within).split(".")):
            raise UserError(
                f"{new}: it is given twice, also under its old name {old}; write all of it under the new one"
            )
        _say(old, new)
    return json.dumps(renamed(options, present, group), default=str) if present else None


def _holds(options: Any, parts: list[str]) -> bool:
    for part in parts:
        if not isinstance(options, Mapping) or part not in options:
            return False
        options = options[part]
    return True


def _has(config_class: Any, option: str) -> bool:
    """Whether a config dataclass has an option of this dotted name."""
    first, _, rest = option.partition(".")
    if not dataclasses.is_dataclass(config_class):
        return False
    hints = get_type_hints(config_class)
    if first in hints and (not rest or _has(hints[first], rest)):
        return True
    inner = [field.name for field in dataclasses.fields(config_class) if CONTAINED in field.metadata]
    return any(_has(hints[name], option) for name in inner)


def _say(old: str, new: str) -> None:
    print(f"note: {old} is {new} now; the old name works in this release only", file=sys.stderr)
