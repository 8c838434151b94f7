"""Writers in actors, with actors that do not need Ray: who is asked when one has died."""

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from countryreward.errors import UserError
from countryreward.on_ray.retry import Failure, failure_of
from countryreward.on_ray.writers import WriterActors


class NotOpened(ActorDiedError):
    """What Ray raises for an actor whose start failed."""

    @property
    def actor_init_failed(self) -> bool:
        return True


class Actor:
    """Answers with its number, or with an error."""

    made: list["Actor"]

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0
        self.version = SimpleNamespace(remote=lambda: self._told("v1"))
        self.design_tasks = SimpleNamespace(remote=self._propose)
        Actor.made.append(self)

    def _propose(self, tasks: list[Any], designs: int) -> Any:
        self.asked += 1
        return self._told([Actor.made.index(self)])

    def _told(self, answer: Any) -> Any:
        future: Future[Any] = Future()
        future.set_exception(self.error) if self.error else future.set_result(answer)
        return SimpleNamespace(future=lambda: future)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> WriterActors:
    Actor.made = []
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: SimpleNamespace(remote=lambda _: Actor()))
    return WriterActors(lambda: pytest.fail("not here"), actors=2)


async def asked(writers: WriterActors) -> Any:
    return await writers.design_tasks([], 1)


@pytest.mark.slow
def test_one_that_died_is_asked_nothing_until_it_is_back(writers: WriterActors) -> None:
    async def talk() -> None:
        first, _ = Actor.made
        first.error = ActorDiedError()
        with pytest.raises(ActorDiedError):
            await asked(writers)
        first.error = ActorUnavailableError("it is restarting", None)
        await asyncio.sleep(0.5)
        assert [await asked(writers) for _ in range(3)] == [[1]] * 3
        assert first.asked == 1
        first.error = None
        async with asyncio.timeout(5):
            while await asked(writers) != [0]:
                await asyncio.sleep(0.05)

    asyncio.run(talk())


def test_while_none_is_there_no_task_is_blamed(writers: WriterActors) -> None:
    async def talk() -> None:
        for actor in Actor.made:
            actor.error = ActorDiedError()
        for _ in Actor.made:
            with pytest.raises(ActorDiedError):
                await asked(writers)
        with pytest.raises(ConnectionError, match="no writer is there") as raised:
            await asked(writers)
        assert failure_of(raised.value) is Failure.PASSING
        assert [actor.asked for actor in Actor.made] == [1, 1]
        Actor.made[1].error = None
        async with asyncio.timeout(5):
            while writers._absent.keys() != {0}:
                await asyncio.sleep(0.05)
                writers._forget_returned()
        assert await asked(writers) == [1]

    asyncio.run(talk())


def test_one_that_cannot_be_opened_again_ends_the_run(writers: WriterActors) -> None:
    async def talk() -> None:
        first, _ = Actor.made
        first.error = ActorDiedError()
        with pytest.raises(ActorDiedError):
            await asked(writers)
        first.error = NotOpened()
        with pytest.raises(UserError, match="writer: it cannot be opened"):
            await again_and_again()

    async def again_and_again() -> None:
        for _ in range(100):
            await asked(writers)
            await asyncio.sleep(0.05)

    asyncio.run(talk())
