"""`countryreward doctor | data check | kb show`, and what importing the package costs."""

import datetime as dt
import json
import os
import subprocess
import sys
import tomllib
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import countryreward
from countryreward import cli, doctor
from countryreward.cli_commands.doctor import Finding
from countryreward.data import tables
from countryreward.data.artifacts import publish
from countryreward.data.check import check
from countryreward.data.data_config import RecordsConfig
from countryreward.data.dataset import Dataset
from countryreward.data.records import build_records
from tests.unit.conftest import observations

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "pandas", "torch", "ray", "pyarrow", "cv2", "sklearn", "faiss", "transformers", "matplotlib")


def python(code: str, cwd: Path = ROOT) -> str:
    """The stripped output of a fresh interpreter that finds the library."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that exits with code 2."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# Importing


def test_importing_the_package_loads_nothing_heavy():
    loaded = f"[name for name in {HEAVY} if name in __import__('sys').modules]"
    assert python(f"import countryreward; print({loaded})") == "[]"
    assert python(f"import countryreward.cli; print({loaded})") == "[]"


def test_help_of_the_command_loads_nothing_heavy():
    code = f"""
import sys
from countryreward.cli import main
try:
    main(["--help"])
except SystemExit as left:
    print("code", left.code, [name for name in {HEAVY} if name in sys.modules])
"""
    said = python(code)
    assert "doctor" in said
    assert said.splitlines()[-1] == "code 0 []"


@pytest.mark.slow
def test_public_names_are_loaded_when_asked_for():
    code = "import countryreward as c; print(c.__version__, *sorted(c.__all__)); print(c.PriorScorer.__module__)"
    said = python(code).splitlines()
    assert said == [
        "0.1.0 AsyncClient Client Copy CountryReward Creative KnownResult PairRequest PriorScorer Product Ranking ScoreRequest"
        " Scorer SideResult UserError Verdict __version__",
        "countryreward.scoring.prior_scorer",
    ]
    assert python("from countryreward import PriorScorer; print(PriorScorer.__name__)") == "PriorScorer"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        getattr(countryreward, "Nonsense")  # noqa: B009


def test_the_version_is_the_project_files():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == countryreward.__version__


def test_the_platform_module_of_python_is_not_shadowed():
    said = python("import platform; print(platform.system()); print(platform.__file__)").splitlines()
    assert said[0] in ("Linux", "Darwin", "Windows")
    assert not Path(said[1]).is_relative_to(ROOT)
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not (ROOT / "tests" / "ray").exists()  # would shadow ray for a test that runs from tests/


def test_help_and_a_missing_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    assert "doctor" in capsys.readouterr().out
    for arguments in ([], ["data"], ["kb"], ["nonsense"]):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 2


# doctor


def test_doctor_prints_every_finding_and_a_way_out_for_what_is_wrong(capsys: pytest.CaptureFixture[str]):
    code = doctor.doctor(ROOT)
    lines = capsys.readouterr().out.splitlines()
    findings = [line for line in lines if line[:3] in ("ok ", "BAD", "!  ")]
    subjects = {line[4:28].strip() for line in findings}
    assert {"python", "torch", "ray", "faiss", "cores", "memory", "disk", "folder", "gpu", "ray auth"} <= subjects
    assert {"port 8265", "port 6379", "port 8000"} <= subjects
    for number, line in enumerate(lines):
        if line[:3] in ("BAD", "!  "):
            assert lines[number + 1].strip().startswith("-> ")
    assert code == (1 if any(line.startswith("BAD") for line in lines) else 0)


def test_doctor_through_the_command(monkeypatch: pytest.MonkeyPatch):
    for code in (0, 1):
        monkeypatch.setattr(doctor, "doctor", lambda code=code: code)
        with pytest.raises(SystemExit) as left:
            cli.main(["doctor"])
        assert left.value.code == code


@pytest.mark.parametrize(
    ("findings", "code", "last"),
    [
        ([Finding("a", "fine")], 0, "nothing stands in the way of `make demo`"),
        ([Finding("a", "fine", fatal=True)], 0, "nothing stands in the way of `make demo`"),
        ([Finding("a", "so so", "mend it")], 0, "nothing stands in the way of `make demo`"),
        (
            [Finding("a", "bad", "mend it", fatal=True), Finding("b", "fine")],
            1,
            "1 thing(s) to mend before `make demo`",
        ),
    ],
)
def test_doctor_returns_1_only_for_what_stops_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], findings: list[Finding], code: int, last: str
):
    monkeypatch.setattr(doctor, "examine", lambda folder: findings)
    assert doctor.doctor() == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    assert sum("-> mend it" in line for line in lines) == sum(bool(finding.way_out) for finding in findings)


def bad_things(findings: list[Finding]) -> dict[str, Finding]:
    assert all(not finding.fatal or finding.state for finding in findings)
    return {finding.subject: finding for finding in findings if finding.way_out}


def test_doctor_finds_missing_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", nothing)
    bad = bad_things(doctor.examine(tmp_path))
    assert {"torch", "ray", "pillow", "faiss"} <= set(bad)
    assert all(bad[name].fatal and bad[name].state == "missing" for name in ("torch", "ray", "faiss"))
    assert "pip install" in bad["faiss"].way_out


def test_doctor_finds_both_faiss_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "1.15.1")
    found = bad_things(doctor.examine(tmp_path))["faiss"]
    assert found.fatal
    assert found.state == "faiss-cpu 1.15.1, faiss-gpu 1.15.1"
    assert "uninstall" in found.way_out


def test_doctor_finds_a_full_disk_an_old_python_and_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    version = namedtuple("version", "major minor micro")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30, total=2**32))
    monkeypatch.setattr(doctor.sys, "version_info", version(3, 10, 4))
    bad = bad_things(doctor.examine(tmp_path))
    assert bad["python"].state == "3.10.4"
    assert bad["python"].fatal
    assert bad["disk"].fatal
    assert not bad["memory"].fatal
    assert "--shm-size" in bad["shared memory"].way_out


def test_doctor_finds_a_taken_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "a test"})
        found = bad_things(doctor.examine(tmp_path))[f"port {port}"]
    assert (found.state, found.fatal) == ("taken", False)


@pytest.mark.parametrize(("mode", "wrong"), [("token", False), (None, True)])
def test_doctor_reads_the_ray_auth_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str | None, wrong: bool):
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    else:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert ("ray auth" in bad_things(doctor.examine(tmp_path))) is wrong


# data check


def publish_run(folder: Path) -> Path:
    """A run folder with a dataset of 20 products and its records, split by product."""
    creatives = [(f"p{i:02d}-{c}", f"p{i:02d}", f"h{i:02d}{c}") for i in range(20) for c in "12"]
    rows = [
        {
            "creative_id": name, "market": market, "kind": "counts", "impressions": 10_000, "clicks": 100 + 7 * n,
            "period_start": dt.date(2026, 1, 1), "period_end": dt.date(2026, 1, 28), "source": "test",
        }
        for n, (name, _, _) in enumerate(creatives)
        for market in ("BR", "KR")
    ]  # fmt: skip
    products = pd.DataFrame({"product_id": [f"p{i:02d}" for i in range(20)], "title": "mug"})
    frames = {
        "products": (products, tables.PRODUCTS),
        "creatives": (pd.DataFrame(creatives, columns=["creative_id", "product_id", "content_hash"]), tables.CREATIVES),
        "observations": (observations(rows), tables.OBSERVATIONS),
    }
    counts = {"input": 42, "kept": 40, "dropped": 0, "quarantined": 2, "quarantined_by_reason": {"missing_image": 2}}
    with publish(folder / "dataset", kind="dataset") as draft:
        for name, (frame, schema) in frames.items():
            for column in schema.names:
                if column not in frame:
                    frame[column] = "0" * 16 if column == "perceptual_hash" else None
            pq.write_table(
                pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False),
                draft.path / f"{name}.parquet",
            )
        draft.counts["creatives"] = counts
    dataset = Dataset.read(folder / "dataset")
    with publish(folder / "records", kind="records") as draft:
        records = build_records(dataset, RecordsConfig())
        records.write(draft.path)
        draft.counts |= {**records.counts, "facts": check(dataset, records)}
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("part", ["", "dataset", "records"])
def test_data_check_of_a_run_a_dataset_and_records(run_folder: Path, capsys: pytest.CaptureFixture[str], part: str):
    cli.main(["data", "check", str(run_folder / part)])
    said = capsys.readouterr().out
    assert "pairs x markets   40 = 40 records + 0 dropped + 0 quarantined" in said
    assert "discordant share  0.0 % of country pairs have different winners" in said
    assert "noise ceiling" in said
    assert "detectable effect" in said
    assert ("creatives         42 = 40 kept + 0 dropped + 2 quarantined" in said) is (part != "records")
    assert ("  quarantined     2 missing_image" in said) is (part != "records")
    assert ("derived with the default options" in said) is (part == "dataset")


def test_data_check_of_a_wrong_folder(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = failure(["data", "check", str(tmp_path)], capsys)
    assert line.startswith(f"error: dataset: no manifest.json in {tmp_path}")
    line = failure(["data", "check", str(tmp_path / "absent")], capsys)
    assert "absent" in line
    with publish(tmp_path / "other", kind="report"):
        pass
    line = failure(["data", "check", str(tmp_path / "other")], capsys)
    assert "holds a 'report' artifact" in line


@pytest.mark.parametrize("content", ["{", "[]", "", '{"kind": "dataset"}'])
def test_data_check_of_a_damaged_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str):
    (tmp_path / "manifest.json").write_text(content)
    assert "manifest.json is damaged" in failure(["data", "check", str(tmp_path)], capsys)


def test_data_check_of_an_altered_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = publish_run(tmp_path)
    with open(folder / "dataset" / "products.parquet", "ab") as file:
        file.write(b"!")
    line = failure(["data", "check", str(folder / "dataset")], capsys)
    assert "products.parquet does not match its SHA-256" in line


# kb show


@pytest.fixture
def base_folder(hand_world, tmp_path: Path) -> Path:
    """Two products with two ads each; in Korea a-1 and b-1 won, in Brazil only product a was shown."""
    one, two = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    clicks = {("a-1", "KR"): 300, ("a-2", "KR"): 100, ("b-1", "KR"): 500, ("b-2", "KR"): 100}
    clicks |= {("a-1", "BR"): 100, ("a-2", "BR"): 200}
    rows = [
        {
            "creative_id": name, "market": market, "kind": "counts", "impressions": 10_000, "clicks": count,
            "period_start": dt.date(2026, 1, 1), "period_end": dt.date(2026, 1, 28),
        }
        for (name, market), count in clicks.items()
    ]  # fmt: skip
    hand_world(
        products=["a", "b"],
        creatives=[("a-1", "a"), ("a-2", "a"), ("b-1", "b"), ("b-2", "b")],
        rows=rows,
        text={"a": one, "b": two},
        image={"a-1": one, "a-2": two, "b-1": one, "b-2": two},
    )
    return tmp_path / "hand" / "base"


def test_kb_show_lists_the_markets(base_folder: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["kb", "show", str(base_folder)])
    lines = capsys.readouterr().out.splitlines()
    version = json.loads((base_folder / "manifest.json").read_text())["version"]
    assert lines[0].startswith(f"knowledge base    version {version}, run ")
    assert [" ".join(line.split()) for line in lines[-2:]] == ["BR Brazil 2 past ads", "KR South Korea 4 past ads"]


@pytest.mark.parametrize("market", ["KR", "kr", "South Korea"])
def test_kb_show_of_one_market_ranks_by_lift(base_folder: Path, capsys: pytest.CaptureFixture[str], market: str):
    cli.main(["kb", "show", str(base_folder), "--market", market, "--top", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert "South Korea: 4 past ads of 2 products" in lines
    high, low = lines.index("highest lift"), lines.index("lowest lift")
    assert [line.split()[3] for line in lines[high + 1 : low]] == ["b-1", "a-1"]
    assert [line.split()[3] for line in lines[low + 1 :]] == ["b-2", "a-2"]
    assert lines[high + 1].split()[2] == "0.05"


def test_kb_show_of_a_market_that_is_not_there(base_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert "'Atlantis' is no country" in failure(["kb", "show", str(base_folder), "--market", "Atlantis"], capsys)
    assert failure(["kb", "show", str(base_folder), "--market", "IS"], capsys).endswith("it has BR, KR")


def test_kb_show_of_a_wrong_folder(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "no manifest.json in" in failure(["kb", "show", str(tmp_path)], capsys)
    assert "holds a 'dataset' artifact" in failure(["kb", "show", str(run_folder / "dataset")], capsys)


def test_a_command_whose_library_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delitem(sys.modules, "countryreward.cli_commands.doctor")
    monkeypatch.setitem(sys.modules, "psutil", None)
    line = "error: psutil is not installed; pip install 'countryreward[cpu]' (or [gpu])"
    assert failure(["doctor"], capsys) == line
