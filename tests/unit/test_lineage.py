"""`countryreward runs --lineage`: from a pair, a verdict or a run id to all that stands behind it."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from countryreward import command
from countryreward.cli import main
from countryreward.data.artifacts import Artifact, Draft, open_artifact, publish, seal
from countryreward.errors import UserError
from countryreward.on_ray.session import _untold_run
from countryreward.training.lineage import Entry, Lineage


def made(path: Path, kind: str, inputs: dict[str, Artifact] | None = None, run: str = "", **options: Any) -> Artifact:
    """A published folder with one file, written in a run of its own."""
    files: dict[str, bytes] = {"content": f"{kind}{path}".encode(), **options.pop("files", {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(command.RUN_ID, run or f"run-{kind}")
        with publish(path, kind=kind, inputs=inputs, config=options) as draft:
            for name, data in files.items():
                (draft.path / name).write_bytes(data)
    return open_artifact(path, kind=kind)


def trained(folder: Path, weights: bytes, inputs: dict[str, Artifact], run: str) -> Path:
    """A finished run folder."""
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "model.safetensors").write_bytes(weights)
    seal(Draft(folder / "best"), kind="weights", run_id=run)
    (folder / "log.jsonl").touch()
    identity = {name: one.manifest.version for name, one in inputs.items()} | {"preset": "tiny"}
    (folder / "started.json").write_text(json.dumps({"identity": identity}))
    return folder


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Artifact]:
    """Dataset, knowledge base, a sweep whose best trial became the model, pairs that the model judged, a writer made of them."""
    dataset = made(tmp_path / "dataset", "dataset")
    base = made(tmp_path / "knowledge_base", "knowledge_base", {"dataset": dataset})
    inputs = {"dataset": dataset, "knowledge_base": base}
    report = json.dumps({"trials": [{"name": ""}, {"name": "aaaaaaaaaaaa"}, {"name": "bbbbbbbbbbbb"}]}).encode()
    sweep = made(tmp_path / "sweep", "sweep", inputs, files={"report.json": report})
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        trained(tmp_path / "sweeps" / "s1" / "trials" / name, name.encode(), inputs, "run-sweep")
    model = made(tmp_path / "model", "model", inputs, files={"model.safetensors": b"bbbbbbbbbbbb"})
    writer = made(tmp_path / "designer", "design_writer", {"dataset": dataset})
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"key": ["0123456789abcdef0123456789abcdef"]}), table)
    versions = {"model": model.manifest.version, "knowledge_base": base.manifest.version}
    pairs = made(
        tmp_path / "pairs",
        "pairs",
        {"dataset": dataset},
        files={"pairs.parquet": table.read_bytes()},
        made_by={"writer": f"{writer.manifest.version}-01234567", "judges": {"reward": versions}},
    )
    return {"base": base, "sweep": sweep, "model": model, "pairs": pairs, "writer": writer}


def kinds(found: list[Entry]) -> list[str]:
    return [one.kind for one in found]


def test_from_the_key_of_a_pair_to_the_run_of_everything(chain: dict[str, Artifact], tmp_path: Path) -> None:
    lineage = Lineage(tmp_path)
    (pairs,) = lineage.find("0123456789abcdef0123456789abcdef")
    assert (pairs.version, pairs.run_ids) == (chain["pairs"].manifest.version, ["run-pairs"])
    (model,) = [one for one in lineage.behind([pairs]) if one.kind == "model"]
    assert {one.name: one.version for one in model.made_from}["training"] == "bbbbbbbbbbbb"
    behind = {one.kind: one for one in lineage.behind([model])}
    assert {kind: one.run_ids for kind, one in behind.items()} == {
        "model": ["run-model"],
        "dataset": ["run-dataset"],
        "knowledge_base": ["run-knowledge_base"],
        "training": ["run-sweep"],
        "sweep": ["run-sweep"],
    }
    assert behind["training"].path == "sweeps/s1/trials/bbbbbbbbbbbb"
    assert behind["sweep"].version == chain["sweep"].manifest.version


def test_what_stands_in_a_verdict_or_a_pair_is_enough(chain: dict[str, Artifact], tmp_path: Path) -> None:
    lineage = Lineage(tmp_path)
    model, base = chain["model"].manifest.version, chain["base"].manifest.version
    assert kinds(lineage.find(model)) == ["model"]
    assert kinds(lineage.find(f" {model[:8]}\n")) == ["model"]
    assert kinds(lineage.find(base)) == ["knowledge_base"]
    assert kinds(lineage.find(f"{chain['writer'].manifest.version}-01234567")) == ["design_writer"]
    assert kinds(lineage.find("bbbbbbbbbbbb")) == ["training"]
    assert sorted(kinds(lineage.went_into(lineage.find(model)[0]))) == ["pairs"]
    assert sorted(kinds(lineage.went_into(lineage.find(base)[0]))) == [
        "model",
        "pairs",
        "sweep",
        "training",
        "training",
    ]


def test_a_run_id_names_all_that_the_run_wrote(chain: dict[str, Artifact], tmp_path: Path) -> None:
    lineage = Lineage(tmp_path)
    found = lineage.find("run-sweep")
    assert sorted(kinds(found)) == ["sweep", "training", "training"]
    assert kinds(lineage.tops(found)) == ["training", "training"]


def test_a_training_without_weights_still_knows_its_runs(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "cccccccccccc"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").touch()
    starts = [{"time": f"2026-01-01T0{hour}:00:00+00:00", "run_id": f"run-{hour}", "workers": 1} for hour in (1, 2)]
    (folder / "started.json").write_text(json.dumps({"identity": {"dataset": "0123456789abcdef"}, "starts": starts}))
    (found,) = Lineage(tmp_path).find("run-2")
    assert (found.kind, found.version, found.run_ids) == ("training", "cccccccccccc", ["run-1", "run-2"])
    assert [(one.name, one.version) for one in found.made_from] == [("dataset", "0123456789abcdef")]


def test_an_earlier_version_is_found_and_the_current_one_is_not_taken_for_it(
    chain: dict[str, Artifact], tmp_path: Path
) -> None:
    old = chain["model"].manifest.version
    made(tmp_path / "model", "model", run="run-later", files={"model.safetensors": b"other"})
    (found,) = Lineage(tmp_path).find(old)
    assert (found.path, found.run_ids) == (".versions/model/run-model", ["run-model"])


def test_of_two_runs_with_the_same_content_the_one_that_was_used(tmp_path: Path) -> None:
    """The same bytes have the same version, whoever wrote them."""
    places = [tmp_path / name / "dataset" for name in ("a", "b")]
    for place in places:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(command.RUN_ID, f"run-{place.parent.name}")
            with publish(place, kind="dataset") as draft:
                (draft.path / "same").touch()
    made(tmp_path / "records", "records", {"dataset": open_artifact(places[1], kind="dataset")})
    lineage = Lineage(tmp_path)
    (records,) = lineage.find("run-records")
    assert [one.run_ids for one in lineage.behind([records])] == [["run-records"], ["run-b"]]


def test_what_is_gone_is_named_with_its_run(chain: dict[str, Artifact], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    made(tmp_path / "elsewhere" / "report", "report", {"model": chain["model"]})
    lineage = Lineage(tmp_path / "elsewhere")
    text = "\n".join(lineage.tree(lineage.find("run-report")[0]))
    assert f"model: {chain['model'].manifest.version}  run run-model  not below {tmp_path / 'elsewhere'}" in text


def test_a_model_that_was_carried_elsewhere_has_its_knowledge_base_with_it(
    chain: dict[str, Artifact], tmp_path: Path
) -> None:
    alone = tmp_path / "elsewhere" / "model"
    shutil.copytree(chain["model"].path, alone)
    shutil.copytree(chain["base"].path, alone / "knowledge_base")
    lineage = Lineage(alone)
    assert lineage.find("run-knowledge_base")[0].path == "knowledge_base"
    assert kinds(lineage.behind(lineage.find("run-model"))) == ["model", "knowledge_base"]
    whole = Lineage(tmp_path)
    assert whole.find("run-knowledge_base")[0].path == "knowledge_base"
    assert [one.path for one in whole.find("run-model")] == ["model"]


def test_a_training_under_way_is_known_by_its_start_and_its_checkpoints(tmp_path: Path) -> None:
    dataset = made(tmp_path / "dataset", "dataset")
    step = tmp_path / "training" / "cccccccccccc" / "checkpoints" / "step-00000010"
    step.mkdir(parents=True)
    (tmp_path / "training" / "cccccccccccc" / "log.jsonl").touch()
    (step / "rank-0000.pt").touch()
    told = {"identity": {"dataset": dataset.manifest.version, "preset": "tiny"}, "starts": []}
    (tmp_path / "training" / "cccccccccccc" / "started.json").write_text(json.dumps(told))
    seal(Draft(step), kind="checkpoint", run_id="run-now")
    lineage = Lineage(tmp_path)
    assert kinds(lineage.behind(lineage.find("run-now"))) == ["training", "dataset"]


def test_as_a_command(chain: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", str(tmp_path), "--lineage", chain["model"].manifest.version])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"model {chain['model'].manifest.version}  run run-model  ")
    assert said[-1] == f"  went into: pairs {chain['pairs'].manifest.version}"
    version = chain["sweep"].manifest.version
    assert any(line.startswith(f"    trial of: sweep {version}  run run-sweep  ") for line in said)
    main(["runs", str(tmp_path), "--lineage", "run-model", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["found"] == [chain["model"].manifest.version]
    assert sorted(one["kind"] for one in told["all"]) == ["dataset", "knowledge_base", "model", "sweep", "training"]
    with pytest.raises(SystemExit) as ended:
        main(["runs", str(tmp_path), "--lineage", "0000000000000000"])
    assert ended.value.code == 2
    assert "nothing below" in capsys.readouterr().err


def test_one_id_for_all_that_a_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command.RUN_ID, raising=False)
    with command.one_run() as run:
        for kind in ("dataset", "records"):
            with publish(tmp_path / kind, kind=kind) as draft:
                (draft.path / "a").touch()
    assert {open_artifact(tmp_path / kind, kind=kind).manifest.run_id for kind in ("dataset", "records")} == {run}
    with command.one_run() as another:
        assert another != run


@dataclass(kw_only=True)
class NoOptions:
    """A job without options."""


def test_a_job_has_one_id_for_all_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command.RUN_ID, raising=False)
    seen: list[str] = []
    command.run(NoOptions, lambda _: seen.extend(command.run_id() for _ in range(2)), [])
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert command.RUN_ID not in os.environ


def test_the_id_of_a_submitted_job_is_its_submission_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command.RUN_ID, raising=False)
    monkeypatch.setenv(command.SUBMITTED, json.dumps({"metadata": {"job_submission_id": "raysubmit_x1"}}))
    assert command.run_id() == "raysubmit_x1"
    monkeypatch.setenv(command.SUBMITTED, json.dumps({"metadata": {"job_submission_id": "a/../b"}}))
    assert "/" not in command.run_id()
    monkeypatch.setenv(command.RUN_ID, "mine")
    assert command.run_id() == "mine"
    monkeypatch.setenv(command.RUN_ID, "../mine")
    with pytest.raises(UserError, match=r"COUNTRYREWARD_RUN_ID: '\.\./mine'; write up to 100"):
        command.run_id()


def test_nodes_of_a_cluster_are_told_the_run_unless_the_submission_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command.RUN_ID, "mine")
    monkeypatch.delenv(command.SUBMITTED, raising=False)
    assert _untold_run() == "mine"
    monkeypatch.setenv(command.SUBMITTED, json.dumps({"runtime_env": {"env_vars": {"A": "b"}}}))
    assert _untold_run() == "mine"
    monkeypatch.setenv(command.SUBMITTED, json.dumps({"runtime_env": {"env_vars": {command.RUN_ID: "mine"}}}))
    assert _untold_run() == ""  # Ray refuses a variable that both name
