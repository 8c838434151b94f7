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
from countryreward.data.file_primitives import read_json
from countryreward.errors import UserError
from countryreward.training.run_folder import STARTED
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
class Entry:
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
        ordered = sorted(_entries(root, _links(root)), key=_rank)  # of equals the first
        self.all = list({(entry.kind, entry.version, *entry.run_ids): entry for entry in reversed(ordered)}.values())[
            ::-1
        ]
        for entry in self.all:
            entry.made_from += self._trained_by(entry)

    def find(self, identifier: str) -> list[Entry]:
        """What an id names: a run, a version (of a verdict, a pair, a manifest; 8 digits are enough), a training or trial, the
        key of a pair or case. Raises `UserError` where nothing is named so."""
        name = identifier.strip()
        entries = [entry for entry in self.all if name in (entry.version, *entry.run_ids)]
        if not entries and (version := _MADE_OF.match(name)):  # a writer's: its version and its sampling's
            entries = [entry for entry in self.all if entry.version == version.group()]
        if not entries and _SHORT.fullmatch(name):
            entries = [entry for entry in self.all if entry.version.startswith(name)]
        if not entries:
            entries = [entry for entry in self.all if entry.kind in _KEYED and self._has_key(entry, name)]
        if not entries:
            raise UserError(
                f"lineage: nothing below {self.root} has the id {name!r}; give a run id, a version of a verdict, a pair or a "
                "manifest, the name of a training, or the key of a pair"
            )
        return entries

    def source(self, named: Source) -> Entry | None:
        """The thing itself, of the very run where that is told and still there."""
        same = [entry for entry in self.all if entry.version == named.version]
        return next((entry for entry in same if named.run_id in entry.run_ids), same[0] if same else None)

    def behind(self, entries: Iterable[Entry]) -> list[Entry]:
        """These and everything that they were made from, each once."""
        seen: list[Entry] = []
        ahead = list(entries)
        while ahead:
            entry = ahead.pop(0)
            if entry not in seen:
                seen.append(entry)
                ahead += [source for named in entry.made_from if (source := self.source(named)) is not None]
        return seen

    def tops(self, entries: list[Entry]) -> list[Entry]:
        """Those from which no other one of them was made."""
        behind = [self.behind([entry])[1:] for entry in entries]
        return [entry for entry in entries if not any(entry in sources for sources in behind)]

    def went_into(self, source: Entry) -> list[Entry]:
        """What was made from it."""
        return [entry for entry in self.all if any(self.source(named) is source for named in entry.made_from)]

    def tree(self, top: Entry) -> Iterator[str]:
        """Lines for people: what it was made from below it, indented; what was said already once more by its name alone."""
        yield from self._lines(top, "", 0, set())

    def as_dict(self, entries: list[Entry]) -> dict[str, Any]:
        """JSON-able: what was found, and everything behind it by version, with what each was made from."""
        plain = [asdict(entry) for entry in self.behind(entries)]
        for entry in plain:
            del entry["weights"]
        return {"found": [entry.version for entry in entries], "all": plain}

    def _lines(self, entry: Entry, name: str, depth: int, shown: set[str]) -> Iterator[str]:
        label = "  " * depth + (f"{name}: " if name not in ("", entry.kind) else "")
        if entry.path in shown:
            yield f"{label}{entry.kind} {entry.version} (above)"
            return
        shown.add(entry.path)
        runs = ", ".join(entry.run_ids) or "unknown"
        yield f"{label}{entry.kind} {entry.version}  run {runs}  {entry.when}  {entry.path}"
        for named in entry.made_from:
            source = self.source(named)
            if source is None:
                run = f"  run {named.run_id}" if named.run_id else ""
                yield f"{'  ' * (depth + 1)}{named.name}: {named.version}{run}  not below {self.root}"
            else:
                yield from self._lines(source, named.name, depth + 1, shown)

    def _trained_by(self, entry: Entry) -> list[Source]:
        """The training of a model or writer, and the sweep of a training."""
        if entry.kind == "training":
            sweeps = [other for other in self.all if entry.version in other.trials]
            return [Source(name="trial of", version=other.version) for other in sweeps[:1]]
        if not entry.weights:
            return []
        runs = [other for other in self.all if other.kind == "training" and entry.weights <= other.weights]
        return [Source(name="training", version=other.version) for other in runs[:1]]

    def _has_key(self, entry: Entry, key: str) -> bool:
        table = self.root / entry.path / f"{entry.kind}.parquet"
        if not table.is_file():
            return False
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        return bool(pc.any(pc.equal(pq.read_table(table, columns=["key"])["key"], key)).as_py())  # pyright: ignore[reportAttributeAccessIssue]


def _rank(entry: Entry) -> tuple[int, int, str]:
    """First what is published now, then earlier versions, last copies inside other artifacts."""
    return entry.path.partition(STORED)[2].count("/"), entry.path.count("/"), entry.path


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


def _entries(root: Path, links: dict[Path, str]) -> Iterator[Entry]:
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


def _artifact(folder: Path, path: str, manifest: Manifest) -> Entry:
    sources = [
        Source(name=name, version=source["version"], run_id=source["run_id"])
        for name, source in manifest.inputs.items()
    ]
    trials = read_json(folder / "report.json").get("trials", []) if manifest.kind == "sweep" else []
    return Entry(
        path=path,
        kind=manifest.kind,
        version=manifest.version,
        run_ids=[manifest.run_id],
        when=manifest.created[:19],
        made_from=sources + _makers(manifest.config),
        weights=_weights(manifest) if manifest.kind in ("model", "design_writer") else frozenset(),
        trials=tuple(trial["name"] for trial in trials if trial.get("name")),
    )


def _makers(config: dict[str, Any]) -> list[Source]:
    """Who wrote and who judged, of pairs and cases."""
    made_by = config.get("made_by")
    if not isinstance(made_by, dict):
        return []
    named = {"writer": made_by.get("writer")}
    for judge, versions in (made_by.get("judges") or {}).items():
        named |= {judge: versions.get("model"), f"{judge}'s knowledge base": versions.get("knowledge_base")}
    versions_by_name = {name: _MADE_OF.match(version) for name, version in named.items() if isinstance(version, str)}
    return [Source(name=name, version=version.group()) for name, version in versions_by_name.items() if version]


def _training(folder: Path, path: str) -> Entry:
    manifests = []
    for place in (*sorted(folder.glob("checkpoints/step-*")), folder / "best", folder / "last"):
        try:
            manifests.append(read_manifest(place))
        except UserError:  # there is none, or it is damaged
            continue
    started = read_json(folder / STARTED)
    starts, identity = started.get("starts", []), started.get("identity", {})
    versions = {name: value for name, value in identity.items() if isinstance(value, str) and _MADE_OF.fullmatch(value)}
    return Entry(
        path=path,
        kind="training",
        version=folder.name,
        run_ids=sorted({manifest.run_id for manifest in manifests} | {start["run_id"] for start in starts}),
        when=max(
            [manifest.created[:19] for manifest in manifests] + [start["time"][:19] for start in starts], default=""
        ),
        made_from=[Source(name=name, version=version) for name, version in sorted(versions.items())],
        weights=frozenset().union(*(_weights(manifest) for manifest in manifests if manifest.kind == "weights")),
    )


def _weights(manifest: Manifest) -> frozenset[str]:
    return frozenset(entry["sha256"] for name, entry in manifest.files.items() if name.endswith(".safetensors"))
