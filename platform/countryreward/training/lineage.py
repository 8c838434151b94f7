"""From an id to all that stands behind it: pair -> model -> training -> trial -> knowledge base, by what each folder stores.

Nothing is copied from stage to stage for this. Manifests name their inputs' versions and runs; pairs and cases the versions of
their writer and judges (`made_by`); a training is found by the hash of the weights it left, a sweep by the name of its trial.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import MANIFEST, Manifest, read_manifest
from countryreward.errors import UserError
from countryreward.training.run_folder import STARTED, read_json
from countryreward.training.run_list import STORED, is_training

_MADE_OF = re.compile(r"[0-9a-f]{16}")
_SHORT = re.compile(r"[0-9a-f]{8,}")
_KEYED = ("pairs", "cases")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What something was made from, as it says itself."""

    name: str
    """Such as dataset, reward, training, trial of."""
    version: str
    run_id: str = ""
    """Empty: it names the version alone."""


@dataclass(kw_only=True)
class Made:
    """One artifact or training below the folder."""

    path: str
    """Below the folder that was searched."""
    kind: str
    version: str
    """Of a training the name of its run folder."""
    run_ids: list[str]
    """Of the commands that wrote it: a training that was gone on with has several."""
    when: str = ""
    """UTC."""
    made_from: list[Source] = field(default_factory=list)
    weights: frozenset[str] = frozenset()
    """SHA-256 of its weight files."""
    trials: tuple[str, ...] = ()
    """Of a sweep: the names of its trials."""


class Lineage:
    """Everything below a folder, earlier versions that are still there included. Raises `UserError` where there is none."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"runs: {root} is no folder; give the one that jobs write to, such as runs")
        self.root = root
        ordered = sorted(_found(root, _links(root)), key=_rank)  # of equals the first
        self.all = list({(one.kind, one.version, *one.run_ids): one for one in reversed(ordered)}.values())[::-1]
        for one in self.all:
            one.made_from += self._trained_by(one)

    def ask(self, asked: str) -> list[Made]:
        """What an id names: a run, a version (of a verdict, a pair, a manifest; 8 digits are enough), a training or trial, the
        key of a pair or case. Raises `UserError` where nothing is named so."""
        words = asked.strip()
        found = [one for one in self.all if words in (one.version, *one.run_ids)]
        if not found and (version := _MADE_OF.match(words)):  # a writer's: its version and its sampling's
            found = [one for one in self.all if one.version == version.group()]
        if not found and _SHORT.fullmatch(words):
            found = [one for one in self.all if one.version.startswith(words)]
        if not found:
            found = [one for one in self.all if one.kind in _KEYED and self._has_key(one, words)]
        if not found:
            raise UserError(
                f"lineage: nothing below {self.root} has the id {words!r}; give a run id, a version of a verdict, a pair or a "
                "manifest, the name of a training, or the key of a pair"
            )
        return found

    def source(self, told: Source) -> Made | None:
        """The thing itself, of the very run where that is told and still there."""
        same = [one for one in self.all if one.version == told.version]
        return next((one for one in same if told.run_id in one.run_ids), same[0] if same else None)

    def behind(self, found: Iterable[Made]) -> list[Made]:
        """These and everything that they were made from, each once."""
        seen: list[Made] = []
        ahead = list(found)
        while ahead:
            one = ahead.pop(0)
            if one not in seen:
                seen.append(one)
                ahead += [source for told in one.made_from if (source := self.source(told)) is not None]
        return seen

    def tops(self, found: list[Made]) -> list[Made]:
        """Those from which no other one of them was made."""
        behind = [self.behind([one])[1:] for one in found]
        return [one for one in found if not any(one in sources for sources in behind)]

    def went_into(self, made: Made) -> list[Made]:
        """What was made from it."""
        return [one for one in self.all if any(self.source(told) is made for told in one.made_from)]

    def tree(self, top: Made) -> Iterator[str]:
        """Lines for people: what it was made from below it, indented; what was said already once more by its name alone."""
        yield from self._lines(top, "", 0, set())

    def as_dict(self, found: list[Made]) -> dict[str, Any]:
        """JSON-able: what was found, and everything behind it by version, with what each was made from."""
        plain = [asdict(one) for one in self.behind(found)]
        for one in plain:
            del one["weights"]
        return {"found": [one.version for one in found], "all": plain}

    def _lines(self, one: Made, name: str, depth: int, said: set[str]) -> Iterator[str]:
        label = "  " * depth + (f"{name}: " if name not in ("", one.kind) else "")
        if one.path in said:
            yield f"{label}{one.kind} {one.version} (above)"
            return
        said.add(one.path)
        runs = ", ".join(one.run_ids) or "unknown"
        yield f"{label}{one.kind} {one.version}  run {runs}  {one.when}  {one.path}"
        for told in one.made_from:
            source = self.source(told)
            if source is None:
                run = f"  run {told.run_id}" if told.run_id else ""
                yield f"{'  ' * (depth + 1)}{told.name}: {told.version}{run}  not below {self.root}"
            else:
                yield from self._lines(source, told.name, depth + 1, said)

    def _trained_by(self, one: Made) -> list[Source]:
        """The training of a model or writer, and the sweep of a training."""
        if one.kind == "training":
            sweeps = [other for other in self.all if one.version in other.trials]
            return [Source(name="trial of", version=other.version) for other in sweeps[:1]]
        if not one.weights:
            return []
        runs = [other for other in self.all if other.kind == "training" and one.weights <= other.weights]
        return [Source(name="training", version=other.version) for other in runs[:1]]

    def _has_key(self, one: Made, key: str) -> bool:
        table = self.root / one.path / f"{one.kind}.parquet"
        if not table.is_file():
            return False
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        return bool(pc.any(pc.equal(pq.read_table(table, columns=["key"])["key"], key)).as_py())  # pyright: ignore[reportAttributeAccessIssue]


def _rank(one: Made) -> tuple[int, int, str]:
    """First what is published now, then earlier versions, last copies inside other artifacts."""
    return one.path.partition(STORED)[2].count("/"), one.path.count("/"), one.path


def _links(root: Path) -> dict[Path, str]:
    """Published folders -> the links that lead to them."""
    links: dict[Path, str] = {}
    for place, folders, _ in os.walk(root):
        links |= {
            (Path(place) / name).resolve(): str((Path(place) / name).relative_to(root))
            for name in folders
            if (Path(place) / name).is_symlink()
        }
    return links


def _found(root: Path, links: dict[Path, str]) -> Iterator[Made]:
    for place, folders, files in os.walk(root):
        folder = Path(place)
        path = links.get(folder.resolve(), str(folder.relative_to(root)))
        if MANIFEST in files:
            folders[:] = [name for name in folders if (folder / name / MANIFEST).is_file()]  # embedded ones
            try:
                yield _artifact(folder, path, read_manifest(folder))
            except UserError:  # damaged: `countryreward runs` says so
                continue
        elif is_training(folder):
            folders[:] = []
            yield _training(folder, path)
        else:
            folders[:] = [name for name in folders if not name.startswith(".") or name == STORED]


def _artifact(folder: Path, path: str, told: Manifest) -> Made:
    sources = [
        Source(name=name, version=source["version"], run_id=source["run_id"]) for name, source in told.inputs.items()
    ]
    trials = read_json(folder / "report.json").get("trials", []) if told.kind == "sweep" else []
    return Made(
        path=path,
        kind=told.kind,
        version=told.version,
        run_ids=[told.run_id],
        when=told.created[:19],
        made_from=sources + _makers(told.config),
        weights=_weights(told) if told.kind in ("model", "design_writer") else frozenset(),
        trials=tuple(trial["name"] for trial in trials if trial.get("name")),
    )


def _makers(config: dict[str, Any]) -> list[Source]:
    """Who wrote and who judged, of pairs and cases."""
    told = config.get("made_by")
    if not isinstance(told, dict):
        return []
    named = {"writer": told.get("writer")}
    for judge, versions in (told.get("judges") or {}).items():
        named |= {judge: versions.get("model"), f"{judge}'s knowledge base": versions.get("knowledge_base")}
    found = {name: _MADE_OF.match(version) for name, version in named.items() if isinstance(version, str)}
    return [Source(name=name, version=version.group()) for name, version in found.items() if version]


def _training(folder: Path, path: str) -> Made:
    manifests = []
    for place in (*sorted(folder.glob("checkpoints/step-*")), folder / "best", folder / "last"):
        try:
            manifests.append(read_manifest(place))
        except UserError:  # there is none, or it is damaged
            continue
    started = read_json(folder / STARTED)
    starts, identity = started.get("starts", []), started.get("identity", {})
    versions = {name: value for name, value in identity.items() if isinstance(value, str) and _MADE_OF.fullmatch(value)}
    return Made(
        path=path,
        kind="training",
        version=folder.name,
        run_ids=sorted({one.run_id for one in manifests} | {start["run_id"] for start in starts}),
        when=max([one.created[:19] for one in manifests] + [start["time"][:19] for start in starts], default=""),
        made_from=[Source(name=name, version=version) for name, version in sorted(versions.items())],
        weights=frozenset().union(*(_weights(one) for one in manifests if one.kind == "weights")),
    )


def _weights(told: Manifest) -> frozenset[str]:
    return frozenset(entry["sha256"] for name, entry in told.files.items() if name.endswith(".safetensors"))
