"""The demo, shrunken: one run of `python jobs/demo.py` against its contract, what a second run repeats, and the scorer on it."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from countryreward import PairRequest, PriorScorer, Product, UserError, Verdict
from countryreward.data.images import ImageTable
from countryreward.data.marketplace.export import write_export
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig
from tests.cluster.demo_run import BASELINES, MARKETS, OF_MODEL, RANKING, STAGES, Run


@pytest.fixture(scope="module")
def scorer(demo: Run) -> PriorScorer:
    return PriorScorer(demo.folder / "knowledge_base")


def test_report_has_the_keys_of_the_contract(demo: Run):
    report = demo.report
    assert {"counts", "ceilings", "variants", "seconds", "machine", "command", "versions"} <= set(report)
    assert set(report["variants"]) == BASELINES | OF_MODEL
    assert {"noise", "market_blind"} <= set(report["ceilings"])
    assert report["command"].startswith("python jobs/demo.py --out=")
    assert {"processor", "cores", "memory_gib", "system"} == set(report["machine"])
    assert {"python", "numpy", "ray", "knowledge_base"} <= set(report["versions"])
    assert report["versions"]["knowledge_base"] == demo.versions["knowledge_base"]
    assert {"marketplace", "dataset", "records", "embeddings", "knowledge_base", "prior_only"} <= set(report["seconds"])
    assert all(seconds > 0 for seconds in report["seconds"].values())


def test_every_metric_is_a_value_with_an_interval(demo: Run):
    judged = demo.report["variants"] | {name: demo.report["ceilings"][name] for name in ("noise", "market_blind")}
    for name, metrics in judged.items():
        for metric in RANKING:
            found = metrics[metric]
            assert set(found) == {"value", "low", "high"}, (name, metric)
            assert 0 <= found["low"] <= found["value"] + 1e-9, (name, metric)
            assert found["value"] <= found["high"] + 1e-9 <= 1 + 2e-9, (name, metric)


def test_report_counts_add_up(demo: Run):
    counts = demo.report["counts"]
    # 60 products x 4 creatives x 4 markets x 4 months; 60 products x 6 pairs x 4 markets
    assert counts["observations"] | {"quarantined_by_reason": {}} == {
        "input": 3840, "kept": 3840, "dropped": 0, "quarantined": 0, "quarantined_by_reason": {},
    }  # fmt: skip
    pairs = counts["pairs"]
    assert pairs["input"] == 1440 == pairs["records"] + pairs["dropped"] + pairs["quarantined"]
    assert sum(pairs["dropped_by_reason"].values()) == pairs["dropped"]
    assert counts["priors"]["input"] == pairs["records"] == counts["priors"]["kept"] + counts["priors"]["quarantined"]


def test_every_manifest_counts_add_up(demo: Run):
    for stage, manifest in demo.manifests.items():
        for table, part in manifest["counts"].items():
            if isinstance(part, dict) and "input" in part:
                kept = part["records"] if "records" in part else part["kept"]
                assert part["input"] == kept + part["dropped"] + part["quarantined"], (stage, table)


def test_blind_judges_are_exactly_blind(demo: Run):
    for name in ("market_blind_oracle", "constant_letter"):
        assert demo.report["variants"][name]["discordant_sensitivity"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert demo.report["variants"][name]["discordant_ordering"] == {"value": 0.5, "low": 0.5, "high": 0.5}
        assert demo.report["variants"][name]["log_loss"] == {"value": None, "low": None, "high": None}
    assert demo.report["ceilings"]["market_blind"]["discordant_sensitivity"]["value"] == 0.0
    assert demo.report["variants"]["constant_letter"]["balanced_accuracy"]["value"] == 0.5


def test_the_order_of_the_judges(demo: Run):
    def accuracy(metrics: dict[str, Any]) -> float:
        return metrics["accuracy"]["value"]

    variants, ceilings = demo.report["variants"], demo.report["ceilings"]
    assert accuracy(ceilings["noise"]) > accuracy(ceilings["market_blind"]) > 0.5
    assert accuracy(variants["market_blind_oracle"]) > accuracy(variants["constant_letter"])
    assert variants["prior_only"]["discordant_ordering"]["value"] > 0.5
    shuffled = variants["prior_shuffled"]["discordant_ordering"]["value"]
    assert variants["prior_only"]["discordant_ordering"]["value"] > shuffled


def test_report_html_needs_nothing_from_outside(demo: Run):
    sources = re.findall(r"""(?:src|href|srcset|action|poster|data)\s*=\s*["']([^"']{0,60})""", demo.html)
    assert len(sources) > 5
    assert all(source.startswith(("data:", "#")) for source in sources), set(sources)
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:|#)", demo.html)
    assert not re.search(r"<(script|iframe|object|embed|base)\b[^>]*\bsrc", demo.html)
    assert (demo.folder / "report" / "report.html").read_text() == (demo.folder / "report.html").read_text()


def test_flip_picture_is_a_real_png(demo: Run):
    path = demo.folder / "report" / "flip.png"
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as picture:
        picture.load()
        assert min(picture.size) > 200
        assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096) or []) > 20  # something is drawn on it


def test_lineage_names_every_input(demo: Run):
    inputs = {
        stage: {name: entry["version"] for name, entry in manifest["inputs"].items()}
        for stage, manifest in demo.manifests.items()
    }
    version = demo.versions
    searched = {name: version[name] for name in ("records", "embeddings", "knowledge_base")}
    assert inputs == {
        "export": {},
        "dataset": {},
        "records": {"dataset": version["dataset"]},
        "embeddings": {"dataset": version["dataset"]},
        "knowledge_base": {name: version[name] for name in ("dataset", "records", "embeddings")},
        "priors": searched,
        "priors_paper": searched,
        "choose_k": searched,
        "report": {
            **searched,
            "dataset": version["dataset"],
            "prior_only": version["priors"],
            "prior_only_paper": version["priors_paper"],
            "choose_k": version["choose_k"],
            "model": version["model"],
        },
        "features": {"dataset": version["dataset"]},
        "model": {name: version[name] for name in ("dataset", "records", "knowledge_base", "priors", "features")},
    }


def test_the_export_is_the_same_to_the_byte_for_the_same_seed(demo: Run, tmp_path: Path):
    one_thread = MarketplaceConfig(products=60, image_px=64, markets=MARKETS, workers=1)
    write_export(tmp_path, one_thread)
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(files) == set(demo.manifests["export"]["files"])
    assert len(files) > 240
    different = [name for name, data in files.items() if (demo.folder / "export" / name).read_bytes() != data]
    assert different == []


def test_a_second_run_finds_everything_up_to_date(demo: Run, again: Run):
    said = [line for line in again.output.splitlines() if line.endswith("is up to date")]
    assert said == [
        f"{stage}: {demo.folder}/{name} is up to date"
        for stage, name in (
            ("marketplace", "export"), ("import", "dataset"), ("records", "records"), ("embed", "embeddings"),
            ("knowledge base", "knowledge_base"), ("priors", "priors"), ("priors", "priors_paper"),
            ("choose k", "choose_k"), ("features", "features"), ("train", "model"),
        )
    ]  # fmt: skip
    for stage in STAGES[:-1]:
        assert again.run_ids[stage] == demo.run_ids[stage]
        assert again.versions[stage] == demo.versions[stage]
    assert again.run_ids["report"] != demo.run_ids["report"]
    assert again.report["variants"] == demo.report["variants"]


def test_another_reading_rebuilds_what_hangs_on_the_priors_only(again: Run, paper: Run):
    changed = {stage for stage in STAGES if paper.run_ids[stage] != again.run_ids[stage]}
    assert changed == {"priors", "model", "report"}
    assert paper.versions["priors"] != again.versions["priors"]
    # now the subject is the paper's reading too: on the same records the two variants are one
    assert paper.report["variants"]["prior_only"] == paper.report["variants"]["prior_only_paper"]
    assert paper.report["variants"]["prior_only_paper"] == again.report["variants"]["prior_only_paper"]


def test_data_check_and_kb_show_read_the_run(demo: Run, capsys: pytest.CaptureFixture[str]):
    from countryreward.cli import main

    main(["data", "check", str(demo.folder)])
    assert "pairs x markets   1,440 = 1,440 records + 0 dropped + 0 quarantined" in capsys.readouterr().out
    main(["kb", "show", str(demo.folder), "--market", "South Korea", "--top", "2"])
    shown = capsys.readouterr().out
    assert demo.versions["knowledge_base"] in shown
    assert shown.index("highest lift") < shown.index("lowest lift")


# The scorer on the knowledge base of the run.


@pytest.fixture(scope="module")
def pictures(demo: Run) -> list[bytes]:
    """Two ads of one product of the export."""
    return [(demo.folder / "export" / "images" / f"p00003-c{c}.jpg").read_bytes() for c in (1, 2)]


NEW = Product(title="Blue coffee mug 350 ml", category="Tableware", attributes={"colour": "blue"}, tags=["gift"])


def test_scorer_answers_for_every_market(demo: Run, scorer: PriorScorer, pictures: list[bytes]):
    verdicts = scorer.compare(NEW, *pictures, ["BR", "France", "kr", "US"])
    assert [verdict.market for verdict in verdicts] == MARKETS
    for verdict in verdicts:
        assert isinstance(verdict, Verdict)
        assert verdict.knowledge_base_version == demo.versions["knowledge_base"]
        assert verdict.model_version is None
        assert verdict.choice == ("A" if verdict.log_odds > 0 else "B")
        assert (verdict.probability > 0.5) == (verdict.log_odds > 0)
        assert len(verdict.evidence) == 39
        assert sum(entry.weight for entry in verdict.evidence) == pytest.approx(1, abs=1e-12)
        weights = [entry.weight for entry in verdict.evidence]
        assert weights == sorted(weights, reverse=True)
        assert all(0 <= entry.vote <= 1 for entry in verdict.evidence)
        assert all(entry.like_a.similarity <= 1 + 1e-6 for entry in verdict.evidence)
        json.dumps(verdict.as_dict(), allow_nan=False)
    assert len({verdict.log_odds for verdict in verdicts}) == 4


def test_swapping_the_images_negates_the_log_odds_exactly(scorer: PriorScorer, pictures: list[bytes]):
    there = scorer.compare(NEW, *pictures, MARKETS)
    back = scorer.compare(NEW, *reversed(pictures), MARKETS)
    assert [verdict.log_odds for verdict in back] == [-verdict.log_odds for verdict in there]
    assert [verdict.choice for verdict in back] == [{"A": "B", "B": "A"}[str(verdict.choice)] for verdict in there]


def test_many_requests_answer_as_each_alone(scorer: PriorScorer, pictures: list[bytes]):
    requests = [
        PairRequest(product=product, image_a=pictures[0], image_b=pictures[1], market=market)
        for product in (NEW, Product(title="Canvas sneakers"))
        for market in ("KR", "US")
    ]
    assert scorer.score(requests) == [scorer.score([request])[0] for request in requests]
    assert scorer.score([]) == []


def test_a_market_without_past_ads_abstains(scorer: PriorScorer, pictures: list[bytes]):
    (verdict,) = scorer.compare(NEW, *pictures, ["IS"])
    assert (verdict.market, verdict.probability, verdict.log_odds) == ("IS", 0.5, 0.0)
    assert verdict.choice is None
    assert verdict.evidence == ()


def test_one_image_twice_is_no_opinion(scorer: PriorScorer, pictures: list[bytes]):
    (verdict,) = scorer.compare(NEW, pictures[0], pictures[0], ["KR"])
    assert (verdict.probability, verdict.log_odds, verdict.choice) == (0.5, 0.0, None)


def test_an_unknown_market_is_named(scorer: PriorScorer, pictures: list[bytes]):
    with pytest.raises(UserError, match=r"market: 'Atlantis' is no country"):
        scorer.compare(NEW, *pictures, ["KR", "Atlantis"])


@pytest.mark.parametrize("broken", ["truncated", "empty", "text", "gif"])
def test_a_broken_image_is_refused(scorer: PriorScorer, pictures: list[bytes], broken: str):
    gif = io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    data = {"truncated": pictures[0][:400], "empty": b"", "text": b"no picture", "gif": gif.getvalue()}[broken]
    for pair in ((data, pictures[1]), (pictures[1], data)):
        with pytest.raises(UserError, match=r"^image: "):
            scorer.compare(NEW, *pair, ["KR"])


def test_scorer_gives_the_priors_of_the_job(demo: Run, scorer: PriorScorer):
    dataset = demo.folder / "dataset"
    records = pd.read_parquet(demo.folder / "records" / "records.parquet")
    records = records[records["split"] == "test"].iloc[::7].head(40)
    rows = pd.read_parquet(dataset / "products.parquet").to_dict("records")
    products = {str(row["product_id"]): row for row in rows}
    images = ImageTable(dataset)
    requests = []
    for row in records.itertuples():
        product = products[str(row.product_id)]
        requests.append(
            PairRequest(
                product=Product(
                    title=product["title"],
                    category=product["category"],
                    attributes=dict(product["attributes"]),
                    tags=list(product["tags"]),
                    product_id=str(row.product_id),
                ),
                image_a=images.bytes_of(str(row.hash_a)),
                image_b=images.bytes_of(str(row.hash_b)),
                market=str(row.market),
            )
        )
    expected = demo.priors.set_index("record_id").loc[records["record_id"]]
    verdicts = scorer.score(requests)
    assert len(verdicts) == 40
    assert [verdict.log_odds for verdict in verdicts] == pytest.approx(expected["log_odds"].tolist(), rel=0, abs=1e-12)
    assert [verdict.choice for verdict in verdicts] == expected["letter"].tolist()
    assert [len(verdict.evidence) for verdict in verdicts] == expected["n"].tolist()
    for verdict, ids in zip(verdicts, expected["neighbours_a"], strict=True):
        assert [entry.like_a.creative_id for entry in verdict.evidence] == list(ids)


def test_an_altered_knowledge_base_is_refused(demo: Run, tmp_path: Path):
    import shutil

    copy = tmp_path / "base"
    shutil.copytree((demo.folder / "knowledge_base").resolve(), copy)
    path = copy / "images.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"images\.npy does not match its SHA-256"):
        PriorScorer(copy)
