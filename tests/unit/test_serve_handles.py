"""Scorers over a Serve handle, and how many replicas a queue needs. The handle is one that answers at once."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from countryreward.errors import UserError
from countryreward.on_ray.autoscaling import OPEN_JOBS, by_backlog
from countryreward.on_ray.serve_handles import FollowedHandleScorer, HandleScorer
from countryreward.scoring.contracts import Product, RequestImageError, ScoreRequest

ASK = ScoreRequest.of_images(Product(title="Oak mug"), (b"a", b"b"), markets=("KR",))


class Remote:
    """`method.remote(...)` to be awaited; an exception is raised."""

    def __init__(self, answer: Any, wait_s: float = 0.0) -> None:
        self.answer, self.wait_s, self.asked = answer, wait_s, []

    async def remote(self, *asked: Any) -> Any:
        self.asked.append(asked)
        await asyncio.sleep(self.wait_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FromAfar(UserError):
    """As Ray makes it of an exception in another process: its message is a traceback."""

    def __init__(self, cause: UserError) -> None:
        super().__init__("Traceback (most recent call last): /secret/path")
        self.cause = cause


def test_it_is_ready_while_the_other_one_answers():
    about, there = Remote({"model": "m1", "knowledge_base": "k1", "markets": ["BR", "KR"]}), []

    def find() -> Any:
        if not there:
            raise KeyError("does not exist")
        return SimpleNamespace(about=about, score=Remote(["verdict"]))

    async def look() -> None:
        scorer = FollowedHandleScorer(find, look_s=0.05)
        await scorer.look()
        assert (scorer.ready(), scorer.markets, await scorer.about()) == (
            False,
            (),
            {"model": None, "knowledge_base": None},
        )
        there.append(True)
        await scorer.look()
        assert (scorer.ready(), scorer.markets, (await scorer.about())["model"]) == (True, ("BR", "KR"), "m1")
        assert await scorer.score(ASK) == ["verdict"]
        about.wait_s = 1.0
        await scorer.look()
        assert not scorer.ready()

    asyncio.run(look())


def test_a_request_goes_to_the_replica_as_it_is():
    score = Remote(["verdict"])
    assert asyncio.run(HandleScorer(SimpleNamespace(score=score)).score(ASK)) == ["verdict"]
    assert score.asked == [(ASK,)]


def test_what_is_refused_comes_without_a_traceback():
    score = Remote(FromAfar(UserError("title: it names another market")))
    with pytest.raises(UserError, match=r"^title: it names another market$"):
        asyncio.run(HandleScorer(SimpleNamespace(score=score)).score(ASK))


def test_why_it_is_not_there_is_told_once(caplog: pytest.LogCaptureFixture):
    about = Remote(RuntimeError("no such method"))

    async def look() -> None:
        scorer = FollowedHandleScorer(lambda: SimpleNamespace(about=about), look_s=0.05)
        for answer in (about.answer, about.answer, {"model": "m1"}, about.answer):
            about.answer = answer
            await scorer.look()

    with caplog.at_level("ERROR", "countryreward.service"):
        asyncio.run(look())
    assert [json.loads(record.message)["error"][0]["type"] for record in caplog.records] == ["RuntimeError"] * 2


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (FromAfar(UserError("title: names another market; correct it")), UserError, "title: names another market"),
        (FromAfar(RequestImageError(1, "pixel_bomb", "9x9")), RequestImageError, "images[1]: pixel_bomb"),
        (UserError("markets: none; name one"), UserError, "markets: none"),
        (RuntimeError("the replica died"), RuntimeError, "the replica died"),
    ],
)
def test_errors_come_without_the_other_process(raised: Exception, kind: type[Exception], words: str):
    async def ask() -> None:
        scorer = FollowedHandleScorer(lambda: SimpleNamespace(about=Remote({}), score=Remote(raised)))
        await scorer.look()
        await scorer.score(ASK)

    with pytest.raises(kind) as told:
        asyncio.run(ask())
    assert str(told.value).startswith(words)


def test_one_that_never_answers_is_not_waited_for():
    async def ask() -> None:
        scorer = FollowedHandleScorer(lambda: SimpleNamespace(about=Remote({}), score=Remote([], 1.0)), timeout_s=0.05)
        await scorer.look()
        await scorer.score(ASK)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("told", "now", "wanted"),
    [({}, 2, 2), ({}, 0, 1), ({"a": 0.0}, 3, 1), ({"a": 4.0, "b": 4.0}, 1, 1), ({"a": 5.0, "b": 9.0}, 1, 3)],
)
def test_a_replica_for_every_four_jobs(told: dict[str, float], now: int, wanted: int):
    context = SimpleNamespace(
        aggregated_metrics={OPEN_JOBS: told} if told else None,
        target_num_replicas=now,
        config=SimpleNamespace(target_ongoing_requests=4),
    )
    assert by_backlog(context) == (wanted, {})
