"""Stages that overlap: each takes items from a line in front of it and puts its answers into the next one's line.

Lines are bounded, so a slow stage holds the faster ones before it back, and what is under way never grows. A stage makes some
calls at a time, each with a few items. Every call is made again when it fails; an item that fails again and again, asked by
itself, is given up once others are answered. What a stage gives as an `Outcome` leaves the line.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from countryreward.generation.outcomes import Outcome
from countryreward.on_ray.retry import Failure, error_line, failure_of, pause_before_retry

_SPLIT_AFTER, _ALONE_AFTER, _GIVE_UP_AFTER = 2, 2, 5  # failures of a call with several items, then of one with one item
_END: Any = object()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of every item."""

    name: str
    """For counts and messages."""
    call: Callable[[list[Any]], Awaitable[Sequence[Any]]]
    """One answer per item, in order: the next stage's item, or an `Outcome`. The last stage gives outcomes alone."""
    give_up: Callable[[Any, str], Outcome]
    """The outcome of an item that fails again and again, with the last error."""
    batch: int = 8
    """Items of a call at most; a call never waits for more of them."""
    in_flight: int = 2
    """Calls at a time."""
    timeout_s: float = 300.0
    """For one call, in seconds."""

    def __post_init__(self) -> None:
        assert self.batch >= 1, self.batch
        assert self.in_flight >= 1, self.in_flight


@dataclass
class Busy:
    """How a stage was used."""

    calls: int = 0
    """That were answered."""
    items: int = 0
    """That were answered."""
    failed: int = 0
    """Calls that were made again."""
    busy_s: float = 0.0
    """Wall time with at least one call in flight."""
    call_s: float = 0.0
    """Of all calls together."""
    now: int = 0
    """Calls in flight."""
    most_waiting: int = 0
    """Longest line in front of it."""
    _since: float = 0.0

    def begin(self) -> float:
        """A call goes out."""
        at = time.monotonic()
        if self.now == 0:
            self._since = at
        self.now += 1
        return at

    def end(self, began: float) -> None:
        """It is back."""
        at = time.monotonic()
        self.now -= 1
        self.call_s += at - began
        if self.now == 0:
            self.busy_s += at - self._since

    def share(self, wall_s: float) -> float:
        """Of the wall time until now with at least one call in flight."""
        under_way = time.monotonic() - self._since if self.now else 0.0
        return (self.busy_s + under_way) / max(wall_s, 1e-9)

    def as_dict(self, wall_s: float, in_flight: int) -> dict[str, Any]:
        """For a manifest: shares of the wall time."""
        wall_s = max(wall_s, 1e-9)
        return {
            "calls": self.calls,
            "items": self.items,
            "made_again": self.failed,
            "busy": round(self.share(wall_s), 4),
            "occupancy": round(self.call_s / wall_s / in_flight, 4),
            "most_waiting": self.most_waiting,
        }


class _Turns:
    """Calls of a stage at the same time, or one alone: what dies then has not died of another one."""

    def __init__(self) -> None:
        self._door, self._together, self._left = asyncio.Lock(), 0, asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._door:
            if alone:
                while self._together:
                    self._left.clear()
                    await self._left.wait()
                yield
                return
            self._together += 1
        try:
            yield
        finally:
            self._together -= 1
            self._left.set()


class _GivenUp:
    """Items that failed again and again wait here until the stage answers others: if it fails on everything, it is broken."""

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most
        self._outcomes: list[Outcome] = []
        self._last: Exception | None = None

    def add(self, outcome: Outcome, error: Exception) -> None:
        """Raises `error` when it has become too many."""
        if len(self._outcomes) >= self.at_most:
            raise error
        self._outcomes.append(outcome)
        self._last = error

    def released(self, works: bool) -> list[Outcome]:
        """All of them, once. Raises the last error when the stage does not work."""
        if self._last is not None and not works:
            raise self._last
        outcomes, self._outcomes, self._last = self._outcomes, [], None
        return outcomes


@dataclass
class Pipeline:
    """`await Pipeline(stages, take).run(source)`.

    take: is given finished outcomes, some at a time, and puts them in safety; called in a thread, never twice at once.
    some: so many, or what there is after take_s.
    retry_s: how long a call is made again while nobody answers.
    proven: whether every stage has answered before, in an earlier run.
    """

    stages: Sequence[Stage]
    take: Callable[[list[Outcome]], None]
    some: int = 64
    take_s: float = 1.0
    retry_s: float = 600.0
    proven: bool = False
    busy: list[Busy] = field(default_factory=list, init=False)

    async def run(self, source: Iterator[Any]) -> dict[str, Any]:
        """Until the source is empty and all its items have come to an outcome. Returns how the stages were used.

        Raises `UserError` when nobody answers for `retry_s`, and what a call raised for whoever started the loop. What was
        finished before is taken first.
        """
        began = time.monotonic()
        self.busy = [Busy() for _ in self.stages]
        lines = [asyncio.Queue[Any](stage.batch * stage.in_flight) for stage in self.stages]
        done: asyncio.Queue[Any] = asyncio.Queue(self.some * 2)
        self._turns = [_Turns() for _ in self.stages]
        self._given_up = [_GivenUp(max(3, stage.in_flight)) for stage in self.stages]
        collector = asyncio.create_task(self._collect(done))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed(source, lines[0], done))
                for number in range(len(self.stages)):
                    group.create_task(self._stage(number, lines, done))
                group.create_task(self._alive(collector))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            if not collector.done():
                await self._last(done, collector)
        wall_s = time.monotonic() - began
        usage = {
            stage.name: busy.as_dict(wall_s, stage.in_flight)
            for stage, busy in zip(self.stages, self.busy, strict=True)
        }
        return {"wall_s": round(wall_s, 3), "stages": usage}

    async def _feed(self, source: Iterator[Any], line: asyncio.Queue[Any], done: asyncio.Queue[Any]) -> None:
        while (item := await asyncio.to_thread(next, source, _END)) is not _END:
            await (done if isinstance(item, Outcome) else line).put(item)
        await line.put(_END)

    async def _stage(self, number: int, lines: Sequence[asyncio.Queue[Any]], done: asyncio.Queue[Any]) -> None:
        after = lines[number + 1] if number + 1 < len(lines) else done
        async with asyncio.TaskGroup() as group:
            for _ in range(self.stages[number].in_flight):
                group.create_task(self._worker(number, lines[number], after, done))
        for outcome in self._given_up[number].released(self.proven or self.busy[number].calls > 0):
            await done.put(outcome)
        await after.put(_END)

    async def _worker(self, number: int, line: asyncio.Queue[Any], after: asyncio.Queue[Any], done: Any) -> None:
        stage, busy = self.stages[number], self.busy[number]
        while True:
            busy.most_waiting = max(busy.most_waiting, line.qsize())
            items = [await line.get()]
            while items[-1] is not _END and len(items) < stage.batch and not line.empty():
                items.append(line.get_nowait())
            last = items[-1] is _END
            if last:
                line.put_nowait(
                    items.pop()
                )  # for the other workers; the place it had is free, since nobody puts any more
            if items:
                for answer in await self._answers(number, items):
                    await (done if isinstance(answer, Outcome) else after).put(answer)
            if last:
                return

    async def _answers(self, number: int, items: list[Any]) -> list[Any]:
        """Of one call, made again until it is answered. An item that is given up has none."""
        stage, until = self.stages[number], time.monotonic() + self.retry_s
        tries = deaths = counted = 0  # counted: failures that may be an item's fault
        while True:
            try:
                async with self._turns[number].turn(alone=len(items) == 1 and deaths >= _ALONE_AFTER):
                    answers = await self._call(number, items)
            except Exception as error:
                kind, last = failure_of(error), error
            else:
                return [*self._given_up[number].released(works=True), *answers]
            tries += 1
            deaths += kind is Failure.DEATH
            counted += kind is not Failure.PASSING
            if len(items) > 1 and counted >= _SPLIT_AFTER:  # one of them may be what it fails on
                return [answer for item in items for answer in await self._answers(number, [item])]
            if len(items) == 1 and counted >= _GIVE_UP_AFTER:
                self._given_up[number].add(stage.give_up(items[0], error_line(last)), last)
                return []
            await pause_before_retry(stage.name, tries, until, self.retry_s, last)

    async def _call(self, number: int, items: list[Any]) -> list[Any]:
        stage, busy = self.stages[number], self.busy[number]
        began = busy.begin()
        try:
            async with asyncio.timeout(stage.timeout_s):  # wait_for of Python 3.11 may swallow a cancellation
                answers = list(await stage.call(items))
        except Exception:
            busy.failed += 1
            raise
        finally:
            busy.end(began)
        assert len(answers) == len(items), f"{stage.name}: {len(answers)} answers to {len(items)} items"
        busy.calls += 1
        busy.items += len(items)
        return answers

    async def _collect(self, done: asyncio.Queue[Any]) -> None:
        """Outcomes are taken in some at a time, or when some seconds have passed."""
        kept: list[Outcome] = []
        due = time.monotonic() + self.take_s
        while True:
            try:
                async with asyncio.timeout(max(0.001, due - time.monotonic())):
                    item = await done.get()
            except TimeoutError:
                item = None
            if isinstance(item, Outcome):
                kept.append(item)
            if kept and (item is _END or len(kept) >= self.some or time.monotonic() >= due):
                await asyncio.to_thread(self.take, kept)
                kept = []
            if item is _END:
                return
            if time.monotonic() >= due:
                due = time.monotonic() + self.take_s

    @staticmethod
    async def _alive(collector: asyncio.Task[None]) -> None:
        """An error of the collector, such as a full disk, ends the run."""
        await asyncio.shield(collector)

    @staticmethod
    async def _last(done: asyncio.Queue[Any], collector: asyncio.Task[None]) -> None:
        """What was finished when the run broke off is taken, too."""
        await done.put(_END)
        await collector


def _first(errors: BaseExceptionGroup) -> BaseException:
    """The first error of a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
