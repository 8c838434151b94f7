"""Publishing is all or nothing, and what was altered is refused by name."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from countryreward.data import artifacts
from countryreward.errors import UserError


def publish_text(path: Path, text: str, **options) -> None:
    with artifacts.publish(path, kind="records", **options) as draft:
        (draft.path / "data.txt").write_text(text)
        draft.counts["input"] = 1


def read_text(path: Path) -> str:
    return (artifacts.open_artifact(path, kind="records").path / "data.txt").read_text()


def test_publish_open_and_replace(tmp_path: Path):
    publish_text(tmp_path / "a", "one")
    first = artifacts.open_artifact(tmp_path / "a", kind="records")
    publish_text(tmp_path / "a", "two")
    assert read_text(tmp_path / "a") == "two"
    assert (first.path / "data.txt").read_text() == "one"  # a reader that had it open keeps it
    publish_text(tmp_path / "a", "three")
    assert not first.path.exists()  # one earlier version is kept, not every one


def test_the_same_content_has_the_same_version(tmp_path: Path):
    for name in ("a", "b"):
        publish_text(tmp_path / name, "same")
    a, b = (artifacts.open_artifact(tmp_path / name, kind="records") for name in ("a", "b"))
    assert a.manifest.version == b.manifest.version
    publish_text(tmp_path / "b", "other")
    assert artifacts.open_artifact(tmp_path / "b", kind="records").manifest.version != a.manifest.version


def test_an_exception_inside_publishes_nothing(tmp_path: Path):
    publish_text(tmp_path / "a", "old")

    def fail() -> None:
        with artifacts.publish(tmp_path / "a", kind="records") as draft:
            (draft.path / "data.txt").write_text("new")
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail()
    assert read_text(tmp_path / "a") == "old"
    assert not list((tmp_path / ".versions" / "a").glob(".tmp-*"))


STEPS = [
    "the link",
    "write_atomically",
    "sync_folder",
    "seal",
    "_point",
    "_keep_one_earlier",
    "os.rename",
    "os.replace",
]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_of_a_publish_the_old_or_the_new_version_is_whole(tmp_path: Path, step: str):
    """kill -9 at the start and at the end of every step of the second publish."""
    for when in ("before", "after"):
        path = tmp_path / f"{step}-{when}"
        publish_text(path, "old")
        script = f"""
            import os, signal
            from countryreward.data import artifacts
            step = {step!r}
            owner, name = (os, step.split(".")[-1]) if "." in step else (artifacts, step)
            if step == "the link":  # os.replace again, but only the one that moves the published link
                owner, name = os, "replace"
            original = getattr(owner, name)
            def deadly(*arguments, **options):
                if step == "the link" and str(arguments[1]) != {str(path)!r}:
                    return original(*arguments, **options)
                if {when!r} == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                original(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            setattr(owner, name, deadly)
            with artifacts.publish({str(path)!r}, kind="records") as draft:
                (draft.path / "data.txt").write_text("new")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], env=os.environ, capture_output=True, timeout=60
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert read_text(path) in ("old", "new")
        publish_text(path, "newer")  # and the next publish works and cleans up
        assert read_text(path) == "newer"
        assert not list((path.parent / ".versions" / path.name).glob(".tmp-*"))


def test_every_single_altered_byte_is_refused_by_name(tmp_path: Path):
    publish_text(tmp_path / "a", "0123456789")
    folder = artifacts.open_artifact(tmp_path / "a", kind="records").path
    for position in range(10):
        data = bytearray((folder / "data.txt").read_bytes())
        data[position] ^= 1
        (folder / "data.txt").write_bytes(data)
        with pytest.raises(UserError, match=r"data\.txt does not match its SHA-256"):
            artifacts.open_artifact(tmp_path / "a", kind="records")
        data[position] ^= 1
        (folder / "data.txt").write_bytes(data)
    assert read_text(tmp_path / "a") == "0123456789"
    (folder / "data.txt").unlink()
    with pytest.raises(UserError, match=r"data\.txt is missing"):
        artifacts.open_artifact(tmp_path / "a", kind="records")


def test_wrong_kind_schema_and_damage_are_named(tmp_path: Path):
    publish_text(tmp_path / "a", "x")
    with pytest.raises(UserError, match="holds a 'records' artifact"):
        artifacts.open_artifact(tmp_path / "a", kind="priors")
    with pytest.raises(UserError, match="schema version 1, this program reads 2"):
        artifacts.open_artifact(tmp_path / "a", kind="records", schema_version=2)
    with pytest.raises(UserError, match=r"no manifest\.json"):
        artifacts.open_artifact(tmp_path / "absent", kind="records")
    (tmp_path / "a" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        artifacts.open_artifact(tmp_path / "a", kind="records")


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not an artifact of ours"):
        publish_text(tmp_path / "mine", "x")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_lineage_and_resume(tmp_path: Path):
    publish_text(tmp_path / "in", "input")
    source = artifacts.open_artifact(tmp_path / "in", kind="records")
    publish_text(tmp_path / "out", "x", inputs={"source": source}, config={"k": 1})
    lineage = json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]["source"]
    assert lineage["version"] == source.manifest.version
    assert lineage["manifest_sha256"] == artifacts.sha256_file(source.path / "manifest.json")

    def current(config: dict, inputs: dict) -> bool:
        return artifacts.current(tmp_path / "out", kind="records", inputs=inputs, config=config) is not None

    assert current({"k": 1}, {"source": source})
    assert not current({"k": 2}, {"source": source})
    assert not current({"k": 1}, {})
    publish_text(tmp_path / "in", "changed")
    assert not current({"k": 1}, {"source": artifacts.open_artifact(tmp_path / "in", kind="records")})


def test_a_link_of_somebody_else_is_never_replaced(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="not an artifact of ours"):
        publish_text(tmp_path / "link", "x")
    assert (tmp_path / "link").resolve() == tmp_path / "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        publish_text(tmp_path / "file" / "out", "x")
