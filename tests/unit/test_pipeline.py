"""Stages that overlap, with calls that sleep, fail and die: nothing is lost or doubled, whatever fails and wherever it ends."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from countryreward.client import AsyncClient, NotAllowed, RetryPolicy, Unavailable
from countryreward.client.remote_services import ClientRenderer
from countryreward.data.images import ImageTable
from countryreward.errors import UserError
from countryreward.generation.ad_tasks import AdTasks, ListedTask
from countryreward.generation.cases import make_cases
from countryreward.generation.generation_config import PairRule
from countryreward.generation.outcomes import Outcome, OutcomeStore
from countryreward.generation.preference_pairs import make_pairs
from countryreward.on_ray.make_pairs import Stages, Versions, run_tasks, versions_of
from countryreward.on_ray.pipeline import Pipeline, Stage
from countryreward.on_ray.ray_config import PairLoopConfig
from countryreward.scoring.contracts import Product
from tests.unit.in_threads import ThreadedRenderer, ThreadedScorer, ThreadedWriter
from tests.unit.literal_renderer import LiteralRenderer
from tests.unit.literal_writer import LiteralScorer, LiteralWriter
from tests.unit.pair_services import Wire, services
from tests.unit.test_pairs import picture

Item = int


def outcome(item: Item) -> Outcome:
    return Outcome(key=str(item), row={"item": item})


def given_up(item: Item, error: str) -> Outcome:
    return Outcome(key=str(item), quarantined="failed_again", value=error)


def stage(name: str, seconds: float = 0.0, *, last: bool = False, call: Any = None, **options: Any) -> Stage:
    async def sleep(items: list[Item]) -> list[Any]:
        await asyncio.sleep(seconds * len(items))
        return [outcome(item) for item in items] if last else items

    return Stage(name=name, call=call or sleep, give_up=given_up, **{"batch": 2, "in_flight": 2} | options)


def run(stages: list[Stage], items: int, **options: Any) -> tuple[dict[str, Any], list[Outcome]]:
    taken: list[Outcome] = []
    options = {"take_s": 0.02} | options
    told = asyncio.run(Pipeline(stages, taken.extend, **options).run(iter(range(items))))
    return told, taken


def each_once(taken: list[Outcome], items: int) -> None:
    assert Counter(one.key for one in taken) == Counter(str(item) for item in range(items))


@pytest.mark.parametrize("items", [0, 1, 2, 3, 7, 100])
def test_every_item_comes_out_once(items: int):
    told, taken = run([stage("a"), stage("b", batch=3, in_flight=1), stage("c", last=True)], items)
    each_once(taken, items)
    assert [told["stages"][name]["items"] for name in "abc"] == [items] * 3


def test_an_outcome_leaves_the_line_early():
    async def half(items: list[Item]) -> list[Any]:
        return [outcome(item) if item % 2 else item for item in items]

    told, taken = run([stage("a", call=half), stage("b", last=True)], 10)
    each_once(taken, 10)
    assert told["stages"]["b"]["items"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["a", "b", "c"])
def test_the_slowest_stage_is_always_busy_and_holds_the_others_back(slow: str):
    seconds = {name: 0.02 if name == slow else 0.001 for name in "abc"}
    under_way = most = 0

    def source() -> Iterator[Item]:
        nonlocal under_way, most
        for item in range(60):
            under_way += 1
            most = max(most, under_way)
            yield item

    def take(outcomes: list[Outcome]) -> None:
        nonlocal under_way
        under_way -= len(outcomes)

    stages = [stage(name, seconds[name], last=name == "c", batch=1, in_flight=1) for name in "abc"]
    told = asyncio.run(Pipeline(stages, take, some=4, take_s=0.02).run(source()))
    busy = {name: told["stages"][name]["busy"] for name in "abc"}
    assert busy[slow] == max(busy.values())
    assert busy[slow] > 0.5  # measured without company by benchmarks/pair_making.py
    # lines of 1, calls of 1, one item at the source, and what waits to be put away
    assert most <= 3 * (1 + 1 + 1) + 1 + 4 * 3


@pytest.mark.slow
def test_calls_that_nobody_answers_are_made_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("countryreward.on_ray.retry._FIRST_PAUSE_S", 0.001)
    errors = iter([ConnectionError("cut"), TimeoutError(), RayActorError(), Unavailable("503"), OSError("odd")] * 2)

    async def flaky(items: list[Item]) -> list[Any]:
        if error := next(errors, None):
            raise error
        return items

    told, taken = run([stage("a", call=flaky, in_flight=1), stage("b", last=True)], 6)
    each_once(taken, 6)
    assert [one.quarantined for one in taken] == [None] * 6
    assert told["stages"]["a"]["made_again"] == 10


def test_a_call_that_hangs_is_made_again():
    hangs = [True]

    async def call(items: list[Item]) -> list[Any]:
        if hangs and hangs.pop():
            await asyncio.sleep(60)
        return items

    _, taken = run([stage("a", call=call, timeout_s=0.1), stage("b", last=True)], 6)
    each_once(taken, 6)


@pytest.mark.parametrize("error", [RayActorError(), RuntimeError("the renderer is broken")])
@pytest.mark.parametrize("where", [0, 5, 11])
@pytest.mark.parametrize(("batch", "in_flight"), [(4, 3), (1, 1)])
def test_what_kills_again_and_again_is_given_up_alone(
    error: Exception, where: int, batch: int, in_flight: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("countryreward.on_ray.retry._FIRST_PAUSE_S", 0.005)
    now: set[int] = set()

    async def call(items: list[Item]) -> list[Any]:
        now.update(items)
        try:
            await asyncio.sleep(0.002)
            if (isinstance(error, RayActorError) and where in now) or where in items:
                raise error  # a death takes all calls with it
        finally:
            now.difference_update(items)
        return items

    stages = [stage("a", call=call, batch=batch, in_flight=in_flight), stage("b", last=True)]
    _, taken = run(stages, 12)
    each_once(taken, 12)
    assert [one.key for one in taken if one.quarantined] == [str(where)]


@pytest.mark.parametrize("items", [1, 30])
def test_a_stage_that_fails_on_everything_ends_the_run(items: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("countryreward.on_ray.retry._FIRST_PAUSE_S", 0.002)

    async def call(_: list[Item]) -> list[Any]:
        raise RuntimeError("CUDA error")

    taken: list[Outcome] = []
    stages = [stage("a"), stage("b", call=call, last=True)]
    with pytest.raises(RuntimeError, match="CUDA error"):
        asyncio.run(Pipeline(stages, taken.extend).run(iter(range(items))))
    assert taken == []
    if items == 1:  # unless it has answered in an earlier run
        _, taken = run(stages, 1, proven=True)
        assert [one.quarantined for one in taken] == ["failed_again"]


def test_patience_ends():
    async def call(_: list[Item]) -> list[Any]:
        raise ConnectionError("refused")

    with pytest.raises(UserError, match=r"^b: no answer for 0.3 s; the last: ConnectionError: refused; run the same"):
        run([stage("a"), stage("b", call=call)], 5, retry_s=0.3)


def test_an_error_for_who_started_it_ends_the_run_and_keeps_what_is_done():
    async def call(items: list[Item]) -> list[Any]:
        if 7 in items:
            raise NotAllowed("key: it is revoked")
        return [outcome(item) for item in items]

    taken: list[Outcome] = []
    stages = [stage("a", batch=1, in_flight=1, call=call)]
    with pytest.raises(NotAllowed, match="revoked"):
        asyncio.run(Pipeline(stages, taken.extend, take_s=60).run(iter(range(20))))
    each_once(taken, 7)


def test_a_full_disk_ends_the_run():
    def take(_: list[Outcome]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        asyncio.run(Pipeline([stage("a", last=True)], take, some=2, take_s=0.01).run(iter(range(50))))


def listed(count: int) -> list[ListedTask]:
    kinds = ("Oak", "same", "unsure", "first", "mumbled", "unspeakable", "foreign", "half mumbled")
    return [
        ListedTask(
            product=Product(title=f"{kinds[n % 8]} mug {n}", product_id=str(n)),
            image_hash="gone" if n == 9 else "there",
            market=market,
            seed=0,
        )
        for n in range(count)
        for market in ("KR", "BR")
    ]


class OnePicture(ImageTable):
    def __init__(self) -> None:
        super().__init__(Path("nowhere"))

    def bytes_of(self, content_hash: str) -> bytes:
        if content_hash == "gone":
            raise UserError("image: gone.png cannot be read; put it back")
        return picture()


def local(fast: bool = True) -> Any:
    pause_s = 0.0 if fast else 0.004
    return (
        ThreadedWriter(LiteralWriter(pause_s=pause_s)),
        ThreadedRenderer(LiteralRenderer(px=32)),
        ThreadedScorer(LiteralScorer(pause_s=pause_s), about={"model": "judge-1"}),
    )


async def pairs_in(folder: Path, tasks: AdTasks, asked: Any = None) -> dict[str, Any]:
    writer, renderer, scorer = asked or local()
    versions = await versions_of(writer, renderer, {"reward": scorer})
    config = PairLoopConfig(write_batch=2, render_batch=2, score_batch=2)
    stages = Stages(writer=writer, renderer=renderer, versions=versions, config=config).pairs(scorer, PairRule())
    return await run_tasks(tasks, versions.as_dict(), stages, OutcomeStore(folder))


def local_versions() -> Versions:
    writer, renderer, scorer = local()
    return asyncio.run(versions_of(writer, renderer, {"reward": scorer}))


def expected(tasks: AdTasks) -> dict[str, Outcome]:
    versions = local_versions()
    given = list(tasks.take(versions.as_dict()))
    asked = [task for task in given if not isinstance(task, Outcome)]
    outcomes = make_pairs(LiteralWriter(), LiteralRenderer(px=32), LiteralScorer(), asked, PairRule())
    return {one.key: one for one in [*outcomes, *(task for task in given if isinstance(task, Outcome))]}


def test_the_loop_and_the_function_agree(tmp_path: Path):
    tasks = AdTasks(listed(24), OnePicture())
    counts = asyncio.run(pairs_in(tmp_path, tasks))
    assert OutcomeStore(tmp_path).outcomes == expected(tasks)
    assert counts["tasks"]["input"] == 48
    assert counts["tasks"]["quarantined_by_reason"]["changed_image"] == 2
    assert (counts["found"], counts["made"]) == (0, 48)
    again = asyncio.run(pairs_in(tmp_path, tasks))
    assert (again["found"], again["made"], again["tasks"]) == (48, 0, counts["tasks"])


def test_a_run_that_is_broken_off_anywhere_goes_on(tmp_path: Path):
    tasks = AdTasks(listed(24), OnePicture())

    async def broken_off(calls: int) -> None:
        """When the writer has been called so many times, each with two tasks."""
        asked = local(fast=False)
        running = asyncio.create_task(pairs_in(tmp_path, tasks, asked))
        while len(asked[0].writer.calls) < calls:
            await asyncio.sleep(0.002)
        running.cancel()
        await running

    seen = 0
    for calls in (4, 6, 5):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(broken_off(calls))
        assert len(OutcomeStore(tmp_path).outcomes) >= seen
        seen = len(OutcomeStore(tmp_path).outcomes)
    counts = asyncio.run(pairs_in(tmp_path, tasks))
    assert (counts["found"], counts["made"]) == (seen, 48 - seen)
    assert 0 < seen < 48
    on_disk = list(OutcomeStore(tmp_path).read())
    assert len(on_disk) == 48
    assert {one.key: one for one in on_disk} == expected(tasks)


def test_more_tasks_take_what_is_there(tmp_path: Path):
    asyncio.run(pairs_in(tmp_path, AdTasks(listed(4), OnePicture())))
    counts = asyncio.run(pairs_in(tmp_path, AdTasks(listed(6), OnePicture())))
    assert (counts["found"], counts["made"]) == (8, 4)


def test_cases_go_the_same_way(tmp_path: Path):
    tasks = AdTasks(listed(8), OnePicture())
    writer, renderer, scorer = local()
    judges = {"reward": scorer, "held_out": ThreadedScorer(LiteralScorer(model="other"))}

    async def cases() -> None:
        versions = await versions_of(writer, renderer, judges)
        stages = Stages(writer=writer, renderer=renderer, versions=versions).cases(judges, lambda _: picture(9))
        await run_tasks(tasks, "made by", stages, OutcomeStore(tmp_path))

    asyncio.run(cases())
    given = [task for task in tasks.take("made by") if not isinstance(task, Outcome)]
    plain = {"reward": LiteralScorer(), "held_out": LiteralScorer()}
    wanted = make_cases(LiteralWriter(), LiteralRenderer(px=32), plain, given, lambda _: picture(9))
    found = OutcomeStore(tmp_path).outcomes
    assert [found[one.key].row for one in wanted] == [one.row for one in wanted]
    assert all((tmp_path / name).read_bytes() == png for one in wanted for name, png in one.files.items())


@pytest.mark.slow
def test_time_spent_waiting_for_another_try_is_not_busy():
    tries = iter(range(3))

    async def call(items: list[Item]) -> list[Any]:
        if next(tries, None) is not None:
            raise ConnectionError
        return [outcome(item) for item in items]

    began = time.monotonic()
    told, _ = run([stage("a", call=call)], 1)
    assert time.monotonic() - began > 0.3
    assert told["stages"]["a"]["busy"] < 0.5


@pytest.mark.slow
def test_services_over_http_give_the_same_while_the_wire_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("countryreward.on_ray.retry._FIRST_PAUSE_S", 0.02)
    tasks, made_by = AdTasks(listed(16), OnePicture()), local_versions().as_dict()
    quick = RetryPolicy(at_most=1, first_s=0.02, deadline_s=5)
    with (
        services(tmp_path, pause_s=0.002) as there,
        Wire(there.reward).running() as a,
        Wire(there.generator).running() as b,
    ):

        async def run_all() -> dict[str, Any]:
            options = {"retries": quick, "parallel": 16, "timeout_s": 2.0}
            async with (
                AsyncClient(a.url, there.key, **options) as judge,
                AsyncClient(b.url, there.key, **options) as maker,
            ):
                writer, renderer, scorer = local()[0], ClientRenderer(maker, poll_s=0.02), judge
                versions = await versions_of(writer, renderer, {"reward": scorer})
                assert versions.as_dict() == {
                    "writer": "literal-1",
                    "renderer": "literal 1",
                    "px": 32,
                    "judges": {"reward": {"model": "judge-1", "knowledge_base": "kb-1"}},
                }
                config = PairLoopConfig(write_batch=2, render_batch=2, score_batch=2)
                stages = Stages(writer=writer, renderer=renderer, versions=versions, config=config)
                cutting = asyncio.create_task(cut_twice())
                counts = await run_tasks(
                    tasks, made_by, stages.pairs(scorer, PairRule()), OutcomeStore(tmp_path / "store")
                )
                cutting.cancel()
                return counts

        async def cut_twice() -> None:
            for wire in (b, a):
                await asyncio.sleep(0.4)
                wire.cut()
                await asyncio.sleep(0.5)
                wire.mend()

        counts = asyncio.run(run_all())
        left = list((tmp_path / "state" / "jobs").glob("*/g-*/images/*.png"))
    found, wanted = OutcomeStore(tmp_path / "store").outcomes, expected(tasks)
    assert {key: replace(one, value="") for key, one in found.items()} == {
        key: replace(one, value="") for key, one in wanted.items()
    }  # but for the service's words about what it refuses
    assert counts["made"] == 32
    assert len(left) <= 2  # jobs are removed when their ad is here; a cut may leave one


def test_a_key_that_is_not_known_ends_the_run(tmp_path: Path):
    versions = local_versions()
    with services(tmp_path) as there:

        async def ask() -> None:
            async with AsyncClient(there.urls[0], f"cr_{'0' * 8}_{'x' * 43}") as judge:
                stages = Stages(writer=local()[0], renderer=local()[1], versions=versions)
                tasks = AdTasks(listed(2), OnePicture())
                await run_tasks(tasks, None, stages.pairs(judge, PairRule()), OutcomeStore(tmp_path / "store"))

        with pytest.raises(NotAllowed):
            asyncio.run(ask())


@pytest.mark.slow
def test_the_benchmark_runs():
    command = [sys.executable, "benchmarks/pair_making.py", "--quick=true"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root / "platform")}
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert set(json.loads(ended.stdout)["slowest stage"]) == {"write", "render", "score"}
