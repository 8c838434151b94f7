"""How a job becomes a command: options from a config dataclass, exit code 2 with one clear line on a user's error."""

import errno
import sys
from collections.abc import Callable
from typing import TypeVar

from countryreward.errors import Stopped, UserError

ConfigT = TypeVar("ConfigT")
_DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)


def run(config_class: type[ConfigT], main: Callable[[ConfigT], object], arguments: list[str] | None = None) -> None:
    """Parse the command line (over `--config FILE`, over the defaults) into `config_class` and call `main` with it.

    Options may be written with dashes (`--run-name`). `--print_config` prints every option; an unknown key, in the file or on
    the line, is an error that names it. Exits with code 2 on a `UserError`; any other exception is ours and keeps its traceback.
    """
    from jsonargparse import auto_cli, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    if not sys.stdout.line_buffering:  # progress must be seen when the output is a pipe
        sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    arguments = [_underscored(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    try:
        main(auto_cli(config_class, as_positional=False, args=arguments, allow_abbrev=False))  # pyright: ignore[reportArgumentType]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        raise SystemExit(128 + error.signal_number) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again: finished stages are kept", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        print(
            f"error: {error}; free space or choose another folder, nothing half-written was published", file=sys.stderr
        )
        raise SystemExit(2) from None


def _underscored(argument: str) -> str:
    """--run-name=my-run as the field is called: --run_name=my-run."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
