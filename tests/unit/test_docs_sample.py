"""docs/data.md: its sample works as written, its output is the real output, its tables are complete."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import import_data
from countryreward import cli, command
from countryreward.data import quarantine, records, tables
from countryreward.data.importers import observations, products
from countryreward.data.importers import pair_files as pairs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
FILES = ["products.csv", "creatives.csv", "observations.csv", "import.yaml", "pairs.csv", "pairs.yaml"]
TABLES = ["products", "creatives", "observations"]


def lines(text: str) -> list[str]:
    """Lines without trailing spaces; what differs from run to run is left out: seconds, the version's folder."""
    bare = [line.rstrip() for line in text.splitlines()]
    return [line for line in bare if not re.match(r"dataset  |import: -> |  (images|rows) read ", line)]


def import_sample(name: str, out: Path) -> None:
    command.run(import_data.Config, import_data.main, ["--config", f"docs/sample/{name}.yaml", "--out", str(out)])


@pytest.mark.parametrize("name", FILES)
def test_the_page_shows_the_files(name: str) -> None:
    (block,) = re.findall(rf"`docs/sample/{re.escape(name)}`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert block == (ROOT / "docs" / "sample" / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_sample_imports_with_the_output_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    shown = [lines(block) for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)]
    import_sample("import", tmp_path / "dataset")
    assert lines(capsys.readouterr().out) == shown[0]
    cli.main(["data", "check", str(tmp_path)])
    assert lines(capsys.readouterr().out) == shown[1]
    import_sample("pairs", tmp_path / "pairs")
    assert lines(capsys.readouterr().out) == shown[2]


def test_the_sample_has_the_rows_that_the_page_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    import_sample("import", tmp_path / "dataset")
    rows = {name: pq.read_table(tmp_path / "dataset" / f"{name}.parquet").num_rows for name in TABLES}
    assert rows == {"products": 3, "creatives": 8, "observations": 24}
    (refused,) = (tmp_path / "dataset" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    for said in ('"table": "observations"', '"row": 24', "table-lamp-b/US/2026-04-01/2026-04-30", '"value": "310"'):
        assert said in refused
    dataset = records.Dataset.read(tmp_path / "dataset")
    assert sorted(dataset.observations["market"].unique()) == ["BR", "KR", "US"]


def test_every_quarantine_reason_has_its_line() -> None:
    section = PAGE.partition("### Quarantine")[2].partition("### What is dropped")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    for reason, way_out in quarantine.REASONS.items():
        assert documented.get(reason) == way_out, reason


def test_every_reason_to_drop_is_explained() -> None:
    source = Path(records.__file__).read_text(encoding="utf-8")
    reasons = set(re.findall(r'(?<!\.)drop\([^\n]*"(\w+)"\)', source)) | set(re.findall(r'dropped\["(\w+)"\]', source))
    assert {"same_creative", "repeated_pair", "crosses_split"} <= reasons
    for reason in reasons | {"undated", "straddles_window", "repeated"}:
        assert f"`{reason}`" in PAGE, reason


def test_every_column_is_explained() -> None:
    wanted = {"product_id", *products.DESCRIPTION, "creative_id", "image_uri", "image_bytes", "image_a", "image_b"}
    wanted |= {*observations.CONTEXT, *observations.VALUES}
    for name in wanted - {products.ATTRIBUTE}:
        assert f"`{name}`" in PAGE, name
    assert f"`{products.ATTRIBUTE}NAME`" in PAGE
    assert set(pairs.SIDES) == {"a", "b"}
    for kind in tables.KINDS:
        assert f"`{kind}`" in PAGE


def test_every_field_of_a_refusal_is_explained() -> None:
    section = PAGE.partition("### Quarantine")[2].partition("### What is dropped")[0]
    for name in quarantine.QuarantinedRow.__dataclass_fields__:
        assert f"| `{name}` |" in section
