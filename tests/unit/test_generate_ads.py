"""Ads on request: a literal writer, the drawer, a reward that likes bright pictures; order, seeds, refusals, files."""

import importlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from countryreward.data import tables
from countryreward.data.artifacts import open_artifact, publish
from countryreward.data.decoding import inspect
from countryreward.data.design import Design
from countryreward.data.images import ImageWriter
from countryreward.errors import UserError
from countryreward.generation import model_writer as writing
from countryreward.generation.ad_contracts import DesignRequest, Written
from countryreward.generation.ads import AdvertisedProduct, make_ads, write_ads
from countryreward.generation.templates import TEMPLATES
from countryreward.scoring.contracts import Product, ScoreRequest, Verdict
from countryreward.scoring.country_reward import CountryReward
from tests.unit.literal_renderer import LiteralRenderer


def picture(shade: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


MUG = AdvertisedProduct.of(Product(title="Red mug", category="Kitchen"), picture())


@dataclass
class LiteralWriter:
    """Template number seed + shift of the market; what `says` has for a seed comes instead."""

    version: str = "literal-1"
    says: dict[int, Written] = field(default_factory=dict)
    of: int = 24
    asked: list[tuple[str, int]] = field(default_factory=list)

    def write(self, requests: Sequence[DesignRequest], /) -> list[Written]:
        self.asked += [(request.market, request.seed) for request in requests]
        return [self.says.get(request.seed, self._template(request)) for request in requests]

    def _template(self, request: DesignRequest) -> Written:
        design = TEMPLATES[(request.seed + len(request.market)) % self.of].design
        return Written(text=design.as_text(), design=design)


class BrightnessScorer:
    """Probability that A wins: logistic in how much brighter it is."""

    def score(self, requests: Sequence[ScoreRequest], /) -> list[list[Verdict]]:
        return [self._verdicts(request) for request in requests]

    def _verdicts(self, request: ScoreRequest) -> list[Verdict]:
        light = [float(np.asarray(Image.open(io.BytesIO(one.image)).convert("L")).mean()) for one in request.creatives]
        return [self._verdict(market, light[a] - light[b]) for market, a, b in request.questions()]

    def _verdict(self, market: str, gap: float) -> Verdict:
        p = 1 / (1 + np.exp(-gap / 20))
        return Verdict(
            market=market, probability=0.5, calibrated_probability=float(p), choice=None, log_odds=0.0, evidence=(), past_ads=0,
            model_version="m", knowledge_base_version="k", note="this market was not trained" if market == "NZ" else None,
        )  # fmt: skip


def ads(
    markets: Sequence[str] = ("KR",), n: int = 3, writer: Any = None, asked: AdvertisedProduct = MUG, seed: int = 0
) -> list:
    return make_ads(
        asked,
        markets,
        n,
        writer=writer or LiteralWriter(),
        renderer=LiteralRenderer(),
        scorer=BrightnessScorer(),
        seed=seed,
    )


def test_ads_come_best_first_with_the_original_among_them():
    (found,) = ads(n=4)
    assert found.market == "KR"
    assert [ad.rank for ad in found.ads] == [1, 2, 3, 4]
    light = [np.asarray(Image.open(io.BytesIO(ad.file.png)).convert("L")).mean() for ad in found.ads]
    assert light == sorted(light, reverse=True)
    assert [ad.win_share for ad in found.ads] == sorted((ad.win_share for ad in found.ads), reverse=True)
    assert found.original_rank == 1 + sum(value > 128 for value in light)
    for ad, value in zip(found.ads, light, strict=True):
        assert ad.beats_original == pytest.approx(1 / (1 + np.exp(-(value - 128) / 20)))
    assert found.ads[0].name == "KR-01.png"
    assert "KR-01.png  beats the original" in found.ads[0].as_line()


def test_one_ad_is_ranked_against_the_original_alone():
    ((ad,),) = [each.ads for each in ads(n=1)]
    assert ad.win_share == pytest.approx(ad.beats_original)


def test_the_same_request_gives_the_same_ads():
    first, second, other = ads(seed=3), ads(seed=3), ads(seed=4)
    assert [ad.file.sha256 for ad in first[0].ads] == [ad.file.sha256 for ad in second[0].ads]
    assert {ad.candidate.seed for ad in first[0].ads} == {3, 4, 5}
    assert {ad.file.made["seed"] for ad in first[0].ads} == {3}  # rendered alike, so that designs alone differ
    assert {ad.candidate.seed for ad in other[0].ads} == {4, 5, 6}


def test_markets_are_named_as_people_do_and_asked_once():
    writer = LiteralWriter()
    found = ads(["South Korea", "br", "KR"], n=2, writer=writer)
    assert [each.market for each in found] == ["KR", "BR"]
    assert writer.asked == [("KR", 0), ("KR", 1), ("BR", 0), ("BR", 1)]


def test_refused_and_repeated_designs_are_asked_for_again():
    template = TEMPLATES[5].design
    odd = Design(foreground="late refusal", background="A", color_tone="B", lighting="C")
    bad = Design(foreground="forbidden", background="A", color_tone="B", lighting="C")
    says = {
        0: Written(text="nonsense", design=None, reason="there is no label"),
        1: Written(text="x", design=template, repaired=True, reason="closed"),
        2: Written(text="x", design=template),  # the same again
        3: Written(text="x", design=odd),
        4: Written(text="x", design=bad),
    }
    (found,) = ads(n=3, writer=LiteralWriter(says=says))
    assert sorted(ad.candidate.seed for ad in found.ads) == [1, 5, 6]
    assert found.asked == 7
    assert len(found.refused) == 3
    assert found.refused[0] == "there is no label"
    assert [ad.candidate.repaired for ad in found.ads if ad.candidate.seed == 1] == [True]


def test_a_writer_with_little_to_say_gives_fewer():
    (found,) = ads(n=5, writer=LiteralWriter(of=2))
    assert (len(found.ads), found.asked, found.refused) == (2, 15, ())


def test_the_rewards_note_is_kept():
    assert ads(["NZ"])[0].note == "this market was not trained"
    assert ads(["KR"])[0].note is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: 0 ads; write 1 to 24"),
        ({"n": 25}, "n: 25"),
        ({"markets": []}, "market: none is given"),
        ({"markets": ["Atlantis"]}, "'Atlantis' is no country"),
        (
            {"writer": LiteralWriter(says={s: Written(text="", design=None, reason="empty") for s in range(9)})},
            "the last: empty",
        ),
    ],
)
def test_wrong_requests_are_named(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        ads(**options)


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="image:"):
        AdvertisedProduct.of(Product(title="x"), b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        AdvertisedProduct.described("x", "", {}, str(tmp_path / "absent.png"))


def test_files_tell_how_to_make_them_again(tmp_path: Path):
    made = ads(["KR", "BR"], n=2)
    write_ads(tmp_path, MUG, made, {"writer": "w", "model": "m"})
    told = json.loads((tmp_path / "ads.json").read_text(encoding="utf-8"))
    assert (told["product"]["title"], told["image_hash"], told["writer"]) == ("Red mug", MUG.image_hash, "w")
    assert [each["market"] for each in told["markets"]] == ["KR", "BR"]
    first = told["markets"][0]["ads"][0]
    assert (first["file"], first["rank"]) == ("ads/KR-01.png", 1)
    assert (tmp_path / first["file"]).read_bytes() == made[0].ads[0].file.png
    assert set(first) == {
        "file", "rank", "win_share", "beats_original", "seed", "repaired", "text", "sha256", "design", "fidelity", "made"
    }  # fmt: skip
    assert first["made"]["seed"] == 0
    assert set(first["fidelity"]) == {"edges", "look", "score"}
    assert len(list((tmp_path / "ads").iterdir())) == 4


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One product with two pictures, one without any."""
    products = [
        {
            "product_id": "p1",
            "title": "Red mug",
            "category": "Kitchen",
            "attributes": [("Material", "clay")],
            "tags": ["cup"],
        },
        {"product_id": "p2", "title": "Blue mug"},
    ]
    with publish(tmp_path / "dataset", kind="dataset") as draft:
        facts = {
            name: inspect(picture(shade), max_bytes=10**6, max_pixels=10**6) for name, shade in (("b", 90), ("a", 60))
        }
        creatives = [
            {
                "creative_id": name,
                "product_id": "p1",
                "content_hash": each.content_hash,
                "perceptual_hash": each.perceptual_hash,
            }
            for name, each in facts.items()
        ]
        with ImageWriter(draft.path, embed=True) as images:
            for name, shade in (("b", 90), ("a", 60)):
                images.add(facts[name], data=picture(shade), uri=None)
        for name, rows, schema in (
            ("products", products, tables.PRODUCTS),
            ("creatives", creatives, tables.CREATIVES),
            ("observations", [], tables.OBSERVATIONS),
        ):
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), draft.path / f"{name}.parquet")
    return tmp_path / "dataset"


def test_a_product_of_the_dataset_comes_with_its_own_picture(dataset: Path):
    found = AdvertisedProduct.from_dataset(dataset, "p1")
    assert found.image == picture(60)  # of the creative with the smallest id
    assert found.product == Product(
        product_id="p1", title="Red mug", category="Kitchen", attributes={"Material": "clay"}, tags=["cup"]
    )
    assert found.pixels.shape == (32, 48, 3)
    with pytest.raises(UserError, match=r"'p9' is not in the dataset; there are p1, p2"):
        AdvertisedProduct.from_dataset(dataset, "p9")
    with pytest.raises(UserError, match="'p2' has no creative"):
        AdvertisedProduct.from_dataset(dataset, "p2")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The job, with a literal writer and reward in place of trained ones."""
    for name in ("writer", "model"):
        with publish(tmp_path / name, kind=name) as draft:
            (draft.path / "x").write_text(name)
    reward: Any = BrightnessScorer()
    reward.version = "m"
    reward.folder = SimpleNamespace(
        artifact=open_artifact(tmp_path / "model", kind="model"), base=SimpleNamespace(version="k")
    )
    monkeypatch.setattr(writing.ModelWriter, "open", lambda *_, **__: LiteralWriter())
    monkeypatch.setattr(writing, "open_writer", lambda folder: open_artifact(folder, kind="writer"))
    monkeypatch.setattr(CountryReward, "from_pretrained", lambda *_, **__: reward)
    return importlib.import_module("generate_ads")


def test_the_job_publishes_ads_with_a_gallery(
    job: Any, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = {"dataset": str(dataset), "writer": str(tmp_path / "writer"), "model": str(tmp_path / "model")}
    config = job.Config(market="KR", markets=["BR"], product="p1", n=2, out=str(tmp_path / "ads"), **folder)
    config.renderer.px = 64
    artifact = job.main(config)
    assert sorted(path.name for path in (artifact.path / "ads").iterdir()) == [
        "BR-01.png", "BR-02.png", "KR-01.png", "KR-02.png",
    ]  # fmt: skip
    assert artifact.manifest.counts == {"ads": {"BR": 2, "KR": 2}}
    assert set(artifact.manifest.inputs) == {"dataset", "writer", "model"}
    told = json.loads((artifact.path / "ads.json").read_text(encoding="utf-8"))
    assert (told["writer"], told["model"], told["knowledge_base"]) == ("literal-1", "m", "k")
    assert told["renderer"].startswith("drawer drawer-")
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert page == (artifact.path / "gallery.html").read_text(encoding="utf-8")
    assert page.count("<img") == 1 + 4
    assert page.index("South Korea") < page.index("Brazil")
    assert "choice 2" in page
    out = capsys.readouterr().out
    assert "KR-01.png  beats the original" in out
    assert str(tmp_path / "gallery.html") in out


def test_the_job_takes_any_product(job: Any, tmp_path: Path):
    (tmp_path / "mug.png").write_bytes(picture())
    config = job.Config(
        market="Brazil",
        title="Oak lamp",
        attributes={"Material": "oak"},
        image=str(tmp_path / "mug.png"),
        n=1,
        writer=str(tmp_path / "writer"),
        out=str(tmp_path / "ads"),
    )
    config.renderer.px = 64
    artifact = job.main(config)
    told = json.loads((artifact.path / "ads.json").read_text(encoding="utf-8"))
    assert told["product"]["attributes"] == {"Material": "oak"}
    assert set(artifact.manifest.inputs) == {"writer", "model"}


@pytest.mark.parametrize("given", [{}, {"product": "p1", "title": "x"}])
def test_the_job_wants_one_product(job: Any, given: dict):
    with pytest.raises(UserError, match="product, title"):
        job.main(job.Config(market="KR", **given))


def test_a_market_is_wanted_before_anything_is_published(job: Any, dataset: Path, tmp_path: Path):
    config = job.Config(product="p1", dataset=str(dataset), writer=str(tmp_path / "writer"), out=str(tmp_path / "ads"))
    with pytest.raises(UserError, match="market: none is given"):
        job.main(config)
    assert not (tmp_path / "ads").exists()
