"""The judge contract, the way from a logit to a verdict, and the engine's memory, with models of a few thousand parameters."""

import asyncio
import io
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from countryreward.data.creative_identity import Copy
from countryreward.errors import UserError
from countryreward.evaluation.judge_rows import JUDGE_ROWS
from countryreward.judges.base import JudgeQuestion, all_logits, load_judge
from countryreward.judges.pairwise import PairwiseJudge
from countryreward.scoring.contracts import (
    PairRequest,
    Product,
    ScoreRequest,
    Verdict,
    answer_either,
    merge_pairs,
    score_each,
)
from countryreward.scoring.country_reward import CountryReward, PreparedPair
from countryreward.scoring.verdicts import build_verdict
from countryreward.serving.inference.engine import InferenceEngine
from countryreward.serving.local_service import free_port
from countryreward.serving.service_config import RewardServiceConfig
from tests.unit.micro_qwen import TOKENIZER, model


def judge(**options: Any) -> PairwiseJudge:
    made = model(**options)
    made.config.image_px = 56
    return PairwiseJudge(made, cast(Any, SimpleNamespace(tokenizer=TOKENIZER)))


def question(title: str = "Red bag", market: str = "KR", **changes: Any) -> JudgeQuestion:
    return JudgeQuestion(title=title, attributes={}, tags=[], market=market, images=("a", "b"), **changes)


def features(of: PairwiseJudge) -> Any:
    """[n, 16, W] that differ by image."""
    width = cast(Any, of.model.config.backbone.vision_config).embed_dim
    values = {name: torch.from_numpy(np.random.default_rng(ord(name)).normal(size=(16, width))) for name in "ab"}
    return lambda names: torch.stack([values[name].float() for name in names])


def test_the_logit_is_the_head_on_the_states():
    antisymmetric = judge(strategy="none", antisymmetric="on")
    prepared = [antisymmetric.prepare(question()), antisymmetric.prepare(question(market="BR"))]
    states = antisymmetric.states(prepared, features(antisymmetric))
    assert states.shape == (2, 2, 32)  # questions, orders, width
    weight = antisymmetric.model.classifier.weight.detach().numpy()[0]
    g = states @ weight
    assert antisymmetric.logits(prepared, features(antisymmetric)) == pytest.approx(g[:, 0] - g[:, 1], abs=1e-4)
    one_order = judge(strategy="none", antisymmetric="off")
    prepared = [one_order.prepare(question())]
    states = one_order.states(prepared, features(one_order))
    assert states.shape == (1, 1, 32)
    weight = one_order.model.classifier.weight.detach().numpy()[0]
    assert one_order.logits(prepared, features(one_order)) == pytest.approx(states[:, 0] @ weight, abs=1e-4)


@pytest.mark.slow
def test_one_picture_with_two_headlines_gets_an_answer_that_turns_with_them():
    asked = judge(strategy="none", antisymmetric="on")
    words = (Copy(headline="Carry less"), Copy(headline="Soft leather"))
    pairs = [
        JudgeQuestion(title="Red bag", attributes={}, tags=[], market="KR", images=("a", "a"), copies=copies)
        for copies in (words, (words[1], words[0]), (words[0], words[0]), (None, None))
    ]
    ab, ba, same, bare = asked.logits([asked.prepare(pair) for pair in pairs], features(asked))
    assert abs(ab) > 1e-3
    assert ab == pytest.approx(-ba, abs=1e-5)
    assert (same, bare) == (pytest.approx(0, abs=1e-5), pytest.approx(0, abs=1e-5))


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({"strategy": "soft"}, True),
        ({"strategy": "instruct"}, True),
        ({"strategy": "none"}, False),
        ({"strategy": "soft", "country": "off"}, False),
    ],
)
def test_a_prior_is_read_where_it_moves_the_logit(options: dict[str, Any], reads: bool):
    asked = judge(**options)
    if asked.model.prior_weight is not None:
        torch.nn.init.constant_(asked.model.prior_weight, 1.0)
    with_prior = asked.logits([asked.prepare(question(log_odds=2.0, letter="A"))], features(asked))
    without = asked.logits([asked.prepare(question())], features(asked))
    assert asked.reads_prior is reads
    assert (abs(with_prior - without) > 1e-6).all() == reads


def test_a_judge_of_an_unknown_kind_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "oracle"}))
    with pytest.raises(UserError, match="a judge of type 'oracle'; this release knows country_reward"):
        load_judge(tmp_path)


def test_logits_come_in_the_order_of_the_questions_whatever_they_cost():
    batches: list[list[int]] = []

    def logits(prepared: list[int], _: Any) -> np.ndarray:
        batches.append(prepared)
        return np.array(prepared, dtype=np.float32) * 10

    by_cost = cast(Any, SimpleNamespace(tokens=lambda prepared: prepared, logits=logits))
    assert all_logits(by_cost, [5, 1, 4, 2, 3], cast(Any, None), 2).tolist() == [50, 10, 40, 20, 30]
    assert batches == [[1, 2], [3, 4], [5]]


LOOKUP = cast(Any, SimpleNamespace(base=SimpleNamespace(version="k1"), evidence=lambda found, most: ("ad",) * 3))
FOUND = cast(Any, SimpleNamespace(prior=SimpleNamespace(n=39)))


def verdict(logit: float | None, **changes: Any) -> Verdict:
    options: dict[str, Any] = {
        "lookup": LOOKUP, "found": FOUND, "evidence": None, "temperature": 2.0, "decides": True, "abstain_below": 0.0,
        "model_version": "m1", "note": None, "unsure_note": "not sure enough",
    }  # fmt: skip
    return build_verdict("KR", logit, **options | changes)


def test_a_verdict_from_a_logit():
    sure = verdict(2.0)
    assert (sure.choice, sure.log_odds, sure.past_ads, len(sure.evidence), sure.note) == ("A", 2.0, 78, 3, None)
    assert sure.probability == pytest.approx(1 / (1 + np.exp(-2)))
    assert sure.stated_probability == sure.calibrated_probability == pytest.approx(1 / (1 + np.exp(-1)))
    assert verdict(-2.0).choice == "B"
    assert verdict(-2.0).stated_probability == pytest.approx(1 - sure.stated_probability)
    uncalibrated = verdict(2.0, temperature=None)
    assert (uncalibrated.calibrated_probability, uncalibrated.stated_probability) == (None, uncalibrated.probability)


def test_where_there_is_no_choice_and_why():
    assert (verdict(2.0, decides=False).choice, verdict(2.0, decides=False).note) == (None, "not sure enough")
    assert verdict(0.1, abstain_below=0.2).choice is None
    assert verdict(2.0, abstain_below=0.2).choice == "A"
    assert (verdict(0.0).choice, verdict(0.0, tie="B").choice) == (None, "B")
    unasked = verdict(None, note="no answer: the two images are the same file")
    assert (unasked.choice, unasked.probability, unasked.calibrated_probability) == (None, 0.5, 0.5)
    assert unasked.note == "no answer: the two images are the same file"


def test_a_verdict_shows_no_past_ads_that_its_judge_did_not_read():
    unread = verdict(2.0, found=None)
    assert (unread.evidence, unread.past_ads, unread.choice) == ((), 0, "A")


def test_a_market_of_no_training_gets_no_letter():
    scorer = CountryReward.__new__(CountryReward)
    scorer.folder = cast(Any, SimpleNamespace(
        trained_markets=("KR",), temperature=1.0, delivery="rotated",
        artifact=SimpleNamespace(manifest=SimpleNamespace(version="m1")),
    ))  # fmt: skip
    scorer.lookup, scorer.config = LOOKUP, cast(Any, SimpleNamespace(abstain_below=0.0))
    trained, other = (
        scorer.verdict(PreparedPair(market=market, found=FOUND, prepared="q", note=None), 3.0)
        for market in ("KR", "IS")
    )
    assert (trained.choice, other.choice, other.log_odds) == ("A", None, 3.0)
    assert (trained.delivery, trained.claim, trained.known_used) == ("rotated", "better", None)


def test_pairs_of_the_release_before_become_one_request_per_pair_of_images():
    pairs = [
        PairRequest(product=Product(title=title), image_a=images[:1], image_b=images[1:], market=market)
        for title, images, market in [
            ("mug", b"ab", "KR"),
            ("mug", b"ab", "Brazil"),
            ("mug", b"ba", "KR"),
            ("mug", b"ab", "South Korea"),
        ]
    ]
    with pytest.warns(FutureWarning, match="ask by ScoreRequest"):
        requests, places = merge_pairs(pairs)
    assert [(request.creatives[0].image, request.markets) for request in requests] == [
        (b"a", ("KR", "BR")),
        (b"b", ("KR",)),
    ]
    assert places == [(0, 0), (0, 1), (1, 0), (0, 0)]


def test_requests_of_either_release_are_answered_and_nothing_else_is_dropped():
    def score(requests: Any) -> list[list[Any]]:
        return [[f"{request.product.title} {market}" for market in request.markets] for request in requests]

    pairs = [
        PairRequest(product=Product(title="mug"), image_a=b"a", image_b=b"b", market=code) for code in ("KR", "BR")
    ]
    whole = ScoreRequest.of_images(Product(title="lamp"), (b"a", b"b"), markets=("KR", "US"))
    with pytest.warns(FutureWarning, match="ask by ScoreRequest"):
        assert answer_either(iter(pairs), score) == ["mug KR", "mug BR"]
    assert answer_either([whole], score) == [["lamp KR", "lamp US"]]
    assert answer_either([], score) == []
    for wrong in (["rubbish"], [whole, pairs[0]], [pairs[0], "rubbish"]):
        with pytest.raises(UserError, match="give ScoreRequests alone"):
            answer_either(wrong, score)


def test_a_request_that_names_no_creative_is_refused():
    for pair in ((0, 2), (-1, 0)):
        with pytest.raises(UserError, match="no pair of positions among 2 creatives"):
            ScoreRequest.of_images(Product(title="mug"), (b"a", b"b"), pairs=(pair,), markets=("KR",))
    with pytest.raises(UserError, match="evidence: -1 must be at least 0"):
        ScoreRequest.of_images(Product(title="mug"), (b"a", b"b"), markets=("KR",), evidence=-1)


def test_what_is_refused_together_is_asked_one_by_one():
    calls: list[int] = []

    class Picky:
        def score(self, requests: Any, /) -> list[list[Any]]:
            calls.append(len(requests))
            if any(request.product.title == "bad" for request in requests):
                raise UserError("title: bad")
            return [[request.product.title] for request in requests]

    requests = [
        ScoreRequest.of_images(Product(title=title), (b"a", b"b"), markets=("KR",)) for title in ("one", "bad", "two")
    ]
    one, bad, two = score_each(cast(Any, Picky()), requests)
    assert (one, str(bad), two) == (["one"], "title: bad", ["two"])
    assert calls == [3, 1, 1, 1]
    assert score_each(cast(Any, Picky()), []) == []


def test_the_order_of_questions_is_market_by_market():
    request = ScoreRequest.of_images(
        Product(title="mug"), (b"a", b"b", b"c"), pairs=((0, 1), (2, 0)), markets=("KR", "Brazil")
    )
    assert request.questions() == [("KR", 0, 1), ("KR", 2, 0), ("BR", 0, 1), ("BR", 2, 0)]
    with pytest.raises(UserError, match="'Atlantis' is no country"):
        ScoreRequest.of_images(Product(title="mug"), (b"a", b"b"), markets=("Atlantis",)).questions()


def test_an_image_kept_for_one_tenant_is_decoded_anew_for_another():
    """Not even its speed may tell that another tenant sent the same image."""
    decoded: list[int] = []

    def encode(pictures: list[Any]) -> np.ndarray:
        decoded.append(len(pictures))
        return np.zeros((len(pictures), 4), np.float32)

    reward = SimpleNamespace(
        folder=SimpleNamespace(trained_markets=("KR",)),
        judge=SimpleNamespace(
            tokens=lambda prepared: 1, images=lambda prepared: (), patches=lambda picture: torch.zeros(1, 2),
            logits=lambda prepared, features: np.zeros(len(prepared)),
        ),
        lookup=SimpleNamespace(image_encoder=SimpleNamespace(encode=encode)),
        prepare=lambda pairs: [PreparedPair(market="KR", found=None, prepared="q", note=None) for _ in pairs],
        verdict=lambda pair, logit, evidence: pair.market,
    )  # fmt: skip
    files = []
    for shade in (10, 200):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
        files.append(buffer.getvalue())

    async def ask() -> list[int]:
        engine = InferenceEngine(cast(Any, reward), RewardServiceConfig())
        counts = []
        for tenant in ("a", "a", "b"):
            await engine.score(
                ScoreRequest.of_images(Product(title="mug"), files, markets=("KR",), tenant=tenant, evidence=0)
            )
            counts.append(len(decoded))
        await engine.close()
        return counts

    assert asyncio.run(ask()) == [2, 2, 4]


def test_what_each_row_of_the_report_takes_from_the_prompts():
    asked: dict[str, Any] = {}
    answers = SimpleNamespace(
        reads_priors=True,
        ask=lambda **masks: asked.setdefault(key, masks),
        ask_once_per_item=lambda **masks: asked.setdefault(key, masks | {"once": True}),
    )
    for key in ("country_masked", "name_only_masked", "images_masked"):
        from_model = JUDGE_ROWS[key].from_model
        assert from_model is not None
        from_model(cast(Any, answers))
    assert asked == {
        "country_masked": {"mask_country": True, "mask_prior": True, "once": True},  # past ads know the country, too
        "name_only_masked": {"mask_country": True},
        "images_masked": {"mask_images": True},
    }


def test_wrong_arguments_of_score_are_named():
    scorer = CountryReward.__new__(CountryReward)
    scorer.config = cast(Any, SimpleNamespace(max_bytes=10))
    with pytest.raises(UserError, match=r"markets: 'KR' is one text; give a list, such as \['KR'\]"):
        scorer.score("mug", b"a", b"b", markets="KR")
    with pytest.raises(UserError, match="image_b: 3 is neither file bytes nor a path"):
        scorer.score("mug", b"a", cast(Any, 3), markets=["KR"])


@pytest.mark.parametrize("port", [0, 99_999])
def test_what_is_no_port_is_said(port: int):
    with pytest.raises(UserError, match=f"port: {port} is no port"):
        free_port("127.0.0.1", port)
