"""The gallery of one product in every market, and the page that asks whether the writer is better."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from countryreward import markets
from countryreward.data.artifacts import publish
from countryreward.data.design import Design
from countryreward.data.tables import CASES
from countryreward.evaluation.ad_gallery import AdBoard, AdRow, ShownAd, board_values, case_boards, write_gallery
from countryreward.evaluation.alignment import alignment_table
from countryreward.evaluation.alignment_report import (
    before_and_after,
    findings,
    headline,
    table_2,
    write_alignment_report,
)
from countryreward.evaluation.evaluation_config import StopRule
from countryreward.evaluation.page import thumbnail_uri
from countryreward.evaluation.stop_rule import decide
from countryreward.evaluation.writer_cases import WriterCases, open_cases
from tests.unit.writer_world import case, world

DESIGN = Design(foreground="Bare & <b>", background="A night market " * 6, color_tone="Neon", lighting="Lanterns")


def picture(side: int = 300, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def ad(market: str, fidelity: float = 0.8, probability: float = 0.734) -> ShownAd:
    judged = (("reward", probability), ("held-out judge", 0.5))
    return ShownAd(market=market, image=picture(64), design=DESIGN, judged=judged, fidelity=fidelity)


def board(*rows: AdRow, title: str = "Mug <script>alert(1)</script> 茶") -> AdBoard:
    return AdBoard(title=title, category="Kitchen", original=picture(64), rows=rows)


def pictures_in(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def test_columns_follow_the_markets_and_gaps_stay_gaps():
    before, after = (
        AdRow(label="before", ads=(ad("FR"), ad("KR"))),
        AdRow(label="after", ads=(ad("BR"), ad("KR", 0.4999))),
    )
    (shown,) = board_values([board(before, after)])
    assert shown["markets"] == ["France", "South Korea", "Brazil"]
    assert [[each and each["market"] for each in row["ads"]] for row in shown["rows"]] == [
        ["France", "South Korea", None],
        [None, "South Korea", "Brazil"],
    ]
    first, flagged = shown["rows"][0]["ads"][0], shown["rows"][1]["ads"][1]
    assert first["judged"][0] == ("reward", "73\u00a0%", pytest.approx(73.4))
    assert (first["flag"], first["fidelity"]) == (False, "product recognisable: 0.80")
    assert (flagged["flag"], flagged["fidelity"]) == (True, "product hardly recognisable: 0.49")
    assert len(first["summary"]) <= 56
    assert first["design"][0] == ("Foreground", "Bare & <b>")


@pytest.mark.parametrize("n", [1, 5, 30])
def test_page_is_self_contained_whatever_the_number_of_markets(tmp_path: Path, n: int):
    row = AdRow(ads=tuple(ad(code) for code in markets.codes()[:n]))
    write_gallery([board(row)], tmp_path / "g.html", title="Ads", lead="Ranked.", facts=[("seed", "1 & 2")])
    page = (tmp_path / "g.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//cdn|<script|<link|@import|url\(", page)
    assert "&lt;script&gt;" in page
    assert "1 &amp; 2" in page
    assert page.count("<img") == n + 1 == len(pictures_in(page))
    assert page.count('scope="col"') == n + 1
    assert "simulated" not in page.split("</style>")[1]
    assert [path.name for path in tmp_path.iterdir()] == ["g.html"]


def test_pictures_are_small_and_smaller_where_there_are_many(tmp_path: Path):
    few = thumbnail_uri(picture(1200), 320)
    with Image.open(io.BytesIO(base64.b64decode(few.split(",")[1]))) as image:
        assert (image.format, image.size) == ("JPEG", (320, 320))
    large = ShownAd(market="KR", image=picture(260), design=DESIGN, judged=(), fidelity=0.9)
    many = [board(*[AdRow(ads=(large,)) for _ in range(61)])]
    write_gallery(many, tmp_path / "g.html", title="Ads", lead="Many.")
    assert {image.size for image in pictures_in((tmp_path / "g.html").read_text(encoding="utf-8"))[1:]} == {(240, 240)}


def test_a_picture_with_transparency_or_in_grey_is_shown():
    for mode in ("RGBA", "L", "P"):
        buffer = io.BytesIO()
        Image.new(mode, (20, 10)).save(buffer, "PNG")
        assert thumbnail_uri(buffer.getvalue(), 100).startswith("data:image/jpeg")


@pytest.fixture(scope="module")
def hacked() -> dict:
    steps = {
        "round-1": {"reward": 0.5, "held_out": 0.4, "truth": 0.4},
        "round-2": {"reward": 1.4, "held_out": -0.3, "truth": -0.3},
    }
    return alignment_table(world(shifts=steps), simulated=True, draws=300)


@pytest.mark.slow
def test_report_says_what_the_numbers_say(hacked: dict, tmp_path: Path):
    decision = decide(hacked, StopRule())
    assert (decision.stop, decision.last_good) == (True, "round-1")
    row = AdRow(label="round-1", ads=(ad("KR"),))
    write_alignment_report(
        hacked, decision, [board(row)], tmp_path, judges={"reward": "model abc"}, command="python x.py"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alignment.html", "alignment.json", "table2.json"]
    page = (tmp_path / "alignment.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//cdn|<script|<link|@import|url\(", page)
    assert headline(hacked, decision) in page
    assert "Training stops here; kept: round-1" in page
    assert "the writer learned to please its judge" in page
    assert "model abc" in page
    assert page.count(">simulated<") > 7
    assert "59.60" in page  # the paper's, told to be the paper's
    assert "no number of ours is comparable to these" in page
    assert page.count("data:image/png") == 2 + 3  # by round, bounds, a judge each
    table2 = json.loads((tmp_path / "table2.json").read_text(encoding="utf-8"))
    assert len(table2["rows"]) == 9
    assert table2["rows"][0]["variant"] == "reference"
    assert set(table2["rows"][0]["per_market"]) == {"BR", "KR", "US"}
    assert (table2["kept"], table2["paper"]["rows"]["DGM"]["AU"]) == ("round-1", 68.26)
    assert json.loads((tmp_path / "alignment.json").read_text())["decision"]["reasons"] == ["parting"]


def test_words_follow_the_numbers(hacked: dict):
    decision = decide(hacked, StopRule())
    assert before_and_after(hacked, decision) == ("reference", "round-1")
    assert re.match(
        r"A held-out judge prefers the ads to the original creative in \d+\u00a0% of cases", headline(hacked, decision)
    )
    said = findings(hacked, decision)
    assert said[0] == decision.why
    assert any("There is no proof that designs differ between markets more, or less" in each for each in said)
    alone = alignment_table(world(products=3, shifts={})[:1], draws=10)
    first = decide(alone, StopRule())
    assert headline(alone, first) == "Only the writer as it was before training has been judged."
    assert table_2(alone, first)["kept"] == "reference"


def test_where_originals_are_beaten_anyway_the_headline_is_head_to_head():
    def rows(p: float, rival: float | None) -> pd.DataFrame:
        against = {} if rival is None else {"held_out": rival}
        made = [case(f"p{n}", "KR", beats_original={"held_out": p}, beats_reference=against) for n in range(4)]
        return pd.DataFrame(made)

    variants = [
        WriterCases(name="reference", cases=rows(0.99, None)),
        WriterCases(name="round-1", cases=rows(0.98, 0.7)),
    ]
    table = alignment_table(variants, draws=10)
    decision = decide(table, StopRule())
    said = "A held-out judge prefers the ads to those from before in 100\u00a0% of cases (no interval)."
    assert headline(table, decision) == said
    assert any("Table 2 has hardly room" in each for each in findings(table, decision))


def test_nothing_is_kept_and_the_headline_says_so():
    table = alignment_table(world(shifts={"round-1": {"reward": 1.0, "held_out": -0.7}}), draws=200)
    decision = decide(table, StopRule())
    assert decision.last_good == "reference"
    assert headline(table, decision).endswith("(round-1 is not kept).")


@pytest.mark.slow
def test_report_of_few_products_without_truth_or_draws(tmp_path: Path):
    """Real data at its poorest: one judge, two products, one draw, no log probabilities."""
    variants = [
        WriterCases(
            name=name, cases=pd.DataFrame([case(p, "KR", key=f"{name}{p}", beats_original={"reward": v}) for p in "ab"])
        )
        for name, v in (("reference", 0.4), ("round-1", 0.6))
    ]
    table = alignment_table(variants, draws=20)
    decision = decide(table, StopRule())
    assert len(decision.warnings) == 2
    write_alignment_report(table, decision, [], tmp_path)
    page = (tmp_path / "alignment.html").read_text(encoding="utf-8")
    assert "simulated" not in page.split("</style>")[1]
    assert "There is no held-out judge" in page


def test_boards_are_read_from_the_artifact(tmp_path: Path):
    rows = [
        case("p1", "KR", key="a", ad="one", beats_original={"reward": 0.9}),
        case("p1", "BR", key="b", ad="one", beats_original={"reward": 0.2}),
        case("p1", "BR", key="c", ad="two", seed=2),  # a second draw is not shown
    ]
    with publish(tmp_path / "cases", kind="cases") as draft:
        lists = [{k: list(v.items()) if isinstance(v, dict) else v for k, v in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(lists, schema=CASES), draft.path / "cases.parquet")
        (draft.path / "ads").mkdir()
        (draft.path / "ads" / "one.png").write_bytes(picture(32))
    variant = open_cases(tmp_path / "cases", name="reference")
    (found,) = case_boards([variant], {"p1": ("Mug", "Kitchen", picture(32))}, ["p1"], markets=["KR", "BR", "US"])
    assert [each.market for each in found.rows[0].ads] == ["KR", "BR"]
    assert found.rows[0].ads[0].judged == (("the reward that trained it", 0.9),)
    assert board_values([found])[0]["title"] == "Mug"
