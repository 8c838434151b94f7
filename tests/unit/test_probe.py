"""The probe: planted collapses by number, and a real model folder whose answers are planted, published and refused."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from countryreward import CountryReward
from countryreward.data.artifacts import publish
from countryreward.data.creative_identity import Copy
from countryreward.errors import UserError
from countryreward.judges.pairwise import PairwiseJudge
from countryreward.models.processor import load_processor
from countryreward.models.reward_config import RewardOptions
from countryreward.models.reward_model import CountryRewardModel
from countryreward.models.tower import backbone_folder
from countryreward.retrieval.encoders import load_image_encoder, load_text_encoder
from countryreward.scoring.model_folder import PROBE, ModelFolder
from countryreward.scoring.probe import ProbeResult, ProbeRow, check_draft, run_probe, tolerance

MARKETS = ("BR", "FR", "KR")
CHANGING = [[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [-3.0, -3.0, -3.0], [1.0, -2.0, -1.0]]
"""Item by item, the logit in each market: one side in 8 of 15, three items whose side changes."""
ALWAYS_A = [[1.0, 2.0, 0.5], [0.1, 4.0, 2.0], [1.0, 1.0, 1.0], [3.0, 0.2, 0.3]]
ONE_VERDICT = [[1.0, 2.0, 0.5], [-1.0, -0.1, -3.0], [1.0, 1.0, 1.0], [-2.0, -2.0, -2.0], [0.3, 0.1, 0.2]]


def result(logits: list[list[float]], stored: list[list[float]] | None = None) -> ProbeResult:
    """Of items each asked in the first markets; A really won in KR alone."""
    stored = stored or logits
    return ProbeResult(
        rows=tuple(
            ProbeRow(
                record_id=f"r{item}-{market}", item=f"i{item}", market=market, label=int(market == "KR"),
                stored=stored[item][at], logit=logit,
            )
            for item, row in enumerate(logits) for at, (market, logit) in enumerate(zip(MARKETS, row, strict=False))
        )
    )  # fmt: skip


def test_a_model_that_listens_has_not_collapsed():
    found = result(CHANGING)
    assert found.collapsed() is None
    assert (found.share_a, found.changing, len(found.shared), found.one_verdict) == (8 / 15, 3, 5, False)
    assert found.deviation == 0.0


def test_always_the_same_side():
    assert result(ALWAYS_A).collapsed() == (
        "it answers A to 12 of the 12 questions of its probe (100%, more than 90%); A really won 4 of them"
    )
    always_b = [[-logit for logit in row] for row in ALWAYS_A]
    assert str(result(always_b).collapsed()).startswith("it answers B to 12 of the 12")
    assert str(result([[0.0] * 3] * 4).collapsed()).startswith("it answers neither to 12 of the 12")


def test_nine_in_ten_is_not_more_than_nine_in_ten():
    alone = [[1.0]] * 18  # each item in one market
    assert result([*alone, [-1.0], [-1.0]]).collapsed() is None
    assert str(result([*alone, [1.0], [-1.0]]).collapsed()).startswith("it answers A to 19 of the 20")


def test_one_verdict_for_all_markets():
    found = result(ONE_VERDICT)
    assert (found.one_verdict, found.share_a) == (True, 9 / 15)
    assert found.collapsed() == (
        "it gives each of 5 pairs of its probe one verdict for all its markets, so it does not listen to the country; "
        "5 of these pairs really had different winners"
    )


def test_too_little_is_not_judged():
    assert result([[1.0, 1.0, 1.0]] * 3).collapsed() is None  # 9 questions
    assert result(ONE_VERDICT[:4]).collapsed() is None  # 4 items
    one_market = result([[1.0], [-1.0]] * 10)
    assert (one_market.collapsed(), one_market.one_verdict) == (None, False)
    nothing = ProbeResult(rows=())
    assert (nothing.collapsed(), nothing.share_a, nothing.deviation) == (None, 0.0, 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_an_error(bad: float):
    planted = [*CHANGING[:4], [1.0, bad, -1.0]]
    with pytest.raises(UserError, match="probe: 1 of 15 logits are not finite, the first for record r4-FR in FR"):
        result(planted)
    with pytest.raises(UserError, match="1 of 15 logits"):
        result(CHANGING, stored=planted)


def test_the_deviation_is_the_largest_of_either_sign():
    assert result([[1.0, 2.0], [-1.0, 0.5]], stored=[[1.25, 2.0], [-1.0, 0.0]]).deviation == 0.5


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


Fill = Callable[..., None]


@pytest.fixture
def fill_model(tmp_path: Path, make_world: Callable[..., Any]) -> Fill:
    """`fill_model(folder, logits)`: a model that answers these, for its head is 0 and its prior is trusted fully."""
    base = make_world(seed=1)[0].artifact
    names = {"text": "hashed-ngrams", "image": "layout-hog"}
    made_by = {
        "text": load_text_encoder(names["text"]).fingerprint,
        "image": load_image_encoder(names["image"]).fingerprint,
    }
    known = {"encoder_names": names, "encoders": made_by}

    def fill(folder: Path, logits: list[list[float]], *, prior_weight: float = 0.5) -> None:
        model = CountryRewardModel.from_backbone(backbone_folder("tiny"), RewardOptions(strategy="soft"))
        model.config.image_px = 28
        assert model.prior_weight is not None
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.prior_weight.fill_(prior_weight)  # both orders are asked: half of it each
        model.save_pretrained(folder)
        load_processor(backbone_folder("tiny")).save_pretrained(folder)
        with publish(tmp_path / "base", kind="knowledge_base", config=known) as draft:
            shutil.copytree(base.path, draft.path, dirs_exist_ok=True)
        shutil.copytree(tmp_path / "base", folder / "knowledge_base")
        told = {"uri": "knowledge_base", "schema_version": 1, "retrieval": None, **known}
        told["version"] = json.loads((tmp_path / "base" / "manifest.json").read_text())["version"]
        for name, value in (
            ("knowledge_base.json", told),
            ("calibration.json", {"temperature": 1.0}),
            ("markets.json", {"trained": [{"code": code} for code in MARKETS]}),
            ("training.json", {"precision": "fp32"}),
        ):
            (folder / name).write_text(json.dumps(value))
        rows = [
            {
                "record_id": f"r{item}-{market}", "title": f"Mug {item}", "category": None, "attributes": {"colour": "red"},
                "tags": ["gift"], "product_id": f"p{item}", "market": market, "image_a": png(item), "image_b": png(item + 1),
                "label": int(market == "KR"), "log_odds": logit, "letter": None, "logit": logit,
            }
            for item, row in enumerate(logits) for market, logit in zip(MARKETS, row, strict=True)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows, schema=PROBE), folder / "probe.parquet")

    return fill


def publish_model(
    fill_model: Fill, folder: Path, logits: list[list[float]], *, allowed: str, prior_weight: float = 0.5
) -> None:
    """As jobs/train_reward.py does, into `folder`/model."""
    with publish(folder / "model", kind="model") as draft:
        fill_model(draft.path, logits, prior_weight=prior_weight)
        check_draft(draft, allowed=allowed, kept=folder / "run")


@pytest.mark.slow
def test_the_words_of_a_probe_are_asked_and_a_probe_of_the_release_before_has_none(fill_model: Fill, tmp_path: Path):
    publish_model(fill_model, tmp_path, CHANGING, allowed="never needed")
    before = ModelFolder.open(tmp_path / "model")
    assert (before.delivery, before.reads_copy) == ("unknown", False)  # its training.json tells of neither
    table = pq.read_table(before.artifact.path / "probe.parquet")
    asked: list[Any] = []

    class Listening(PairwiseJudge):
        def prepare(self, question: Any) -> Any:
            asked.append(question.copies)
            return super().prepare(question)

    rows = table.to_pylist()
    rows[1] |= {"image_b": rows[1]["image_a"], "copy_a": {"headline": "Carry less", "tags": ["new"]}}
    old = table.drop_columns(["copy_a", "copy_b"])
    for written in (pa.Table.from_pylist(rows, schema=PROBE), old):
        folder = tmp_path / f"copy-{len(written.schema)}"
        shutil.copytree(before.artifact.path, folder)
        pq.write_table(written, folder / "probe.parquet")
        opened = dataclasses.replace(before, artifact=dataclasses.replace(before.artifact, path=folder))
        run_probe(Listening.load(folder), opened)
    assert asked == [
        *[(None, None), (Copy(headline="Carry less", tags=("new",)), None), *[(None, None)] * 13],
        *[(None, None)] * 15,
    ]


@pytest.mark.slow
def test_a_healthy_model_is_published_with_its_probe(fill_model: Fill, tmp_path: Path):
    publish_model(fill_model, tmp_path, CHANGING, allowed="never needed")
    judge = CountryReward.from_pretrained(tmp_path / "model")
    assert judge.probe_deviation() < 1e-5
    again = run_probe(judge.judge, judge.folder)
    assert [round(row.logit, 4) for row in again.rows] == [logit for row in CHANGING for logit in row]
    assert len({row.item for row in again.rows}) == 5
    manifest = judge.folder.artifact.manifest
    assert manifest.counts["probe"] | {"deviation": 0.0} == {
        "questions": 15,
        "share_a": 0.5333,
        "items_in_several_markets": 5,
        "items_whose_verdict_changes": 3,
        "one_verdict": False,
        "deviation": 0.0,
        "collapsed": None,
        "allowed": None,  # there was nothing to allow
    }
    assert "probe.json" in manifest.files
    told = json.loads((judge.folder.artifact.path / "probe.json").read_text())
    assert told["rows"][2]["record_id"] == "r0-KR"
    assert told["rows"][2]["logit"] == pytest.approx(-1.0, abs=1e-5)
    assert {name: told[name] for name in manifest.counts["probe"]} == manifest.counts["probe"]


@pytest.mark.slow
@pytest.mark.parametrize(("logits", "said"), [(ALWAYS_A, "answers A to 12 of the 12"), (ONE_VERDICT, "one verdict")])
def test_a_collapsed_model_is_refused_until_somebody_says_why(
    fill_model: Fill, tmp_path: Path, logits: list[list[float]], said: str
):
    with pytest.raises(UserError, match=said) as refused:
        publish_model(fill_model, tmp_path, logits, allowed="  ")
    assert str(refused.value).startswith("allow_collapsed: the model has collapsed: it ")
    assert f"its weights are kept in {tmp_path / 'run' / 'best'}." in str(refused.value)
    assert "--allow_collapsed='why'" in str(refused.value)
    assert not (tmp_path / "model").exists()
    publish_model(fill_model, tmp_path, logits, allowed="to look\nat it")
    counts = ModelFolder.open(tmp_path / "model").artifact.manifest.counts["probe"]
    assert said in counts["collapsed"]
    assert counts["allowed"] == "to look at it"


@pytest.mark.slow
def test_a_reason_does_not_help_a_model_without_numbers(fill_model: Fill, tmp_path: Path):
    with pytest.raises(UserError, match="15 of 15 logits are not finite"):
        publish_model(fill_model, tmp_path, CHANGING, allowed="because", prior_weight=float("nan"))
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "device", "wanted"),
    [("fp32", "cpu", 1e-3), ("bf16", "cpu", 0.25), ("fp32", "cuda", 0.25), ("bf16", "cuda", 0.25)],
)
def test_how_much_arithmetic_explains(fill_model: Fill, tmp_path: Path, precision: str, device: str, wanted: float):
    with publish(tmp_path / "model", kind="model") as draft:
        fill_model(draft.path, CHANGING)
        (draft.path / "training.json").write_text(json.dumps({"precision": precision}))
    assert tolerance(ModelFolder.open(tmp_path / "model"), device) == wanted
