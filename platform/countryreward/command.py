"""How a job becomes a command: options from a config dataclass, exit code 2 with one clear line on a user's error."""

import contextlib
import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from countryreward.errors import Stopped, UserError
from countryreward.job_options import parse_options, with_underscores
from countryreward.renamed_options import current_arguments

ConfigT = TypeVar("ConfigT")
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in jobs that were submitted to a cluster."""
RUN_ID = "COUNTRYREWARD_RUN_ID"
"""Environment variable with the id of the run, in a command and in every process that works for it."""
_DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)


def run(
    config_class: type[ConfigT],
    main: Callable[[ConfigT], object],
    arguments: list[str] | None = None,
    *,
    reading: bool = False,
) -> None:
    """Parse the command line (over `--config FILE`, over the defaults) into `config_class` and call `main` with it.

    Options may be written with dashes (`--run-name`); keys of a mapping keep theirs. `--print_config` prints every option; an
    unknown key, in the file or on the line, is an error that names it; one that was renamed is read and its new name said. Exits
    with code 2 on a `UserError`; any other exception is ours and keeps its traceback.

    reading: whether the job has `--reading`, one switch for all its stages.
    """
    if not sys.stdout.line_buffering:  # progress must be seen when the output is a pipe
        sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    arguments = [
        with_underscores(argument, config_class) for argument in (sys.argv[1:] if arguments is None else arguments)
    ]
    try:
        arguments = current_arguments(arguments, config_class)
        config = parse_options(config_class, arguments, reading=reading)
        _go_home(config)
        with one_run():
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


def run_id() -> str:
    """`COUNTRYREWARD_RUN_ID` where it is set, in a submitted job its submission id, else UTC time and 4 random bytes."""
    given = os.environ.get(RUN_ID, "")
    if given and not re.fullmatch(r"\w[\w.-]{0,99}", given, re.ASCII):
        raise UserError(f"{RUN_ID}: {given!r}; write up to 100 letters, digits, '.', '_' and '-'")
    submission = (json.loads(os.environ.get(SUBMITTED) or "{}").get("metadata") or {}).get("job_submission_id", "")
    submitted = submission if re.fullmatch(r"\w[\w.-]{0,99}", submission, re.ASCII) else ""
    return given or submitted or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def one_run() -> Iterator[str]:
    """One id for all that is written within, also by processes that are started there."""
    before = os.environ.get(RUN_ID)
    os.environ[RUN_ID] = run_id()
    try:
        yield os.environ[RUN_ID]
    finally:
        if before is None:
            del os.environ[RUN_ID]
        else:
            os.environ[RUN_ID] = before


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
