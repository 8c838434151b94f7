"""Batching across requests by token budget: while one forward pass runs, whatever arrives waits together for the next.

Nobody waits for a batch to fill: an idle model takes what is there. Tenants take turns, and rows of batch jobs come last,
though never quite: every tenth pass starts with them.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from countryreward.serving.http.request_log import fault

ItemT = TypeVar("ItemT")
_BULK_EVERY = 10  # passes
_SMOOTHING = 0.2  # weight of the newest pass in the estimate of speed


@dataclass(eq=False)
class _Work(Generic[ItemT]):
    item: ItemT
    tokens: int
    answer: asyncio.Future[float]


@dataclass
class _Line(Generic[ItemT]):
    """Work of several tenants, taken in turns."""

    tenants: OrderedDict[str, deque[_Work[ItemT]]] = field(default_factory=OrderedDict)
    tokens: Counter[str] = field(default_factory=Counter)

    def put(self, tenant: str, work: _Work[ItemT]) -> None:
        self.tenants.setdefault(tenant, deque()).append(work)
        self.tokens[tenant] += work.tokens

    def first(self) -> _Work[ItemT] | None:
        """The next one; work whose asker has gone is dropped on the way."""
        while self.tenants:
            tenant, waiting = next(iter(self.tenants.items()))
            if not waiting:
                del self.tenants[tenant], self.tokens[tenant]
            elif waiting[0].answer.done():
                self.tokens[tenant] -= waiting.popleft().tokens
            else:
                return waiting[0]
        return None

    def take(self) -> None:
        """Take away what `first` gave; its tenant goes to the end."""
        tenant, waiting = next(iter(self.tenants.items()))
        self.tokens[tenant] -= waiting.popleft().tokens
        self.tenants.move_to_end(tenant)

    def ahead(self, tenant: str) -> int:
        """Tokens that go before new work of a tenant: all of its own and, as turns are taken, of every other one as many."""
        waiting = sum(map(len, self.tenants.values()))
        turn = self.tokens[tenant] + (self.tokens.total() // waiting if waiting else 0)
        return sum(min(tokens, turn) for tokens in self.tokens.values())


class TokenBatcher(Generic[ItemT]):
    """Runs `run` on batches in one thread of its own. run: items -> one number each, in order.

    budget: tokens of a batch, as the longest item's times the number of items; a single larger one goes alone. A batch that
    fails is run again item by item, so that only the guilty one's asker gets the error.
    """

    def __init__(self, run: Callable[[list[ItemT]], Sequence[float]], budget: int) -> None:
        self.run, self.budget = run, budget
        self.batches = 0
        self.seen: Callable[[int, int, float], None] = lambda items, tokens, seconds: None
        """Called after every pass with its number of items, its tokens with padding, its seconds."""
        self._urgent: _Line[ItemT] = _Line()
        self._bulk: _Line[ItemT] = _Line()
        self._running = 0  # tokens in the pass under way
        self._seconds_per_token = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, items: Sequence[tuple[ItemT, int]], *, tenant: str = "", urgent: bool = True) -> list[float]:
        """items: (item, its tokens). Their answers, in order. Raises what `run` raised. Cancelled, they leave the line."""
        # Done: a counter raised something, such as on a full disk; that must not end it for good.
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        works = [_Work(item, tokens, loop.create_future()) for item, tokens in items]
        line = self._urgent if urgent else self._bulk
        for work in works:
            line.put(tenant, work)
        self._wake.set()
        try:
            return list(await asyncio.gather(*(work.answer for work in works)))
        finally:
            for work in works:
                work.answer.cancel()

    def wait_s(self, tenant: str = "") -> float:
        """How long new work of a tenant would wait, from the speed of the last passes, in seconds."""
        return (self._urgent.ahead(tenant) + self._running) * self._seconds_per_token

    def pass_s(self) -> float:
        """How long a full pass takes, from the same speed; 0 before the first."""
        return self.budget * self._seconds_per_token

    async def close(self) -> None:
        """End when the line is empty."""
        while self._urgent.first() or self._bulk.first() or self._running:
            await asyncio.sleep(0.01)
        if self._task:
            self._task.cancel()
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._next()
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            tokens = len(batch) * max(work.tokens for work in batch)
            self._running = tokens
            started = time.perf_counter()
            await self._answer(loop, batch)
            seconds = time.perf_counter() - started
            self._running = 0
            self.batches += 1
            newest, known = seconds / tokens, self._seconds_per_token
            self._seconds_per_token = newest if not known else known + _SMOOTHING * (newest - known)
            self.seen(len(batch), tokens, seconds)

    async def _answer(self, loop: asyncio.AbstractEventLoop, batch: list[_Work[ItemT]]) -> None:
        try:
            answers = await loop.run_in_executor(self._thread, self.run, [work.item for work in batch])
            for work, answer in zip(batch, answers, strict=True):
                if not work.answer.done():
                    work.answer.set_result(float(answer))
        except Exception as error:
            if len(batch) > 1:
                fault(f"a pass of {len(batch)}, asked one by one instead", error)  # nobody else may ever hear of it
                for work in batch:
                    await self._answer(loop, [work])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)

    def _next(self) -> list[_Work[ItemT]]:
        lines = (self._urgent, self._bulk)
        batch: list[_Work[ItemT]] = []
        longest = 0
        for line in lines[::-1] if self.batches % _BULK_EVERY == _BULK_EVERY - 1 else lines:
            while work := line.first():
                longest = max(longest, work.tokens)
                if batch and longest * (len(batch) + 1) > self.budget:
                    return batch
                line.take()
                batch.append(work)
        return batch
