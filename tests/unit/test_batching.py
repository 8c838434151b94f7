"""Batches across requests, and the cache of images. Every test states who asks what, and what the model saw."""

import asyncio
import logging
import threading
from collections.abc import Sequence

import pytest

from countryreward.serving.inference.batching import TokenBatcher
from countryreward.serving.inference.bounded_cache import BoundedCache


class Model:
    """Doubles numbers; remembers its batches; waits at the door while it is shut."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.door = threading.Event()
        self.door.set()

    def run(self, items: list[int]) -> Sequence[float]:
        self.door.wait(5)
        self.batches.append(items)
        if 13 in items:
            raise ValueError("13")
        return [2.0 * item for item in items]


async def together(batcher: TokenBatcher[int], model: Model, *asks: tuple[str, list[int], int, bool]):
    """The first ask runs alone at a shut door; the others wait in line; then the door opens."""
    model.door.clear()
    first = asyncio.create_task(batcher.ask([(0, 1)]))
    await asyncio.sleep(0.02)
    tasks = [
        asyncio.create_task(batcher.ask([(item, tokens) for item in items], tenant=tenant, urgent=urgent))
        for tenant, items, tokens, urgent in asks
    ]
    await asyncio.sleep(0.02)
    model.door.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_arrives_during_a_pass_goes_together_into_the_next():
    async def main():
        model = Model()
        batcher = TokenBatcher(model.run, 100)
        answers = await together(batcher, model, ("a", [1, 2], 10, True), ("b", [3], 10, True))
        assert answers == [[2.0, 4.0], [6.0]]
        assert model.batches == [[0], [1, 3, 2]]  # tenants take turns

    asyncio.run(main())


def test_the_budget_counts_padding_and_lets_a_single_large_item_pass():
    async def main():
        model = Model()
        batcher = TokenBatcher(model.run, 100)
        asks = [("a", [1], 30, True), ("b", [2], 30, True), ("c", [3], 50, True), ("d", [4], 500, True)]
        await together(batcher, model, *asks)
        assert model.batches == [[0], [1, 2], [3], [4]]  # 3 x 50 > 100

    asyncio.run(main())


def test_rows_of_batch_jobs_come_last_but_not_never():
    async def main():
        model = Model()
        batcher = TokenBatcher(model.run, 10)
        asks = [("job", list(range(100, 103)), 10, False), ("a", list(range(1, 21)), 10, True)]
        await together(batcher, model, *asks)
        order = [batch[0] for batch in model.batches]
        assert order[1:10] == [*range(1, 9), 100]  # every tenth pass
        assert order[-1] == 102

    asyncio.run(main())


def test_only_the_guilty_ask_fails():
    async def main():
        model = Model()
        batcher = TokenBatcher(model.run, 100)
        answers = await together(batcher, model, ("a", [1], 10, True), ("b", [13], 10, True), ("c", [2], 10, True))
        assert answers[0] == [2.0]
        assert answers[2] == [4.0]
        assert isinstance(answers[1], ValueError)
        assert model.batches == [[0], [1, 13, 2], [1], [13], [2]]

    asyncio.run(main())


def test_a_counter_that_fails_hangs_nobody(caplog: pytest.LogCaptureFixture):
    async def main():
        model = Model()
        batcher = TokenBatcher(model.run, 100)

        def full(items: int, tokens: int, seconds: float) -> None:
            raise OSError("no space left")

        batcher.seen = full
        for _ in range(3):
            assert await asyncio.wait_for(batcher.ask([(1, 10)]), 1) == [2.0]
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_pass_that_had_to_be_split_is_logged(caplog: pytest.LogCaptureFixture):
    async def main():
        model = Model()
        await together(TokenBatcher(model.run, 100), model, ("a", [1], 10, True), ("b", [13], 10, True))

    logging.getLogger("countryreward.service").propagate = True
    asyncio.run(main())
    assert "a pass of 2, asked one by one instead" in caplog.text


def test_who_went_away_is_not_computed():
    async def main():
        model = Model()
        batcher = TokenBatcher(model.run, 100)
        model.door.clear()
        first = asyncio.create_task(batcher.ask([(0, 1)]))
        await asyncio.sleep(0.02)
        gone = asyncio.create_task(batcher.ask([(1, 10)]))
        stays = asyncio.create_task(batcher.ask([(2, 10)]))
        await asyncio.sleep(0.02)
        gone.cancel()
        model.door.set()
        assert await stays == [4.0]
        await first
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert model.batches == [[0], [2]]
        assert batcher.wait_s() == 0
        await asyncio.wait_for(batcher.close(), 1)

    asyncio.run(main())


def test_the_wait_is_told_from_the_line_and_the_speed():
    async def main():
        model = Model()
        batcher = TokenBatcher(model.run, 100)
        passes: list[tuple[int, int]] = []
        batcher.seen = lambda items, tokens, seconds: passes.append((items, tokens))
        await batcher.ask([(1, 10), (2, 5)])
        assert passes == [(2, 20)]
        model.door.clear()
        waiting = asyncio.create_task(batcher.ask([(3, 50)]))
        await asyncio.sleep(0.02)
        long = asyncio.create_task(batcher.ask([(n, 100) for n in range(20, 40)]))
        await asyncio.sleep(0.02)
        assert batcher.wait_s() == pytest.approx(2050 * batcher._seconds_per_token)
        model.door.set()
        await asyncio.gather(waiting, long)

    asyncio.run(main())


def test_the_cache_is_bounded_in_bytes_and_forgets_by_age():
    now = [0.0]
    cache: BoundedCache[str] = BoundedCache(10, 60, clock=lambda: now[0])
    cache.put(("a", "x"), "X", 4)
    cache.put(("b", "x"), "other", 4)
    assert cache.get(("a", "x")) == "X"
    assert cache.get(("b", "y")) is None
    cache.put(("a", "y"), "Y", 4)  # 12 bytes: b's x was used least recently
    assert (cache.get(("b", "x")), cache.bytes, len(cache)) == (None, 8, 2)
    cache.put(("a", "z"), "Z", 11)  # larger than the cache
    assert cache.get(("a", "z")) is None
    cache.put(("a", "y"), "Y2", 6)
    assert (cache.get(("a", "y")), cache.bytes) == ("Y2", 10)
    now[0] = 50.0
    assert cache.get(("a", "x")) == "X"
    now[0] = 100.0
    assert cache.get(("a", "y")) is None  # used at 0
    assert cache.get(("a", "x")) == "X"  # used at 50
    assert (cache.bytes, len(cache)) == (4, 1)
