"""Requests over a Serve handle: which calls are made, and whose answer is whose. The handle is one that answers at once."""

import asyncio
from typing import Any

import pytest

from countryreward.errors import UserError
from countryreward.on_ray.handle_scorer import AsyncHandleScorer, HandleScorer
from countryreward.scoring.contracts import PairRequest, Product, Verdict
from countryreward.serving.inference.async_scorer import ScoreRequest


class Handle:
    """`handle.judge.remote(ask).result()`: A wins where its bytes are more; the note says what was asked."""

    def __init__(self) -> None:
        self.judge = self
        self.asks: list[ScoreRequest] = []

    def remote(self, ask: ScoreRequest) -> Any:
        self.asks.append(ask)
        verdicts = [
            Verdict(
                market=market,
                probability=0.5,
                calibrated_probability=None,
                choice="A" if ask.images[0] > ask.images[1] else "B",
                log_odds=0.0,
                evidence=(),
                past_ads=0,
                model_version=None,
                knowledge_base_version=None,
                note=f"{ask.product.title} {market}",
            )
            for market in ask.markets
        ]

        class Answer:
            def result(self, timeout_s: float) -> list[Verdict]:
                assert 6 < timeout_s <= 7
                return verdicts

        return Answer()


def asked(title: str, market: str, images: bytes = b"ab") -> PairRequest:
    return PairRequest(product=Product(title=title), image_a=images[:1], image_b=images[1:], market=market)


def test_requests_that_differ_in_their_market_alone_make_one_call():
    handle = Handle()
    requests = [
        asked("mug", "KR"),
        asked("lamp", "BR"),
        asked("mug", "Brazil"),
        asked("mug", "KR", b"ba"),
        asked("mug", "KR"),
    ]
    verdicts = HandleScorer(handle, tenant="t", evidence=2, timeout_s=7).score(requests)
    assert [(ask.product.title, ask.images, ask.markets) for ask in handle.asks] == [
        ("mug", (b"a", b"b"), ("KR", "BR")),
        ("lamp", (b"a", b"b"), ("BR",)),
        ("mug", (b"b", b"a"), ("KR",)),
    ]
    assert {(ask.tenant, ask.evidence, ask.urgent) for ask in handle.asks} == {("t", 2, True)}
    assert [(v.note, v.choice) for v in verdicts] == [
        ("mug KR", "B"), ("lamp BR", "B"), ("mug BR", "B"), ("mug KR", "A"), ("mug KR", "B"),
    ]  # fmt: skip


def test_what_is_no_country_is_said_before_anything_is_asked():
    handle = Handle()
    with pytest.raises(UserError, match="'Atlantis' is no country"):
        HandleScorer(handle).score([asked("mug", "KR"), asked("mug", "Atlantis")])
    assert handle.asks == []


def test_requests_of_a_product_and_a_market_make_one_call_with_each_image_once():
    handle = AwaitedHandle()
    requests = [asked("mug", "KR"), asked("mug", "BR"), asked("mug", "KR", b"ba"), asked("mug", "Brazil", b"bc")]
    verdicts = asyncio.run(AsyncHandleScorer(handle).score(requests))
    assert [(ask.images, ask.pairs, ask.markets) for ask in handle.asks] == [
        ((b"a", b"b"), ((0, 1), (1, 0)), ("KR",)),
        ((b"a", b"b", b"c"), ((0, 1), (1, 2)), ("BR",)),
    ]
    assert {(ask.tenant, ask.evidence, ask.urgent) for ask in handle.asks} == {("ray", 0, False)}
    assert [verdict.note for verdict in verdicts] == ["KR a>b", "BR a>b", "KR b>a", "BR b>c"]


def test_what_is_refused_comes_without_a_traceback():
    class Remote(UserError):
        cause = UserError("title: it names another market")

    handle = AwaitedHandle(Remote("Traceback ..."))
    with pytest.raises(UserError, match=r"^title: it names another market$"):
        asyncio.run(AsyncHandleScorer(handle).score([asked("mug", "KR")]))


class AwaitedHandle:
    """`await handle.judge.remote(ask)`: the note says which images were asked in which market."""

    def __init__(self, error: Exception | None = None) -> None:
        self.judge, self.error = self, error
        self.asks: list[ScoreRequest] = []

    async def remote(self, ask: ScoreRequest) -> list[Verdict]:
        self.asks.append(ask)
        if self.error:
            raise self.error
        (market,) = ask.markets
        shown = [f"{market} {ask.images[a].decode()}>{ask.images[b].decode()}" for a, b in ask.pairs]
        return [
            Verdict(
                market=market,
                probability=0.5,
                calibrated_probability=None,
                choice=None,
                log_odds=0.0,
                evidence=(),
                past_ads=0,
                model_version=None,
                knowledge_base_version=None,
                note=note,
            )
            for note in shown
        ]
