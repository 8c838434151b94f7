"""`jobs/score.py` on the demo's model: equal to CountryReward, one encode per image, killed and gone on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import score
from countryreward import CountryReward, Product
from countryreward.data.artifacts import Artifact
from countryreward.data.data_config import ImagesConfig
from countryreward.errors import UserError
from countryreward.on_ray.ray_config import RayConfig
from countryreward.on_ray.session import session
from tests.cluster.demo_run import MARKETS, ROOT, Run

GOOD, PART = 40, 16
BAD = {
    "missing_value": {"title": ""},
    "missing_image": {"image_a": "gone.jpg"},
    "forbidden_uri": {"image_b": "https://example.org/a.jpg"},
    "undecodable_image": {"image_b": "cut.jpg"},
    "unsupported_format": {"image_a": "moving.gif"},
    "wrong_type": {"attributes": "blue"},
    "duplicate_key": {"row_id": "r000"},
}
"""Reason -> what is wrong with one row."""


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """One Ray for the module."""
    with session(RayConfig(cpus=2)):
        yield


@dataclass(frozen=True)
class Scored:
    """A finished job."""

    config: score.Config
    made: Artifact
    rows: list[dict[str, str]]

    @property
    def verdicts(self) -> pd.DataFrame:
        return pd.read_parquet(self.made.path / "verdicts.parquet")


@pytest.fixture(scope="module")
def scored(demo: Run, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """A table with one row of each badness, scored in all markets; the encodes are kept."""
    folder = tmp_path_factory.mktemp("score")
    images = folder / "images"
    images.mkdir()
    export = demo.folder / "export"
    for path in (export / "images").iterdir():
        os.link(path, images / path.name)
    (images / "cut.jpg").write_bytes((export / "images" / "p00000-c1.jpg").read_bytes()[:500])
    (images / "moving.gif").write_bytes(b"GIF89a" + bytes(40))
    with open(export / "products.csv", newline="", encoding="utf-8") as handle:
        products = list(csv.DictReader(handle))
    rows = []
    for n in range(GOOD):
        product = products[n % 20]  # every product twice: its images are shared between rows
        pair = (1, 2) if n < 20 else (2, 3)
        rows.append(
            {
                "row_id": f"r{n:03d}",
                **{name: product[name] for name in ("product_id", "title", "category", "attributes", "tags")},
                **{f"image_{side}": f"{product['product_id']}-c{c}.jpg" for side, c in zip("ab", pair, strict=True)},
                "campaign": f"c{n % 3}",
            }
        )
    rows[4]["title"] = "For Brazilian market: a mug"
    rows[5]["image_b"] = rows[5]["image_a"]
    rows[6]["title"] = "mug " * 2000
    rows[7]["product_id"] = ""
    bad = [{**rows[10], "row_id": f"x{n}", **wrong} for n, wrong in enumerate(BAD.values())]
    rows = [*rows[:9], *bad, *rows[9:]]
    table = folder / "pairs.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    config = score.Config(
        model=str(demo.model),
        pairs=str(table),
        keep=["campaign"],
        out=str(folder / "scores"),
        work=str(folder / "work"),
        keep_encodes=True,
        part_rows=PART,
        batch_size=8,
        abstain_below=0.02,
    )
    return Scored(config, score.main(config), rows)


def test_counts_add_up_and_every_bad_row_has_its_reason(scored: Scored):
    counts = scored.made.manifest.counts
    assert counts["pairs"] == {
        "input": GOOD + len(BAD),
        "kept": GOOD,
        "dropped": 0,
        "quarantined": len(BAD),
        "quarantined_by_reason": dict.fromkeys(BAD, 1),
    }
    assert counts["verdicts"]["all"] == GOOD * len(MARKETS) == sum(counts["verdicts"]["choices"].values())
    lines = [json.loads(line) for line in (scored.made.path / "quarantine.jsonl").read_text().splitlines()]
    assert {line["key"]: line["reason"] for line in lines if line["key"] != "r000"} == {
        f"x{n}": reason for n, reason in enumerate(BAD) if reason != "duplicate_key"
    }
    for line in lines:
        assert (line["stage"], line["table"]) == ("score", "pairs")
        assert line["field"] in next(iter(BAD[line["reason"]]))


def test_each_image_goes_through_the_tower_once_for_all_markets(scored: Scored):
    good = [row for row in scored.rows if row["row_id"].startswith("r")]
    files = {row[side] for row in good for side in ("image_a", "image_b")}
    counts = scored.made.manifest.counts
    assert len(files) < 2 * GOOD  # some are shared
    # the two images that cannot be decoded, and no more, were given up before the tower
    assert counts["images"] == {"input": len(files) + 2, "kept": len(files), "dropped": 0, "quarantined": 2}
    assert counts["tower_encodes"] == {"now": len(files), "before": 0}


def test_verdicts_are_those_of_country_reward(scored: Scored):
    config = scored.config
    judge = CountryReward.from_pretrained(config.model)
    judge.config.abstain_below = config.abstain_below
    verdicts = scored.verdicts
    assert verdicts["market"].tolist() == MARKETS * GOOD
    assert verdicts["row"].is_monotonic_increasing
    folder = Path(config.pairs).parent / "images"
    answers = iter(verdicts.astype(object).where(verdicts.notna(), None).to_dict("records"))
    for position in verdicts["row"].unique():
        row = scored.rows[position]
        product = Product(
            title=row["title"],
            category=row["category"],
            attributes=json.loads(row["attributes"]),
            tags=json.loads(row["tags"]),
            product_id=row["product_id"] or None,
        )
        for wanted in judge.score(product, folder / row["image_a"], folder / row["image_b"]):
            answer = next(answers)
            for name in ("market", "choice", "note", "model_version", "knowledge_base_version"):
                assert answer[name] == getattr(wanted, name), (row, name)
            for name in ("log_odds", "probability", "calibrated_probability"):
                assert answer[name] == pytest.approx(getattr(wanted, name), abs=1e-5), (row, name)
            assert answer["past_ads"] == 2 * len(wanted.evidence)
            assert (answer["row"], answer["row_id"], answer["campaign"]) == (position, row["row_id"], row["campaign"])
    notes = verdicts.dropna(subset=["note"]).groupby("row")["note"].agg(lambda told: " ".join(told))
    for position, said in ((4, "names the market BR"), (5, "the same file"), (6, "tokens long")):
        assert said in notes[position]
        assert verdicts.loc[(verdicts["row"] == position) & verdicts["note"].notna(), "choice"].isna().all()


def test_the_same_command_finds_everything_up_to_date(scored: Scored, capsys: pytest.CaptureFixture[str]):
    again = score.main(scored.config)
    assert again.manifest.run_id == scored.made.manifest.run_id
    assert capsys.readouterr().out == f"score: {scored.config.out} is up to date\n"


@pytest.mark.long
def test_killed_it_goes_on_where_it_was(scored: Scored, tmp_path: Path):
    """Smaller parts, so that none of the first job's fit; its encodes do."""
    config = replace(scored.config, out=str(tmp_path / "again"), part_rows=1)
    options = [f"--{name}={getattr(config, name)}" for name in ("model", "pairs", "out", "work", "part_rows")]
    options += ["--keep=[campaign]", "--batch_size=8", "--abstain_below=0.02", "--keep_encodes=true", "--ray.cpus=1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COUNTRYREWARD_"))}
    job = subprocess.Popen(
        [sys.executable, "jobs/score.py", *options],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": "platform"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    work = Path(config.work)
    deadline = time.monotonic() + 240
    try:
        while len(finished := list(work.glob("parts-*/part-*.parquet"))) < 3:
            assert job.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    assert not Path(config.out).exists()
    assert len(finished) < GOOD

    made = score.main(config)
    counts = made.manifest.counts
    assert counts["tower_encodes"] == {"now": 0, "before": scored.made.manifest.counts["images"]["kept"]}
    assert counts["parts"]["found"] >= len(finished)
    assert counts["parts"]["found"] + counts["parts"]["judged"] == GOOD
    assert counts["parts"]["judged"] > 0
    assert not list(work.glob("parts-*"))
    one, other = scored.verdicts, pd.read_parquet(made.path / "verdicts.parquet")
    numbers = ["probability", "calibrated_probability", "log_odds"]
    pd.testing.assert_frame_equal(other.drop(columns=numbers), one.drop(columns=numbers))
    pd.testing.assert_frame_equal(other[numbers], one[numbers], rtol=0, atol=1e-5)


def test_a_table_of_the_wrong_shape_is_one_line(scored: Scored, tmp_path: Path):
    (tmp_path / "t.csv").write_text("title,image_a\nMug,a.jpg\n")
    config: dict[str, Any] = {"pairs": str(tmp_path / "t.csv"), "out": str(tmp_path / "out")}
    with pytest.raises(
        UserError, match=r"^pairs: column 'image_b' is not in .*t\.csv, which has title, image_a"
    ) as told:
        score.main(replace(scored.config, **config))
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"images\.root: .* is neither a folder nor"):
        score.main(replace(scored.config, images=ImagesConfig(root=str(tmp_path / "nowhere"))))
    assert not (tmp_path / "out").exists()
