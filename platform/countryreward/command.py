"""How a job becomes a command: options from a config dataclass, exit code 2 with one clear line on a user's error."""

import errno
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from countryreward.errors import Stopped, UserError

ConfigT = TypeVar("ConfigT")
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in jobs that were submitted to a cluster."""
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
        config: ConfigT = auto_cli(config_class, as_positional=False, args=arguments, allow_abbrev=False)  # pyright: ignore
        _go_home(config)
        main(config)
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


def _go_home(config: object) -> None:
    """Relative paths are taken from COUNTRYREWARD_HOME where it is set: a submitted job starts in Ray's copy of the code."""
    home, out = os.environ.get("COUNTRYREWARD_HOME"), getattr(config, "out", None)
    if home:
        try:
            os.chdir(home)
        except OSError as error:
            raise UserError(
                f"COUNTRYREWARD_HOME: {home} ({error.strerror}); set it to a folder all nodes reach"
            ) from None
    elif SUBMITTED in os.environ and isinstance(out, str) and "://" not in out and not os.path.isabs(out):
        raise UserError(
            f"out: {out!r} would lie in Ray's copy of the code, which is removed after the job; give absolute paths, or set "
            "COUNTRYREWARD_HOME on the nodes (see cluster/runtime_env.yaml)"
        )


def _underscored(argument: str) -> str:
    """--run-name=my-run as the field is called: --run_name=my-run."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
