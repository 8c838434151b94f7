"""The options of a job: fields of its config and of the configs that it contains, and one reading for all stages.

    training: RewardTraining = contained(RewardTraining)      # --preset, --loop.epochs; not --training.preset

Values come from the command line over `--config FILE` over the defaults.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from countryreward.renamed_options import CONTAINED

ConfigT = TypeVar("ConfigT")
PAPER_DEFAULTS = {
    "records.reading": "paper",
    "retrieval.prior.reading": "paper",
    "reward.reading": "paper",
    "services.renderer.scheduler": "ddpm",
    "renderer.scheduler": "ddpm",
}
"""What `--reading=paper` puts in place of these options' defaults, in every job that has them (docs/method.md, Two readings)."""


def contained(default: Callable[[], ConfigT], *, hidden: tuple[str, ...] = ()) -> ConfigT:
    """A field of a job's config that is a config of the library, whose options stand among the job's own.

    default: makes the value where no option is given. hidden: fields that are no options, because the job fills them in.
    """
    return dataclasses.field(default_factory=default, metadata={CONTAINED: hidden})  # pyright: ignore[reportReturnType]


def parse_options(config_class: type[ConfigT], arguments: list[str], *, reading: bool) -> ConfigT:
    """A config from a command line. reading: whether there is `--reading`, one switch for all stages.

    Ends the process with code 2 for an option that does not exist or a value of the wrong kind, as argparse does.
    """
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config", action="config", help="Path to a configuration file.")
    _add_options(parser, config_class, None, ())
    parser.description = (config_class.__doc__ or "").partition("\n\n")[0]
    if reading:
        parser.add_argument(
            "--reading",
            type=Literal["paper", "repaired"],
            default="repaired",
            help="Reading of the paper for all stages at once; a stage's own reading, or a single option, overrides it.",
        )
        if _chosen_reading(arguments) == "paper":
            there = parser.get_defaults()
            parser.set_defaults({name: value for name, value in PAPER_DEFAULTS.items() if name in there})
    values = parser.instantiate_classes(parser.parse_args(arguments))
    return _built(config_class, None, values)


def with_underscores(argument: str, config_class: type) -> str:
    """--run-name=my-run as the field is called: --run_name=my-run. The keys of a mapping (--market-aliases.korea-mall=KR) and all
    that is no option stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return "--" + ".".join(_field_names(name.split("."), config_class)) + equals + value


def _field_names(parts: list[str], kind: Any) -> list[str]:
    """The parts of a dotted option as the fields are called. kind: the type of what holds the first of them."""
    if not parts or dict in {get_origin(choice) or choice for choice in (kind, *get_args(kind))}:
        return parts
    name = parts[0].replace("-", "_")
    return [name, *_field_names(parts[1:], _option_types(kind).get(name))]


def _option_types(kind: Any) -> dict[str, Any]:
    """Option -> its type, of a config with what it contains, or of a union with one; empty for anything else."""
    types: dict[str, Any] = {}
    for config_class in filter(dataclasses.is_dataclass, (kind, *get_args(kind))):
        hints = get_type_hints(config_class)
        for field in dataclasses.fields(config_class):
            types |= (
                _option_types(hints[field.name]) if CONTAINED in field.metadata else {field.name: hints[field.name]}
            )
    return types


def options_of(config: Any) -> dict[str, Any]:
    """A config in its plain form, as `--config` reads it."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if CONTAINED in field.metadata:
            hidden = field.metadata[CONTAINED]
            plain |= {name: option for name, option in options_of(value).items() if name not in hidden}
        else:
            plain[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # pyright: ignore[reportArgumentType]
    return plain


def _contained_fields(config_class: Any) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(config_class) if CONTAINED in field.metadata]


def _add_options(parser: Any, config_class: Any, default: Any, hidden: tuple[str, ...]) -> None:
    """Options of a config and of what it contains. default: the instance whose values are the defaults; None: the class's own."""
    inner = _contained_fields(config_class)
    parser.add_class_arguments(
        config_class,
        as_group=False,
        sub_configs=True,
        instantiate=False,
        skip={*hidden, *(field.name for field in inner)},
    )
    if default is not None:
        plain = {
            field.name: getattr(default, field.name)
            for field in dataclasses.fields(config_class)
            if field.name not in hidden and field not in inner
        }
        parser.set_defaults(
            {
                name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # pyright: ignore[reportArgumentType]
                for name, value in plain.items()
            }
        )
    for field in inner:
        value = getattr(default, field.name) if default is not None else field.default_factory()  # pyright: ignore[reportCallIssue]
        _add_options(parser, type(value), value, field.metadata[CONTAINED])


def _built(config_class: Any, default: Any, values: Any, hidden: tuple[str, ...] = ()) -> Any:
    """The config from parsed values; hidden fields keep the default's."""
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if CONTAINED in field.metadata:
            inner = getattr(default, field.name) if default is not None else field.default_factory()  # pyright: ignore[reportCallIssue]
            chosen[field.name] = _built(type(inner), inner, values, field.metadata[CONTAINED])
        else:
            chosen[field.name] = getattr(default, field.name) if field.name in hidden else values[field.name]
    return config_class(**chosen)


def _chosen_reading(arguments: list[str]) -> str:
    """What a command line or its config files say of `--reading`, the last of them, before anything is parsed."""
    chosen = ["repaired"]
    for option, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = option.partition("=")
        value = value if equals else following
        if name == "--reading":
            chosen.append(value)
        elif name == "--config":
            chosen += _reading_of_file(value)
    return chosen[-1]


def _reading_of_file(file: str) -> list[str]:
    """file: the path of a config file, or its content."""
    import yaml

    try:
        path = Path(file)
        content = yaml.safe_load(path.read_text(encoding="utf-8") if path.is_file() else file)
    except (OSError, ValueError, yaml.YAMLError):
        return []  # the parser says what is wrong with it
    return [str(content["reading"])] if isinstance(content, dict) and "reading" in content else []
