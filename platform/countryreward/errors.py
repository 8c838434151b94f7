"""The one error type a user is meant to read, and what is done when one of several items raises it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


class UserError(ValueError):
    """Wrong input from outside. The message names the field, the value and the way out; jobs exit with code 2 on it."""


class Stopped(KeyboardInterrupt):
    """A job was asked to stop (Ctrl-C, SIGTERM) and has put its work in safety; jobs exit with 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def each_or_refusal(
    call: Callable[[Sequence[ItemT]], Iterable[AnswerT]], items: Sequence[ItemT]
) -> Iterator[AnswerT | UserError]:
    """One answer per item, in order, with an item that is refused refused alone: all together first, then one by one.

    call: items in, as many answers out; it raises `UserError` when one of them is refused, and is not called for none. An answer
    is given as soon as it is there.
    """
    if not items:
        return
    try:
        answers = call(items)
    except UserError as error:
        if len(items) == 1:
            yield error
            return
    else:
        yield from answers
        return
    for item in items:
        yield from each_or_refusal(call, [item])
