"""Generation jobs whose designs a writer writes for their markets. Beside test_generator_jobs.py; no trained model."""

import asyncio
import json
import runpy
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from countryreward.data.artifacts import publish
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import DesignRequest, Refusal, RenderedFile, RenderJob
from countryreward.generation.model_writer import ABOUT, KIND, ModelWriter, open_writer
from countryreward.generation.templates import draw_designs
from countryreward.models.reward_config import SamplingConfig
from countryreward.scoring.contracts import Product
from countryreward.serving.durable_jobs.generation import generation_results as results
from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs
from countryreward.serving.durable_jobs.generation.generation_store import Asked, Versions
from countryreward.serving.durable_jobs.job_folders import MAX_STARTS
from countryreward.serving.http.prometheus_metrics import Prometheus
from tests.unit.literal_designs import LiteralWriter, written_design
from tests.unit.literal_renderer import STUDIO, LiteralRenderer
from tests.unit.micro_writer import PX, micro_writer
from tests.unit.test_generator_jobs import BestFirst, Service, config, picture, replica, service

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything

FIELDS = ("foreground", "background", "color_tone", "lighting")


def backgrounds(job: dict[str, Any]) -> list[str]:
    return [one["design"]["background"] for one in job["images"]]


def of_templates(count: int, seed: int = 0) -> list[str]:
    return [design.background for design in draw_designs(count, seed)]


def test_designs_are_written_for_the_markets_in_turn(tmp_path: Path) -> None:
    writer = LiteralWriter()
    with service(tmp_path, writer=writer, scorer=BestFirst()) as running:
        job = running.finish(design=[], markets=["KR", "BR"], count=3, seed=7, category="Kitchen")
        assert (job["state"], job["total"], job["note"]) == ("done", 3, None)
        assert [(one["n"], one["seed"], one["market"], one["writer"]) for one in job["images"]] == [
            (0, 7, "KR", "w1"),
            (1, 8, "BR", "w1"),
            (2, 9, "KR", "w1"),
        ]
        assert backgrounds(job) == ["A street in KR, 7.", "A street in BR, 8.", "A street in KR, 9."]
        assert [(one["market"], len(one["images"])) for one in job["rankings"]] == [("KR", 3), ("BR", 3)]
        assert writer.asked == [[("KR", 7), ("BR", 8), ("KR", 9)]]
        folder, stored = running.store.find("acme", job["id"])
        assert stored.writer == "w1"
        told = running.call("GET", "/designs?count=3&seed=7").json()["designs"]
        assert [one["background"] for one in told] == of_templates(3, 7)
    # a job is told as done before what it needs no longer is removed, so look when the runner has stopped
    assert sorted(path.name for path in folder.iterdir()) == ["images", "job.json", "lease", "rankings.json"]


def test_what_is_sent_or_has_no_market_is_not_written(tmp_path: Path) -> None:
    with service(tmp_path, writer=(writer := LiteralWriter()), scorer=BestFirst()) as running:
        for fields, wanted in (
            ({"markets": ["KR"]}, ["A beach.", "A beach."]),
            ({"design": [], "count": 2, "seed": 3}, of_templates(2, 3)),
        ):
            job = running.finish(**fields)
            assert (backgrounds(job), job["note"]) == (wanted, None)
            assert {(one["market"], one["writer"]) for one in job["images"]} == {(None, None)}
    assert writer.asked == []


def test_without_a_writer_designs_are_of_the_templates(tmp_path: Path) -> None:
    with service(tmp_path, scorer=BestFirst()) as running:
        job = running.finish(design=[], markets=["KR"], count=2)
        assert (backgrounds(job), job["note"]) == (of_templates(2), None)
        assert {(one["market"], one["writer"]) for one in job["images"]} == {(None, None)}


def test_the_same_request_to_another_writer_is_another_job(tmp_path: Path) -> None:
    def send(running: Service, **more: Any) -> str:
        time.sleep(0.1)  # the replica has told its versions
        return running.finish(design=[], count=2, **more)["id"]

    with service(tmp_path, scorer=BestFirst()) as running:
        before = send(running, markets=["KR"])
        sent = running.finish(markets=["KR"])["id"]
    with service(tmp_path, writer=LiteralWriter(), scorer=BestFirst()) as running:
        first, unranked = send(running, markets=["KR"]), send(running)
        assert send(running, markets=["KR"]) == first != before
        assert running.finish(markets=["KR"])["id"] == sent  # its designs are its own
        refused = send(running, markets=["KR"], title="Brazilian mug")
        assert send(running, markets=["KR"], title="Brazilian mug") == refused
    with service(tmp_path, writer=LiteralWriter(version="w2"), scorer=BestFirst()) as running:
        assert send(running, markets=["KR"]) not in (first, before)
        assert send(running) == unranked
        assert running.finish(markets=["KR"])["id"] == sent


def test_what_cannot_be_used_is_asked_for_again_and_then_a_template_takes_its_place(tmp_path: Path) -> None:
    once = LiteralWriter(unreadable=frozenset({1}))
    with service(tmp_path, writer=once, scorer=BestFirst(), watching=(watching := Prometheus())) as running:
        job = running.finish(design=[], markets=["KR"], count=2)
        assert (job["note"], backgrounds(job)) == (None, ["A street in KR, 0.", "A street in KR, 1000004."])
        assert once.asked == [[("KR", 0), ("KR", 1)], [("KR", 1_000_004)]]
        text = watching.text().decode()
        assert 'countryreward_designs_written_total{accepted="yes"} 2.0' in text
        assert 'countryreward_designs_written_total{accepted="no"} 1.0' in text
    never = LiteralWriter(unreadable=frozenset({1, 1_000_004, 2_000_007}))
    with service(tmp_path, writer=never, scorer=BestFirst()) as running:
        job = running.finish(design=[], markets=["KR"], count=3)
        assert job["note"] == "1 of 3 designs from the templates: what the writer wrote could not be used"
        assert backgrounds(job) == ["A street in KR, 0.", of_templates(3)[1], "A street in KR, 2."]
        assert [(one["market"], one["writer"]) for one in job["images"]] == [("KR", "w1"), (None, None), ("KR", "w1")]
        assert [len(one) for one in never.asked] == [3, 1, 1]
        assert (
            running.finish(design=[], markets=["KR"], count=3)["id"] == job["id"]
        )  # asked again, it would be the same


def test_a_title_that_names_another_market_gets_templates_there(tmp_path: Path) -> None:
    with service(tmp_path, writer=LiteralWriter(), scorer=BestFirst()) as running:
        job = running.finish(design=[], markets=["KR", "BR"], count=4, title="Brazilian mug")
        assert [one["market"] for one in job["images"]] == [None, "BR", None, "BR"]
        assert job["note"] == "2 of 4 designs from the templates: title: it names another market; leave that out"
        assert len(job["rankings"]) == 2


def test_notes_on_designs_and_on_rankings_stand_beside_each_other(tmp_path: Path) -> None:
    with service(tmp_path, writer=LiteralWriter(unreadable=frozenset({-1}))) as running:
        job = running.finish(design=[], markets=["KR"], count=1)
        assert job["note"] == (
            "1 of 1 designs from the templates: what the writer wrote could not be used;"
            " there is no reward model here, so nothing was ranked"
        )


def test_a_writer_that_fails_again_and_again_is_let_be(tmp_path: Path) -> None:
    with service(tmp_path, writer=(writer := LiteralWriter()), scorer=BestFirst()) as running:
        job = running.finish(design=[], markets=["KR"], count=2, title="A broken mug")
        assert (job["state"], backgrounds(job)) == ("done", of_templates(2))
        assert job["note"] == "2 of 2 designs from the templates: the writer failed again and again"
        assert len(writer.asked) == MAX_STARTS - 1
        again = running.finish(design=[], markets=["KR"], count=2, title="A broken mug")
        assert again["id"] != job["id"]  # the writer may be well by now


def test_a_refused_design_tells_who_wrote_it(tmp_path: Path) -> None:
    class Picky(LiteralRenderer):
        def check(self, job: RenderJob) -> None:
            if "BR" in job.design.background:
                raise UserError("design: not this one")

    with service(tmp_path, Picky(), writer=LiteralWriter(), scorer=BestFirst()) as running:
        (refused,) = running.finish(design=[], markets=["KR", "BR"], count=2)["refused"]
        assert (refused["n"], refused["market"], refused["writer"]) == (1, "BR", "w1")


WRITING = """
import asyncio, sys
from pathlib import Path
from tests.unit.literal_designs import LiteralWriter
from tests.unit.literal_renderer import LiteralRenderer
from tests.unit.micro_writer import PX, micro_writer
from tests.unit.test_generator_jobs import BestFirst, GenerationJobs, config

async def main():
    folder = Path(sys.argv[1])
    renderer, writer = LiteralRenderer(pause_s=0.1), LiteralWriter(log=folder / "written.log", pause_s=0.1)
    await GenerationJobs(renderer, config(folder), writer=writer, scorer=BestFirst()).start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_killed_after_writing_the_rest_is_rendered_as_it_was_written(tmp_path: Path) -> None:
    fields = {"design": [], "markets": ["KR", "BR"], "count": 12}
    with service(tmp_path, running=False) as running:
        job_id = running.send(**fields).json()["job"]["id"]
        folder, _ = running.store.find("acme", job_id)
    process = replica(tmp_path, WRITING)
    try:
        deadline = time.monotonic() + 120
        while len(results.finished(folder)) < 2:
            assert process.poll() is None, "the replica ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    plan = results.read_plan(folder)
    assert plan is not None
    assert [one.market for one in plan.designs] == ["KR", "BR"] * 6
    newer = LiteralWriter(version="w2")
    with service(tmp_path, writer=newer, scorer=BestFirst()) as running:
        job = running.wait(job_id)
        assert [one["design"] for one in job["images"]] == [one.design.model_dump() for one in plan.designs]
        assert {one["writer"] for one in job["images"]} == {"w1"}  # who goes on with it renders what is there
        assert newer.asked == []
        assert running.finish(**fields)["id"] != job_id
    assert len((tmp_path / "written.log").read_text().splitlines()) == 12


def test_a_writer_that_kills_its_replica_again_and_again_is_let_be(tmp_path: Path) -> None:
    with service(tmp_path, running=False) as running:
        sent = running.send(design=[], markets=["KR"], count=2, title="A deadly mug")
        job_id = sent.json()["job"]["id"]
        folder, job = running.store.find("acme", job_id)
        job.starts = MAX_STARTS - 2
        running.store.save(folder, job)
    process = replica(tmp_path, WRITING)
    assert process.wait(timeout=120) == -signal.SIGKILL
    with service(tmp_path, writer=(writer := LiteralWriter()), scorer=BestFirst()) as running:
        job = running.wait(job_id)
        assert (job["state"], backgrounds(job), writer.asked) == ("done", of_templates(2), [])
        assert "the writer failed again and again" in job["note"]


def test_a_job_of_before_there_were_writers_goes_on(tmp_path: Path) -> None:
    with service(tmp_path, running=False) as running:
        job_id = running.send(design=[], markets=["KR"], count=2).json()["job"]["id"]
        folder, _ = running.store.find("acme", job_id)
        for name, new in (("asked.json", {"write"}), ("job.json", {"writer", "designs_note"})):
            told = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({key: value for key, value in told.items() if key not in new}))
        (running.store.root.parent / "generator.json").write_text('{"renderer": "x 1", "judge": null}')
        assert running.store.versions() == Versions(renderer="x 1")
        assert Asked.model_validate_json((folder / "asked.json").read_bytes()).write is False
    with service(tmp_path, writer=LiteralWriter(), scorer=BestFirst()) as running:
        assert backgrounds(running.wait(job_id)) == of_templates(2)


def test_files_for_others_are_made_between_the_passes_of_a_job(tmp_path: Path) -> None:
    """Renderer and writer are never at work in two threads."""
    together = [0, 0]

    class Alone(LiteralRenderer):
        def render(self, jobs: Any) -> Any:
            together[0] += 1
            together[1] = max(together)
            try:
                return super().render(jobs)
            finally:
                together[0] -= 1

    class AloneToo(LiteralWriter):
        def write(self, requests: Any, /) -> Any:
            together[0] += 1
            together[1] = max(together)
            try:
                return super().write(requests)
            finally:
                together[0] -= 1

    def job(seed: int, word: str = "Bare") -> RenderJob:
        design = (
            written_design("KR", seed)
            if word == "Bare"
            else STUDIO.__class__(**{**STUDIO.__dict__, "foreground": word})
        )
        return RenderJob(
            design=design,
            product=Product(title="Oak mug"),
            image=np.zeros((40, 40, 3), np.uint8),
            image_hash="0" * 64,
            seed=seed,
        )

    with service(tmp_path, running=False) as running:
        for n in range(3):
            running.send(design=[], markets=["KR"], count=4, title=f"Mug {n}")

    async def both() -> list[list[RenderedFile | Refusal]]:
        renderer, writer = Alone(pause_s=0.02), AloneToo(pause_s=0.02)
        jobs = GenerationJobs(renderer, config(tmp_path), writer=writer)
        await jobs.start()
        asked = [[job(10 * n), job(10 * n + 1, "A forbidden thing"), job(10 * n + 2)] for n in range(6)]
        made = await asyncio.gather(*map(jobs.render_files, asked))
        while jobs.store.open_jobs():
            await asyncio.sleep(0.02)
        await jobs.stop()
        return made

    made = asyncio.run(both())
    assert together == [0, 1]
    for first, refused, last in made:
        assert isinstance(first, RenderedFile)
        assert isinstance(last, RenderedFile)
        assert first.png.startswith(b"\x89PNG")
        assert refused == Refusal(reason="design: this renderer cannot do it; write another")
    assert made[0][0] != made[1][0]


def test_the_product_and_its_picture_reach_the_writer(tmp_path: Path) -> None:
    class Curious(LiteralWriter):
        def write(self, requests: Any, /) -> Any:
            seen.extend(requests)
            return super().write(requests)

    seen: list[DesignRequest] = []
    with service(tmp_path, writer=Curious(), scorer=BestFirst()) as running:
        running.finish(design=[], markets=["KR"], count=1, category="Kitchen", image=picture(99))
    (request,) = seen
    assert (request.product.title, request.product.category, request.market) == ("Oak mug", "Kitchen", "KR")
    assert (request.image.shape, request.image.dtype, int(request.image.mean())) == ((40, 40, 3), np.uint8, 99)
    assert len(request.image_hash) == 64


def test_a_published_writer_that_knows_nothing_yet(tmp_path: Path) -> None:
    """The real one, with random weights: its answers are no designs, its refusals of a title are told."""
    with publish(tmp_path / "designer", kind=KIND) as draft:
        micro_writer().save(draft.path)
        (draft.path / ABOUT).write_text(json.dumps({"image_px": PX}))
    writer = ModelWriter.open(tmp_path / "designer", sampling=SamplingConfig(max_new_tokens=8))
    with service(tmp_path, writer=writer, scorer=BestFirst()) as running:
        job = running.finish(design=[], markets=["KR"], count=2)
        assert job["note"] == "2 of 2 designs from the templates: what the writer wrote could not be used"
        job = running.finish(design=[], markets=["KR", "BR"], count=2, title="A cup for the Brazilian market")
        assert job["note"].startswith("1 of 2 designs from the templates: title: ")
        assert "names the market BR, but market is KR" in job["note"]
        assert [one["market"] for one in job["images"]] == [None, None]
        assert running.store.find("acme", job["id"])[1].writer == writer.version
    (tmp_path / "designer" / ABOUT).write_text("{}")
    with pytest.raises(UserError, match="does not match its SHA-256"):
        open_writer(tmp_path / "designer")


def test_make_serve_takes_the_writer_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "serve.py"))
    folder, make = job["writer_folder"], job["Config"]
    model = str(tmp_path / "demo" / "model")
    monkeypatch.chdir(tmp_path)
    assert folder(make(model=model)) == ""
    (tmp_path / "demo" / "designer").mkdir(parents=True)
    assert folder(make(model=model)) == str(tmp_path / "demo" / "designer")
    assert folder(make(model=model, writer="")) == ""
    assert folder(make(model=model, writer="mine")) == str(tmp_path / "mine")
