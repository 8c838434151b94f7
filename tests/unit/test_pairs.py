"""Preference pairs and cases as pure functions: literal tasks in, literal outcomes out, and every task is accounted for."""

import hashlib
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from countryreward.data.artifacts import publish
from countryreward.data.decoding import inspect
from countryreward.data.design import Design
from countryreward.data.images import ImageTable, ImageWriter
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import AdTask, Refusal, RenderedFile, RenderJob, derived_seed, task_key
from countryreward.generation.ad_maker import design_tasks, render_files, render_tasks
from countryreward.generation.cases import ReferenceAds, make_cases
from countryreward.generation.generation_config import PairRule
from countryreward.generation.outcomes import DROPPED, Outcome, OutcomeStore, counts_of
from countryreward.generation.preference_pairs import choose_pairs, make_pairs
from countryreward.generation.preference_table import PreferencePairs, write_outcomes, write_pictures
from countryreward.scoring.contracts import Product
from tests.unit.literal_renderer import STUDIO, LiteralRenderer
from tests.unit.literal_writer import LiteralScorer, LiteralWriter, worth

RULE = PairRule()


def picture(shade: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def task(title: str = "Oak mug", market: str = "KR", image: bytes | None = None, seed: int = 0) -> AdTask:
    data = picture() if image is None else image
    product = Product(
        title=title, category="mug", attributes={"colour": "red"}, tags=["gift"], product_id=f"id {title}"
    )
    digest = hashlib.sha256(data).hexdigest()
    key = task_key(product, digest, market, seed, "made by")
    return AdTask(product=product, image=data, image_hash=digest, market=market, seed=seed, key=key)


def pairs(*tasks: AdTask, rule: PairRule = RULE, **scorer) -> list[Outcome]:
    return make_pairs(LiteralWriter(), LiteralRenderer(), LiteralScorer(**scorer), tasks, rule)


def test_a_pair_says_all_that_is_needed_to_make_it_again():
    one = task()
    (outcome,) = pairs(one)
    row = outcome.row
    assert row is not None
    assert outcome.designs == {"written": 2}
    assert {name: row[name] for name in ("key", "product_id", "title", "category", "attributes", "tags", "market")} == {
        "key": one.key,
        "product_id": "id Oak mug",
        "title": "Oak mug",
        "category": "mug",
        "attributes": {"colour": "red"},
        "tags": ["gift"],
        "market": "KR",
    }
    assert row["images"] == [hashlib.sha256(one.image).hexdigest()]
    assert (row["probability"], row["swapped_probability"]) == (pytest.approx(0.9), pytest.approx(0.9))
    assert (row["writer"], row["renderer"], row["model"], row["knowledge_base"]) == (
        "literal-1",
        "literal 1",
        "judge-1",
        "kb-1",
    )
    assert {row["seed_chosen"], row["seed_rejected"]} == {
        derived_seed(one, "design", 0),
        derived_seed(one, "design", 1),
    }
    made = {}
    for side in ("chosen", "rejected"):  # again, from the row and the picture
        design = Design.parse(row[side])
        (ad,) = render_files(
            LiteralRenderer(),
            [
                RenderJob(
                    design=design,
                    product=one.product,
                    image=np.full((16, 16, 3), 200, np.uint8),
                    image_hash=one.image_hash,
                    seed=row["seed_render"],
                )
            ],
        )
        assert isinstance(ad, RenderedFile)
        assert ad.sha256 == hashlib.sha256(ad.png).hexdigest() == row[f"ad_{side}"]
        assert ad.fidelity.score == row[f"fidelity_{side}"]
        made[side] = worth(ad.png)
    assert made["chosen"] > made["rejected"]


@pytest.mark.parametrize(
    ("title", "what", "reason"),
    [
        ("Oak mug", "row", None),
        ("repaired mug", "row", None),
        ("same mug", "dropped", "same_design"),
        ("unsure mug", "dropped", "unsure"),
        ("first mug", "dropped", "swap_inconsistent"),
        ("mumbled mug", "quarantined", "refused_design"),
        ("unspeakable mug", "quarantined", "refused_prompt"),
        ("foreign mug", "quarantined", "refused_prompt"),
    ],
)
def test_what_becomes_of_a_task(title: str, what: str, reason: str | None):
    outcomes = pairs(task("Lamp"), task(title), task("Sofa"))
    assert [outcome.key for outcome in outcomes] == [task(name).key for name in ("Lamp", title, "Sofa")]
    assert outcomes[0].row is not None  # what is refused takes no other task with it
    assert outcomes[2].row is not None
    assert getattr(outcomes[1], what) is not None
    assert reason is None or getattr(outcomes[1], what) == reason


def test_a_picture_that_cannot_be_decoded_is_quarantined():
    outcomes = pairs(task("Lamp", image=b"GIF89a..."), task("Sofa", image=picture()[:40]))
    assert [outcome.quarantined for outcome in outcomes] == ["unsupported_format", "undecodable_image"]
    assert outcomes[0].where == "image"
    assert outcomes[0].content is not None
    assert outcomes[0].content["title"] == "Lamp"


def test_designs_that_the_renderer_refuses_are_told():
    class Picky(LiteralRenderer):
        def check(self, job: RenderJob) -> None:
            if job.design == refused:
                raise UserError("design: no such thing; write another")

    one = task()
    (designed,) = design_tasks(LiteralWriter(), [one], 3)
    assert not isinstance(designed, Outcome)
    refused = designed.candidates[0].design
    (rendered,) = render_tasks(Picky(), [designed])
    assert not isinstance(rendered, Outcome)
    assert [candidate.design for candidate in rendered.candidates] == [c.design for c in designed.candidates[1:]]
    assert rendered.counts == {"written": 3, "not_rendered": 1}
    (of_two,) = design_tasks(LiteralWriter(), [one], 2)
    assert not isinstance(of_two, Outcome)
    (outcome,) = render_tasks(Picky(), [of_two])
    assert isinstance(outcome, Outcome)
    assert (outcome.quarantined, outcome.value) == ("refused_design", "design: no such thing; write another")


def test_ads_that_are_the_same_file_are_no_pair():
    class Blind(LiteralRenderer):
        def render(self, jobs):
            return super().render([replace(job, design=STUDIO) for job in jobs])

    (outcome,) = make_pairs(LiteralWriter(), Blind(), LiteralScorer(), [task()], RULE)
    assert (outcome.dropped, outcome.designs) == ("same_ad", {"written": 2, "same_ad": 1})


def test_all_ads_of_a_task_have_one_seed():
    (designed,) = design_tasks(LiteralWriter(), [task()], 4)
    assert not isinstance(designed, Outcome)
    jobs = designed.render_jobs()
    assert len({job.design for job in jobs}) == 4
    assert {job.seed for job in jobs} == {derived_seed(task(), "render")}


def test_of_many_designs_the_best_meets_the_worst():
    one, rule = task(), PairRule(designs=5)
    (designed,) = design_tasks(LiteralWriter(), [one], 5)
    assert not isinstance(designed, Outcome)
    (rendered,) = render_tasks(LiteralRenderer(), [designed])
    assert not isinstance(rendered, Outcome)
    (outcome,) = choose_pairs(LiteralScorer(), [rendered], rule, "w")
    worths = [worth(ad.png) for ad in rendered.ads]
    assert outcome.row is not None
    assert outcome.row["ad_chosen"] == rendered.ads[int(np.argmax(worths))].sha256
    assert outcome.row["ad_rejected"] == rendered.ads[int(np.argmin(worths))].sha256
    assert (outcome.row["probability"], outcome.row["swapped_probability"]) == (pytest.approx(0.9), pytest.approx(0.9))


def test_one_order_is_asked_where_one_is_wanted():
    scorer = LiteralScorer()
    (outcome,) = make_pairs(LiteralWriter(), LiteralRenderer(), scorer, [task()], PairRule(both_orders=False))
    assert outcome.row is not None
    assert outcome.row["swapped_probability"] is None
    assert scorer.calls == [1]


def test_the_margin_and_the_calibrated_probability_decide():
    assert pairs(task(), rule=PairRule(margin=0.89))[0].row is not None
    assert pairs(task(), rule=PairRule(margin=0.91))[0].dropped == "unsure"
    assert pairs(task(), calibrated=False)[0].dropped == "unsure"  # the raw probability is .5


@pytest.mark.parametrize("wrong", [{"designs": 1}, {"designs": 17}, {"margin": 0.4}, {"margin": 1.0}])
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PairRule(**wrong)


def many(count: int = 24) -> list[AdTask]:
    kinds = ("Oak", "same", "unsure", "first", "mumbled", "unspeakable", "foreign", "half mumbled")
    return [task(f"{kinds[n % len(kinds)]} mug {n}", market) for n in range(count) for market in ("KR", "BR")]


def test_input_is_kept_and_dropped_and_quarantined():
    tasks = many()
    outcomes = pairs(*tasks)
    counts = counts_of(outcomes, len(tasks))["tasks"]
    assert counts["input"] == 48 == counts["kept"] + counts["dropped"] + counts["quarantined"]
    assert set(counts["dropped_by_reason"]) == {"same_design", "unsure", "swap_inconsistent"} < set(DROPPED)
    assert set(counts["quarantined_by_reason"]) == {"refused_design", "refused_prompt"}
    with pytest.raises(AssertionError, match="49 rows came in"):
        counts_of(outcomes, 49)


def test_an_outcome_depends_on_its_task_alone():
    tasks = many()
    together = pairs(*tasks)
    assert together == pairs(*tasks)
    assert together == [pairs(one)[0] for one in tasks]
    assert together[::-1] == pairs(*tasks[::-1])


def test_keys_and_seeds():
    one = task()
    assert (one.key, derived_seed(one, "render")) == (task().key, derived_seed(task(), "render"))
    others = [task("Oak jug"), task(market="BR"), task(seed=1), task(image=picture(100))]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert len({derived_seed(each, what, n) for each in (one, *others) for what in "ab" for n in range(3)}) == 30
    assert all(0 <= derived_seed(one, "x", n) < 2**31 for n in range(100))
    versions = {task_key(one.product, one.image_hash, "KR", 0, made_by) for made_by in ("a", {"b": 1}, ["c"], None)}
    assert len(versions) == 4


def test_cases_are_judged_against_the_original_and_the_reference():
    one = task()
    judges = {"reward": LiteralScorer(), "held_out": LiteralScorer(model="other")}
    (plain,) = make_cases(LiteralWriter(), LiteralRenderer(), judges, [one])
    assert plain.row is not None
    ((name, png),) = plain.files.items()
    assert name == f"ads/{hashlib.sha256(png).hexdigest()}.png"
    assert plain.row["ad"] in name
    wins = 0.9 if worth(png) > worth(one.image) else 0.1
    assert plain.row["beats_original"] == {"reward": pytest.approx(wins), "held_out": pytest.approx(wins)}
    assert plain.row["beats_reference"] == {}
    other = picture(7)
    (against,) = make_cases(LiteralWriter(), LiteralRenderer(), judges, [one], lambda _: other)
    assert against.row is not None
    wins = 0.9 if worth(png) > worth(other) else 0.1
    assert against.row["beats_reference"] == {"reward": pytest.approx(wins), "held_out": pytest.approx(wins)}
    (leaning,) = make_cases(LiteralWriter(), LiteralRenderer(), judges, [task("first mug")])
    assert leaning.row is not None
    assert leaning.row["beats_original"]["reward"] == pytest.approx(0.5)  # a judge that always says A says nothing


def test_one_design_is_enough_for_a_case():
    tasks = [task("same mug"), task("mumbled mug"), task("foreign mug"), task("Oak mug")]
    outcomes = make_cases(LiteralWriter(), LiteralRenderer(), {"reward": LiteralScorer()}, tasks)
    assert [outcome.quarantined for outcome in outcomes] == [None, "refused_design", "refused_prompt", None]


def test_files_are_refused_one_by_one():
    def job(foreground: str) -> RenderJob:
        return RenderJob(
            design=replace(STUDIO, foreground=foreground),
            product=Product(title="mug"),
            image=np.zeros((16, 16, 3), np.uint8),
            image_hash="0",
        )

    renderer = LiteralRenderer()
    answers = render_files(renderer, [job("bare"), job("forbidden"), job("a late refusal"), job("bare")])
    assert [type(answer) for answer in answers] == [RenderedFile, Refusal, Refusal, RenderedFile]
    assert answers[1] == Refusal(reason="design: this renderer cannot do it; write another")
    assert answers[0] == answers[3]
    assert len(renderer.passes) == 4  # all good ones at once, then each of the three
    assert render_files(renderer, []) == []


def test_the_store_keeps_every_outcome_once(tmp_path: Path):
    outcomes = pairs(*many())
    store = OutcomeStore(tmp_path)
    store.put(outcomes[:10])
    store.put(outcomes[5:20])
    (tmp_path / ".tmp-done-0.jsonl-1-2").write_text('{"key": "torn')
    again = OutcomeStore(tmp_path)
    assert not list(tmp_path.glob(".tmp-*"))
    assert list(again.outcomes.values()).sort(key=str) == outcomes[:20].sort(key=str)
    again.put(outcomes)
    assert Counter(outcome.key for outcome in again.read()) == Counter({outcome.key: 1 for outcome in outcomes})
    assert {outcome.key: outcome for outcome in OutcomeStore(tmp_path).read()} == {one.key: one for one in outcomes}


def test_files_of_a_case_are_in_the_store(tmp_path: Path):
    (outcome,) = make_cases(LiteralWriter(), LiteralRenderer(), {"reward": LiteralScorer()}, [task()])
    OutcomeStore(tmp_path).put([outcome])
    ((name, png),) = outcome.files.items()
    assert (tmp_path / name).read_bytes() == png
    (read,) = OutcomeStore(tmp_path).read()
    assert (read.row, read.files) == (outcome.row, {})


def test_a_published_table_reads_as_trl_wants_it(tmp_path: Path):
    tasks = many(8)
    outcomes = pairs(*tasks)
    dataset = tmp_path / "dataset"
    with ImageWriter(dataset, embed=True) as writer:
        data = picture()
        writer.add(inspect(data, max_bytes=10**6, max_pixels=10**6), data=data, uri=None)
    with publish(tmp_path / "pairs", kind="pairs") as draft:
        write_outcomes(draft.path, "pairs", outcomes)
        write_pictures(draft.path, [one.image_hash for one in tasks], ImageTable(dataset))
    table = PreferencePairs.open(tmp_path / "pairs")
    rows = [outcome.row for outcome in outcomes if outcome.row]
    assert len(table) == len(rows) >= 2
    assert dict(table.table.to_pylist()[0]["attributes"]) == {"colour": "red"}
    trl = table.as_trl()
    assert set(trl.column_names) == {"prompt", "chosen", "rejected", "images"}
    first = trl[0]
    assert first["prompt"] == [
        {
            "role": "user",
            "content": [{"type": "image", "text": None}, {"type": "text", "text": rows[0]["prompt"]}],
        }
    ]
    assert first["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": rows[0]["chosen"]}]}]
    assert [image.size for image in first["images"]] == [(16, 16)]
    assert len(table.as_trl([1])) == 1
    quarantined = (tmp_path / "pairs" / "quarantine.jsonl").read_text().splitlines()
    assert len(quarantined) == sum(outcome.quarantined is not None for outcome in outcomes)


def test_a_published_table_of_cases_is_a_reference(tmp_path: Path):
    one = task()
    outcomes = make_cases(LiteralWriter(), LiteralRenderer(), {"reward": LiteralScorer()}, [one])
    with publish(tmp_path / "cases", kind="cases") as draft:
        write_outcomes(draft.path, "cases", outcomes)
        (draft.path / "ads").mkdir()
        for name, png in outcomes[0].files.items():
            (draft.path / name).write_bytes(png)
    reference = ReferenceAds.open(str(tmp_path / "cases"))
    assert reference(one) == next(iter(outcomes[0].files.values()))
    assert reference(task(market="BR")) is None


def test_the_same_ads_are_judged_in_other_markets():
    """A scorer that likes the opposite in Brazil: the same two designs, turned round."""

    class ByMarket(LiteralScorer):
        def score(self, requests, /):
            return [
                [
                    replace(verdict, calibrated_probability=1 - (verdict.calibrated_probability or 0))
                    if verdict.market == "BR"
                    else verdict
                    for verdict in verdicts
                ]
                for verdicts in super().score(requests)
            ]

    rule = PairRule(elsewhere=["BR", "KR", "US"])
    one = task(market="KR")
    (outcome,) = make_pairs(LiteralWriter(), LiteralRenderer(), ByMarket(), [one], rule)
    assert outcome.row is not None
    rows = {row["market"]: row for row in [outcome.row, *outcome.elsewhere]}
    assert list(rows) == ["KR", "BR", "US"]  # the task's own market is asked once
    sides = {market: (row["chosen"], row["rejected"]) for market, row in rows.items()}
    assert sides["US"] == sides["KR"] == sides["BR"][::-1]
    assert [row["key"] for row in rows.values()] == [one.key, f"{one.key}/BR", f"{one.key}/US"]
    assert "for Brazilian market" in rows["BR"]["prompt"]
    counts = counts_of([outcome], 1)
    assert counts["tasks"]["kept"] == 1
    assert counts["elsewhere"] == {"input": 2, "kept": 2, "dropped": 0, "quarantined": 0, "dropped_by_reason": {}}
    unsure = make_pairs(LiteralWriter(), LiteralRenderer(), LiteralScorer(), [task("unsure mug")], rule)[0]
    assert (unsure.dropped, unsure.elsewhere, unsure.dropped_elsewhere) == ("unsure", [], {"unsure": 2})
    assert Outcome(**unsure.as_dict()) == unsure
