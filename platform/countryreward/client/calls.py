"""What is sent and what comes back, without the sending: the client that blocks and the one that awaits share these talks."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from countryreward.client.client_errors import BadAnswer, Refused

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to the service. Repeating it must do no harm."""

    method: str
    """GET, POST or DELETE."""
    path: str
    """Under the service's address, without a leading slash."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the address."""
    fields: Mapping[str, str | list[str]] = field(default_factory=dict, repr=False)
    """Form fields; a list repeats the field."""
    files: tuple[tuple[str, str, bytes | Path], ...] = field(default=(), repr=False)
    """(field, file name, bytes or a path that is read anew for every attempt)."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """ServicePool those of every call."""
    to: Path | None = None
    """Where the answer is written; None: it is kept in memory."""
    patient: bool = False
    """Whether nobody waits for this one answer: it may take `Retries.patient_deadline_s`."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer with a status of 2xx."""

    status: int
    """Of HTTP."""
    content: bytes
    """Empty when it was written to `Call.to`."""
    request_id: str
    """As the header X-Request-ID has it; may be empty."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """Calls of which several may be in flight at a time; their replies come back in order."""

    calls: Sequence[Call]
    """At least one."""
    keep_refusals: bool = False
    """Hand back a `Refused` in place of its reply; else the first one is raised."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Wait before the next round."""

    seconds: float
    """How long."""


@dataclass(frozen=True)
class Done(Generic[T]):
    """The end of a talk."""

    value: T
    """What it came to."""


Replies = list[Reply | Refused]
Talk = Generator[Round | Pause, Replies, T]
"""Yields what to do next, is sent the replies (an empty list after a pause), returns the result."""


def advance(talk: Talk[T], replies: Replies | None) -> Round | Pause | Done[T]:
    """The next step. A function of its own because StopIteration cannot leave a thread."""
    try:
        return talk.send(replies)  # pyright: ignore[reportArgumentType] - None starts it
    except StopIteration as end:
        return Done(end.value)


def one(call: Call) -> Talk[Reply]:
    """A talk of a single call."""
    (reply,) = yield Round(calls=(call,))
    assert isinstance(reply, Reply)
    return reply


def parsed(reply: Reply, model: type[Model]) -> Model:
    """The JSON of a reply; fields of a newer service are ignored. Raises `BadAnswer`."""
    try:
        return model.model_validate_json(reply.content)
    except ValidationError as error:
        places = {".".join(map(str, one["loc"])) or "JSON" for one in error.errors(include_input=False)}
        wrong = ", ".join(sorted(places)[:3])
        raise BadAnswer(
            f"url: the answer is not a {model.__name__} ({wrong}); is this a CountryReward service",
            request_id=reply.request_id,
        ) from None
