"""The designs table: briefs, designs of creatives and who won, what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

from countryreward.data.data_config import TableSource
from countryreward.data.dataset import Dataset
from countryreward.data.design import Design
from countryreward.data.importers.designs import import_designs
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from tests.unit.conftest import observations

BEACH = Design(foreground="Alone.", background="A beach.", color_tone="Teal.", lighting="Golden.")
CITY = Design(foreground="A ribbon.", background="A city.", color_tone="Neon.", lighting="Moody.")


def dataset() -> Dataset:
    """Product p1 with creatives c1 (wins in KR), c2 (wins in BR), c3 (no design); p2 with one creative; p3 with none."""
    creatives = [("c1", "p1"), ("c2", "p1"), ("c3", "p1"), ("d1", "p2")]
    clicks = {("c1", "KR"): 90, ("c2", "KR"): 50, ("c3", "KR"): 99, ("c1", "BR"): 10, ("c2", "BR"): 20, ("d1", "KR"): 5}
    clicks |= {("c1", "US"): 7, ("c2", "US"): 7}
    rows = [
        {"creative_id": creative, "market": market, "kind": "counts", "impressions": 1000, "clicks": count}
        for (creative, market), count in clicks.items()
    ]
    return Dataset(
        products=pd.DataFrame({"product_id": ["p1", "p2", "p3"], "title": ["One", "Two", "Three"]}),
        creatives=pd.DataFrame(
            [{"creative_id": c, "product_id": p, "content_hash": f"hash-{c}"} for c, p in creatives]
        ),
        observations=observations(rows),
        listed_pairs=None,
    )


def imported(folder: Path, text: str, name: str, **options) -> tuple[dict, pd.DataFrame, Quarantine]:
    (folder / name).write_text(text, encoding="utf-8")
    quarantine = Quarantine("test")
    splits = {"p1": "train", "p2": "validation"}
    counts = import_designs(TableSource(path=str(folder / name)), dataset(), splits, folder, quarantine, **options)
    return counts, pd.read_parquet(folder / "designs.parquet"), quarantine


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_design_that_won_in_each_market(tmp_path: Path) -> None:
    text = lines(
        {"creative_id": "c1", "design": BEACH.__dict__},
        {"creative_id": "c2", "design": CITY.as_text()},
        {"creative_id": "d1", "design": CITY.as_text()},
    )
    counts, frame, _ = imported(tmp_path, text, "designs.jsonl")
    # in the US both did equally well; p2 has one design only; c3, the best in KR, has no design and does not count
    assert frame[["product_id", "market", "creative_id", "background", "image", "split"]].values.tolist() == [
        ["p1", "BR", "c2", "A city.", "hash-c1", "train"],
        ["p1", "KR", "c1", "A beach.", "hash-c1", "train"],
    ]
    assert counts["designs"]["kept"] == 3
    assert counts["records"]["dropped_by_reason"] == {"did_not_win": 2, "tie": 2, "nothing_to_win_against": 1}
    all_of_them, _, _ = imported(tmp_path, text, "designs.jsonl", won=False)
    assert all_of_them["records"]["kept"] == 7


def test_briefs_and_what_is_refused(tmp_path: Path) -> None:
    head = "product_id,market,foreground,background,color_tone,lighting\n"
    good = "p1,South Korea,Alone.,A beach.,Teal.,Golden.\np2,BR,Alone.,A city.,Neon.,Dim.\n"
    bad = "p9,KR,a,b,c,d\np1,Atlantis,a,b,c,d\n,KR,a,b,c,d\np1,KR,a,,c,d\np3,KR,a,b,c,d\n"
    counts, frame, quarantine = imported(tmp_path, head + good + bad, "briefs.csv")
    assert frame[["product_id", "market", "split"]].values.tolist() == [
        ["p1", "KR", "train"],
        ["p2", "BR", "validation"],
    ]
    assert frame["creative_id"].isna().all()
    assert counts["designs"] == {
        "input": 7, "kept": 2, "dropped": 0, "quarantined": 5,
        "quarantined_by_reason": {
            "unreadable_design": 1, "missing_value": 1, "unknown_product": 1, "unknown_market": 1, "no_picture": 1,
        },
    }  # fmt: skip
    told = {refusal.reason: refusal.value for refusal in quarantine.refusals}
    assert told["unreadable_design"].startswith("design: Background missing")


def test_a_table_of_neither_form_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="designs: give either creative_id"):
        imported(tmp_path, "foreground,background,color_tone,lighting\na,b,c,d\n", "none.csv")


def test_a_creative_that_comes_twice_or_is_unknown(tmp_path: Path) -> None:
    text = lines(*({"creative_id": name, "design": BEACH.as_text()} for name in ("c1", "c1", "c9")))
    counts, _, _ = imported(tmp_path, text, "designs.jsonl")
    assert counts["designs"]["quarantined_by_reason"] == {"unknown_creative": 1, "duplicate_key": 1}
