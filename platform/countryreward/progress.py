"""Progress bars for long work: a bar on a terminal, one line at the end elsewhere; and none of others' for short work."""

import contextlib
import time
from collections.abc import Callable, Iterator

ShowProgress = Callable[[int, int], None]
"""Called with (how many are done, how many there are)."""

OpenBar = Callable[[str], contextlib.AbstractContextManager[ShowProgress]]
"""`bar`, or `no_bar`: takes a title."""


@contextlib.contextmanager
def bar(title: str) -> Iterator[ShowProgress]:
    """`with bar("images") as progress: progress(done, total)`: shows share done, speed and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console()
    started, last = time.monotonic(), 0
    columns = (
        TextColumn("  {task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as display:
        task = display.add_task(title, total=None)

        def progress(done: int, total: int) -> None:
            nonlocal last
            last = done
            display.update(task, completed=done, total=total)

        yield progress
    if not console.is_terminal and last:
        print(f"  {title:<22} {last:,} in {time.monotonic() - started:.1f} s")


@contextlib.contextmanager
def no_bar(title: str) -> Iterator[ShowProgress]:
    """In place of `bar` where nobody looks on."""
    yield lambda done, total: None


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the bar "Loading weights" that transformers draws for every model that it loads; warnings and errors are said.

    Loading takes a moment, and each actor and each encoder of a job would leave a line in its log.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
