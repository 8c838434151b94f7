"""A real trained model answering asynchronously, without Ray: the same verdicts as in-process, one encode per image, tenants
apart, and newer versions taken in while it answers."""

import asyncio
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from countryreward import CountryReward, Product, UserError
from countryreward.data.artifacts import MANIFEST, publish
from countryreward.scoring.contracts import RequestImageError, ScoreRequest, Verdict
from countryreward.serving.inference.engine import InferenceEngine
from countryreward.serving.inference.hot_reload import HotReloadedModel, Published
from countryreward.serving.inference.load_engine import load_reward
from countryreward.serving.metrics_observer import MetricsObserver
from countryreward.serving.service_config import ServiceConfig
from tests.cluster.demo_run import MARKETS, Run

MUG = Product(title="Blue coffee mug 350 ml", category="Tableware", attributes={"colour": "blue"}, tags=["gift"])


def load(published: Published) -> InferenceEngine:
    state = published.model.parent / "state"
    return load_reward(published, config=ServiceConfig(state=str(state)), device="cpu", watching=MetricsObserver())


@pytest.fixture(scope="module")
def ads(demo: Run) -> list[bytes]:
    return [(demo.folder / "export" / "images" / f"p00003-c{c}.jpg").read_bytes() for c in (1, 2, 3)]


@pytest.fixture(scope="module")
def local(demo: Run) -> CountryReward:
    return CountryReward.from_pretrained(demo.model)


@pytest.fixture
def fresh(demo: Run, local: CountryReward) -> Callable[..., InferenceEngine]:
    return lambda **options: InferenceEngine(local, ServiceConfig(**options))


def ask(images: list[bytes], **changes) -> ScoreRequest:
    return ScoreRequest.of_images(MUG, images, **{"markets": tuple(MARKETS), "tenant": "a", "evidence": 5} | changes)


def close_to(found: list[Verdict], wanted: list[Verdict]) -> None:
    assert [(v.market, v.choice, v.past_ads, v.note) for v in found] == [
        (v.market, v.choice, v.past_ads, v.note) for v in wanted
    ]
    assert [v.log_odds for v in found] == pytest.approx([v.log_odds for v in wanted], abs=1e-4)


def test_verdicts_are_those_of_the_model_asked_in_process(fresh, local: CountryReward, ads: list[bytes]):
    async def main() -> None:
        model = fresh()
        wanted = local.score(MUG, ads[0], ads[1], markets=MARKETS)
        found = await model.score(ask(ads[:2]))
        close_to(found, wanted)
        assert [v.evidence for v in found] == [v.evidence[:5] for v in wanted]
        assert (await model.score(ask(ads[:2], evidence=0)))[0].evidence == ()
        pairs = ((0, 1), (0, 2), (1, 2))
        ranked = await model.score(ask(ads, pairs=pairs))
        for number, market in enumerate(MARKETS):
            rows = ranked[3 * number : 3 * number + 3]
            close_to(rows, [v for _, _, v in local.rank(MUG, ads, [market])[0].verdicts])

    asyncio.run(main())


def test_an_image_is_encoded_once_whatever_is_asked_and_by_whom_of_a_tenant(fresh, ads: list[bytes]):
    async def main() -> None:
        model = fresh()
        await asyncio.gather(*(model.score(ask(ads[:2], markets=(market,))) for market in MARKETS))
        assert model.encodes == 2
        await model.score(ask(ads, pairs=((0, 1), (0, 2), (1, 2))))
        assert model.encodes == 3
        await model.score(ask(ads[:2], tenant="b"))  # another tenant's images are not this one's
        assert model.encodes == 5
        assert len(model.cache) == 5
        without = fresh(cache_mib=0)
        await without.score(ask(ads[:2]))
        await without.score(ask(ads[:2]))
        assert (without.encodes, len(without.cache)) == (4, 0)

    asyncio.run(main())


def test_many_requests_share_passes(fresh, ads: list[bytes]):
    async def main() -> None:
        model = fresh()
        asks = [ask([ads[n % 3], ads[(n + 1) % 3]], markets=(MARKETS[n % 4],), tenant=f"t{n % 5}") for n in range(40)]
        together = await asyncio.gather(*map(model.score, asks))
        assert model.batcher.batches < 20
        alone = [await model.score(one) for one in asks]
        for one, other in zip(together, alone, strict=True):
            close_to(one, other)

    asyncio.run(main())


def test_what_cannot_be_used_is_named_and_harms_nobody_else(fresh, ads: list[bytes]):
    sheet = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(sheet, "PNG")

    async def main() -> None:
        model = fresh(max_pixels=1_000_000)
        bad = [ask([ads[0], b"no image"]), ask([sheet.getvalue(), ads[1]]), ask([ads[0], ads[1][:300]])]
        good = [ask(ads[:2]) for _ in range(3)]
        *refused, first, _, _ = await asyncio.gather(*map(model.score, [*bad, *good]), return_exceptions=True)
        assert [(one.position, one.reason) for one in refused if isinstance(one, RequestImageError)] == [
            (1, "undecodable_image"),
            (0, "pixel_bomb"),
            (1, "undecodable_image"),
        ]
        assert isinstance(first, list)
        assert first[0].choice in ("A", "B")
        same = await model.score(ask([ads[0], ads[0]], markets=("KR",)))
        assert (same[0].choice, same[0].note) == (None, "no answer: the two images are the same file")
        elsewhere = await model.score(ask(ads[:2], markets=("IS",)))
        assert elsewhere[0].choice is None
        assert "not trained on Iceland" in str(elsewhere[0].note)

    asyncio.run(main())


def test_a_caller_who_leaves_costs_nothing_more(fresh, ads: list[bytes]):
    async def main() -> None:
        model = fresh()
        task = asyncio.create_task(model.score(ask(ads[:2])))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await model.score(ask(ads[:2]))
        await asyncio.wait_for(model.close(), 5)

    asyncio.run(main())


def test_too_long_a_line_is_busy(fresh, ads: list[bytes]):
    async def main() -> None:
        model = fresh(max_wait_s=0.001, batch_tokens=1)
        await model.score(ask(ads[:2]))
        assert model.busy() is None
        tasks = [asyncio.create_task(model.score(ask(ads[:2], tenant=f"t{n}"))) for n in range(10)]
        while model.busy() is None and not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
        assert (model.busy() or 0) > 0.001
        await asyncio.gather(*tasks)
        assert model.busy() is None

    asyncio.run(main())


@pytest.fixture
def link(demo: Run, tmp_path: Path) -> Path:
    """A model folder published here, as training does it."""
    return republish(demo, tmp_path / "model")


def republish(demo: Run, place: Path, change: Callable[[Path], object] = lambda _: None) -> Path:
    """Publish the demo's model once more. change: is applied to the draft."""
    counts = json.loads((demo.model / MANIFEST).read_text())["counts"]
    with publish(place, kind="model", inputs={}, config={}) as draft:
        shutil.copytree(
            demo.model, draft.path, dirs_exist_ok=True, ignore=lambda folder, names: ignored(demo.model, folder, names)
        )
        draft.counts |= counts
        change(draft.path)
    return place


def ignored(top: Path, folder: Any, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith("manifest.")} if Path(folder) == top else set()


def test_a_newer_version_is_taken_in_while_requests_are_answered(demo: Run, link: Path, ads: list[bytes]):
    async def main() -> None:
        followed = HotReloadedModel(str(link), "", load, ServiceConfig())
        before = (await followed.about())["model"]
        answers: list[str | None] = []

        async def caller() -> None:
            while (await followed.about())["model"] == before or len(answers) < 20:
                answers.extend(v.model_version for v in await followed.score(ask(ads[:2])))

        callers = [asyncio.create_task(caller()) for _ in range(3)]
        assert not await followed.look()  # nothing new
        await asyncio.to_thread(republish, demo, link, lambda p: (p / "README.md").write_text("newer"))
        assert await followed.look()
        await asyncio.gather(*callers)
        assert (await followed.about())["model"] != before
        assert {*answers} <= {before, (await followed.about())["model"]}
        assert answers[0] == before
        assert (await followed.score(ask(ads[:2])))[0].model_version == (await followed.about())["model"]

    asyncio.run(main())


def torn(folder: Path) -> None:
    weights = next(folder.glob("model*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])


def without_a_market(folder: Path) -> None:
    (folder / "knowledge_base" / "entries.parquet").unlink()


@pytest.mark.parametrize("breaks", [torn, without_a_market])
def test_a_broken_version_is_refused_and_the_old_one_goes_on(demo: Run, link: Path, ads: list[bytes], breaks):
    async def main() -> None:
        followed = HotReloadedModel(str(link), "", load, ServiceConfig())
        before = (await followed.about())["model"]
        await asyncio.to_thread(republish, demo, link, breaks)
        assert not await followed.look()
        about = await followed.about()
        assert about["model"] == before
        assert [one["version"] for one in about["refused"]] == [link.resolve().name]
        assert str(link.parent) not in json.dumps(about)  # a caller learns no path
        assert (await followed.score(ask(ads[:2])))[0].model_version == before
        assert not await followed.look()  # a refused version is not tried again
        assert len((await followed.about())["refused"]) == 1
        await asyncio.to_thread(republish, demo, link)
        assert await followed.look()

    asyncio.run(main())


def test_a_service_does_not_start_with_a_damaged_model(demo: Run, tmp_path: Path):
    place = republish(demo, tmp_path / "model")
    weights = next(place.glob("model*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=weights.name):
        load(Published.at(str(place), ""))
