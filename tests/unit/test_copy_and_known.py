"""The words of ads and known results, from what is written to what is asked: types, tables, forms, verdicts."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from countryreward.client.request_forms import copies_field, copy_fields, known_field
from countryreward.data.creative_identity import Copy, copies_of
from countryreward.errors import UserError
from countryreward.scoring.contracts import Creative, KnownResult, Product, ScoreRequest, SideResult, Verdict
from countryreward.scoring.country_reward import CountryReward
from countryreward.scoring.frames import FrameRequests
from countryreward.scoring.prior_lookup import MarketPair
from countryreward.scoring.verdicts import claim, claim_sentence, delivery_of
from countryreward.serving.http.apps import create_app
from countryreward.serving.http.keys import KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.service_config import ServiceConfig

MUG = Product(title="Mug")
SEVEN = Copy(headline="7", tags=("a", "b"))
WARM, COLD = Copy(headline="Warm light"), Copy(headline="Cold light")


def counts(impressions: Any, clicks: Any) -> SideResult:
    return SideResult(impressions=impressions, clicks=clicks)


IN_THE_US = KnownResult(market="US", kind="counts", a=counts(9000, 270), b=counts(9100, 190))


class TestCopy:
    def test_words_are_composed_and_white_space_is_joined(self) -> None:
        decomposed = Copy(headline="  Cafe\u0301\n au lait ", tags=["a  b", " "])  # pyright: ignore[reportArgumentType]
        assert decomposed == Copy(headline="Caf\u00e9 au lait", tags=("a b",))
        assert decomposed.hash == Copy(headline="Caf\u00e9 au lait", tags=("a b",)).hash

    def test_an_empty_copy_is_none(self) -> None:
        assert Copy(headline=" ", tags=("",)).hash is None
        assert Creative(image=b"a", copy=Copy(body="")) == Creative(image=b"a")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ({"headline": 3}, "headline: 3 is no text"),
            ({"headline": float("nan")}, "headline: nan is no text"),
            ({"tags": "a;b"}, "tags: 'a;b' is no list of texts"),
            ({"tags": [None, 1]}, "tags: 1 is no text"),
            ({"body": "\ud800"}, "body: '\\ud800' holds a character that is no Unicode"),
        ],
    )
    def test_what_is_no_text_is_refused(self, words: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError) as caught:
            Copy(**words)
        assert str(caught.value).startswith(said)

    def test_the_words_of_a_creatives_table(self) -> None:
        table = pd.DataFrame(
            {
                "creative_id": ["c1", "c2", "c3"],
                "headline": ["Warm light", None, None],
                "body": [None, None, None],
                "call_to_action": [None, "Buy", None],
                "tags": [np.array(["eve"], dtype=object), None, None],
                "copy_hash": ["x", "y", None],
            }
        )
        assert copies_of(table) == {
            "c1": Copy(headline="Warm light", tags=("eve",)),
            "c2": Copy(call_to_action="Buy"),
        }


class TestKnown:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"kind": "clicks"}, "known.kind: 'clicks' is unknown; write one of counts, votes, rate, orders, score"),
            ({"a": counts(10, 11)}, "known.a.clicks: 11 of 10 impressions;"),
            ({"b": SideResult(impressions=10, conversions=11)}, "known.b.conversions: 11 of 10 impressions;"),
            ({"a": counts(0, 0)}, "known.a.impressions: 0 say nothing;"),
            ({"a": counts(10, -1)}, "known.a.clicks: -1 is below 0;"),
            ({"a": counts(10, 1.5)}, "known.a.clicks: 1.5 is none; write a whole number"),
            ({"a": counts(10, True)}, "known.a.clicks: True is none; write a whole number"),
            ({"a": counts(10**400, 1)}, "known.a.impressions: 1000000000"),
            ({"a": counts("10", 1)}, "known.a.impressions: 10 is none; write a whole number"),
            ({"a": SideResult(clicks=1)}, "known.a.impressions: it is missing;"),
            ({"a": SideResult(impressions=9)}, "known: impressions alone say nothing;"),
            ({"a": SideResult(impressions=9, value=1.0)}, "known: impressions alone say nothing;"),
            ({"a": SideResult(impressions=9, clicks=1, score=4.0)}, "known.a.score: counts have no such field;"),
            ({"votes_tie": 1}, "known.votes_tie: it belongs to votes, not to counts;"),
            ({"delivery": "chance"}, "known.delivery: 'chance' is unknown;"),
            ({"kind": "rate", "a": SideResult(rate=3.1), "b": SideResult(rate=0.1)}, "known.a.rate: 3.1 is no share;"),
            (
                {"kind": "score", "a": SideResult(score=np.inf), "b": SideResult(score=1.0)},
                "known.a.score: inf is none;",
            ),
            ({"kind": "votes", "a": SideResult(votes=0), "b": SideResult(votes=0)}, "known: nobody has voted;"),
        ],
    )
    def test_what_cannot_be_is_named(self, changes: dict[str, Any], said: str) -> None:
        base = {"market": "US", "kind": "counts", "a": counts(10, 1), "b": counts(10, 2)}
        with pytest.raises(UserError) as caught:
            KnownResult(**cast(Any, base | changes))
        assert str(caught.value).startswith(said)

    def test_every_kind(self) -> None:
        KnownResult(market="US", kind="votes", a=SideResult(votes=3), b=SideResult(votes=0), votes_tie=2)
        KnownResult(market="US", kind="rate", a=SideResult(rate=0.0), b=SideResult(rate=1.0))
        KnownResult(market="US", kind="orders", a=SideResult(orders=3), b=SideResult(orders=2.5))
        KnownResult(
            market="US", kind="score", a=SideResult(score=-1.0, score_n=5), b=SideResult(score=4.2, score_sd=1.0)
        )
        sold = SideResult(impressions=10, conversions=1, value=20.0)
        assert KnownResult(market="US", kind="counts", a=sold, b=sold).outcomes == ("conversions", "value")

    def test_positions_and_markets_are_checked_with_the_request(self) -> None:
        for known, said in (
            (
                KnownResult(pair=(0, 2), market="US", kind="counts", a=counts(9, 1), b=counts(9, 2)),
                "known.pair: (0, 2)",
            ),
            (KnownResult(market="Atlantis", kind="counts", a=counts(9, 1), b=counts(9, 2)), "known.market: 'Atlantis'"),
        ):
            with pytest.raises(UserError) as caught:
                ScoreRequest.of_images(MUG, (b"a", b"b"), markets=("KR",), known=(known,))
            assert str(caught.value).startswith(said)

    def test_each_pair_gets_its_own_turned_to_its_a(self) -> None:
        request = ScoreRequest.of_images(
            MUG, (b"a", b"b", b"c"), pairs=((1, 0), (1, 2)), markets=("KR",), known=(IN_THE_US,)
        )
        (turned,) = request.known_of(1, 0)
        assert (turned.pair, turned.a, turned.b) == ((1, 0), IN_THE_US.b, IN_THE_US.a)
        assert request.known_of(1, 2) == ()


class TestClaims:
    def test_only_chance_and_turns_say_better(self) -> None:
        said = {name: claim(name) for name in ("randomised", "rotated", "optimised", "unknown")}
        assert said == {
            "randomised": "better",
            "rotated": "better",
            "optimised": "won as delivered",
            "unknown": "won as delivered",
        }
        for name, words in said.items():
            assert ("better" in claim_sentence(name)) == (words == "better")

    def test_the_least_comparable_record_decides(self) -> None:
        assert delivery_of(pd.DataFrame({"delivery": ["randomised", "rotated"]})) == "rotated"
        assert delivery_of(pd.DataFrame({"delivery": ["randomised", "unknown", "optimised"]})) == "unknown"
        assert delivery_of(pd.DataFrame({"record_id": ["r"]})) == "unknown"


def reward(*, reads_copy: bool) -> CountryReward:
    """A loaded model whose judge gives back the question."""
    made = CountryReward.__new__(CountryReward)
    made.folder = cast(Any, SimpleNamespace(reads_copy=reads_copy, trained_markets=("KR",)))
    made.judge = cast(Any, SimpleNamespace(prepare=lambda question: question))
    made.reads_prior = False
    made._tokenizing = threading.Lock()
    return made


def pair(names: str, copies: tuple[Copy | None, Copy | None], *known: KnownResult) -> MarketPair:
    images = cast(Any, tuple(SimpleNamespace(content_hash=name) for name in names))
    return MarketPair(product=MUG, images=images, market="KR", copies=copies, known=known)


class TestPreparing:
    def test_one_picture_with_two_headlines_is_asked(self) -> None:
        (asked,) = reward(reads_copy=True).prepare([pair("aa", (WARM, COLD))])
        assert (asked.prepared.images, asked.prepared.copies, asked.note) == (("a", "a"), (WARM, COLD), None)

    def test_one_picture_with_the_same_words_is_not(self) -> None:
        bare, worded = reward(reads_copy=True).prepare([pair("aa", (None, None)), pair("aa", (WARM, WARM))])
        assert (bare.prepared, bare.note) == (None, "no answer: the two images are the same file")
        assert worded.note == "no answer: the two images are the same file with the same words"

    def test_a_model_that_knows_no_words_says_so(self) -> None:
        unread = "the words were not read: the model was trained on ads without words"
        other, same = reward(reads_copy=False).prepare([pair("ab", (WARM, None)), pair("aa", (WARM, COLD))])
        assert (other.prepared.copies, other.note) == ((None, None), unread)
        assert (same.prepared, same.note) == (None, f"no answer: the two images are the same file; {unread}")

    def test_known_results_are_not_used_and_that_is_said(self) -> None:
        with_known, without = reward(reads_copy=True).prepare(
            [pair("ab", (None, None), IN_THE_US), pair("ab", (None, None))]
        )
        assert (with_known.known_used, without.known_used) == (False, None)


def test_words_in_a_frame() -> None:
    rows = [
        {"headline_a": "Warm light", "headline_b": "Cold light", "tags_b": ["x"]},
        {"headline_a": np.nan, "headline_b": None},
        {"headline_a": 7, "tags_a": "a;b"},
        {"headline_a": [1]},
        {"tags_b": "[1"},
    ]
    frame = pd.DataFrame([{"title": "Mug", "image_a": b"a", "image_b": b"b", **row} for row in rows])
    requests = FrameRequests(frame, ["KR"])
    asked = [[creative.copy for creative in request.creatives] for request in next(requests.batches(99))]
    assert asked == [[WARM, Copy(headline="Cold light", tags=("x",))], [None, None], [SEVEN, None]]
    assert requests.frame()["refused"].tolist()[3:] == [
        "headline_a: '[1]' is no text; write it as text",
        "tags_b: '[1' is no list, no JSON list and no a;b; write one",
    ]


class Echo:
    """Keeps what is asked; answers nothing."""

    def __init__(self) -> None:
        self.asks: list[ScoreRequest] = []
        self.markets = ("KR",)

    async def about(self) -> dict[str, Any]:
        return {"model": None, "knowledge_base": None}

    def ready(self) -> bool:
        return True

    def busy(self, tenant: str = "") -> float | None:
        return None

    async def score(self, ask: ScoreRequest, /) -> list[Verdict]:
        self.asks.append(ask)
        note = "; ".join(str(result.market) for result in ask.known) or None
        return [
            Verdict(
                market=market, probability=0.5, calibrated_probability=None, choice=None, log_odds=0.0, evidence=(), past_ads=0,
                model_version=None, knowledge_base_version=None, note=note, known_used=False if ask.known else None,
            )
            for market, _, _ in ask.questions()
        ]  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> tuple[Echo, TestClient]:
    asked, keys = Echo(), KeyStore(tmp_path / "keys.json", 0)
    app = create_app(asked, ServiceConfig(max_text=50), keys=keys, rates=Rates("memory://"))
    return asked, TestClient(app, headers={"Authorization": f"Bearer {keys.create('t')}"})


PAIR = {"image_a": ("a.png", b"one"), "image_b": ("b.png", b"two")}


class TestForms:
    def test_words_and_known_results_of_a_score(self, service: Any) -> None:
        asked, client = service
        fields = {"title": "Mug", "known": known_field([IN_THE_US])["known"]}
        fields |= copy_fields(WARM, "a") | copy_fields(Copy(body="b", call_to_action="c", tags=("t", "u")), "b")
        answer = client.post("/v1/score", data=fields, files=PAIR)
        assert [creative.copy for creative in asked.asks[0].creatives] == [
            WARM,
            Copy(body="b", call_to_action="c", tags=("t", "u")),
        ]
        assert asked.asks[0].known == (IN_THE_US,)
        (verdict,) = answer.json()["verdicts"]
        assert (verdict["known_used"], verdict["claim"], verdict["delivery"]) == (False, "won as delivered", "unknown")

    def test_without_them_the_request_is_as_it_was(self, service: Any) -> None:
        asked, client = service
        client.post("/v1/score", data={"title": "Mug"}, files=PAIR)
        assert asked.asks == [
            ScoreRequest.of_images(MUG, (b"one", b"two"), markets=("KR",), tenant=asked.asks[0].tenant, evidence=5)
        ]

    def test_words_of_a_rank(self, service: Any) -> None:
        asked, client = service
        files = [("images", (f"{n}.png", b"one")) for n in range(3)]
        fields = {"title": "Mug"} | copies_field([WARM, None, COLD])
        assert client.post("/v1/rank", data=fields, files=files).status_code == 200
        assert [creative.copy for creative in asked.asks[0].creatives] == [WARM, None, COLD]

    @pytest.mark.parametrize(
        ("route", "fields", "message"),
        [
            ("score", {"headline_b": "x" * 51}, "headline_b: longer than 50 characters; shorten it"),
            ("score", {"tags_a": ["x" * 30, "y" * 30]}, "tags_a: longer than 50 characters; shorten it"),
            ("rank", {"copies": "x" * 64_001}, "copies: longer than 64000 characters; send less at a time"),
            ("rank", {"copies": "[null]"}, "copies: 1 entries for 2 images; send one, or null, for each"),
            ("rank", {"copies": '[null, {"headline": "' + "x" * 51 + '"}]'}, "copies[1].headline: longer than 50"),
            ("rank", {"copies": '[null, {"head": "x"}]'}, "copies: must be a JSON list"),
            ("rank", {"copies": "{"}, "copies: must be a JSON list"),
            ("score", {"known": "{}"}, "known: must be a JSON list of results"),
            ("score", {"known": "["}, "known: must be a JSON list of results"),
            ("score", {"known": "[" * 40_000}, "known: must be a JSON list of results"),
            ("score", {"known": [IN_THE_US, {"market": "Atlantis"}]}, "known[1].market: is no country"),
            ("score", {"known": [IN_THE_US, {"pair": [0, 2]}]}, "known[1].pair: is none of the pairs that are asked"),
            ("score", {"known": [{"a": {"impressions": 3, "clicks": 4}}]}, "known[0].a.clicks: give at most as many"),
            (
                "score",
                {"known": [{"a": {"impresions": 3, "clicks": 4}}]},
                "known[0].a: has a field that is none of ours",
            ),
            ("score", {"known": [{"a": {"impressions": 10**400, "clicks": 4}}]}, "known[0].a.impressions: "),
            (
                "score",
                {"known": [{"kind": "score", "a": {"score": 1e999}, "b": {"score": 1}}]},
                "known[0].a.score: write a finite",
            ),
            ("score", {"known": [{"sekrit": 1}]}, "known[0]: has a field that is none of ours"),
            ("score", {"known": [{"kind": "sekrit"}]}, "known[0].kind: input should be"),
            (
                "score",
                {"known": [{"a": {"impressions": "3"}}]},
                "known[0].a.impressions: input should be a valid integer",
            ),
        ],
    )
    def test_what_is_wrong_is_named_and_not_repeated(
        self, service: Any, route: str, fields: dict[str, Any], message: str
    ) -> None:
        asked, client = service
        if isinstance(fields.get("known"), list):
            whole = json.loads(known_field([IN_THE_US])["known"])[0]
            results = [whole | (one if isinstance(one, dict) else {}) for one in fields["known"]]
            fields = {"known": json.dumps(results)}
        files = PAIR if route == "score" else [("images", ("a.png", b"one")), ("images", ("b.png", b"two"))]
        answer = client.post(f"/v1/{route}", data={"title": "Mug", **fields}, files=files)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].startswith(message)
        assert "sekrit" not in answer.text
        assert "Atlantis" not in answer.text
        assert asked.asks == []
