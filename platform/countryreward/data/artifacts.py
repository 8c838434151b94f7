"""Artifacts: every arrow between two stages is a folder that is either whole or not there.

Layout of an artifact published at `runs/demo/records`:

    runs/demo/records            -> .versions/records/<run id>     a symbolic link, replaced in one atomic step
    runs/demo/.versions/records/<run id>/manifest.json, records.parquet, ...

Order of a publish: write the files, fsync each, hash each, write and fsync the manifest and its own hash (`manifest.sha256`,
as `sha256sum -c` reads it), fsync the folders, rename the folder to its final name, replace the link. Killed at any point, the
link still leads to the old whole version; what the killed process left is removed by the next publish. One earlier version is
kept for readers that still have it open.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from countryreward import command, markets
from countryreward.data.file_primitives import sync_folder, temporary_path, write_atomically
from countryreward.data.market_table import MARKET_TABLE, read_market_table, write_market_table
from countryreward.errors import UserError

MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
_TRACKED_LIBRARIES = ("countryreward", "numpy", "pyarrow", "pandas", "opencv-python-headless", "pillow", "ray")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact says of itself (`manifest.json`)."""

    kind: str
    """Which contract the folder fulfils: dataset, records, knowledge_base, priors, report, marketplace."""
    schema_version: int
    """Raised when a reader of the older layout would misread the folder."""
    run_id: str
    """The run that wrote it."""
    version: str
    """16 hex digits of a SHA-256 over kind, schema version and files: the same content has the same version."""
    created: str
    """UTC time, ISO 8601."""
    inputs: dict[str, dict[str, str]]
    """Lineage: name of the input -> its kind, version, run_id and the SHA-256 of its manifest."""
    config: dict[str, Any]
    """Every option that shaped the content."""
    counts: dict[str, Any]
    """Row counts; at every stage input = kept + dropped + quarantined."""
    files: dict[str, dict[str, Any]]
    """Relative path -> {sha256, bytes}."""
    versions: dict[str, str]
    """Library versions that wrote it."""
    seconds: float
    """Wall time from the start of the publish to its manifest."""


@dataclass(frozen=True)
class Artifact:
    """A published folder that has been opened: `path` is the resolved version folder, so a later publish cannot move it."""

    path: Path
    manifest: Manifest

    def reference(self) -> dict[str, str]:
        """The lineage entry other manifests store about this artifact."""
        return {
            "kind": self.manifest.kind,
            "version": self.manifest.version,
            "run_id": self.manifest.run_id,
            "manifest_sha256": sha256_file(self.path / MANIFEST),
        }


@dataclass
class Draft:
    """An artifact being written: put files under `path`, fill `counts`."""

    path: Path
    counts: dict[str, Any] = field(default_factory=dict)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def as_plain(value: Any) -> Any:
    """Configs, alone or inside containers, as JSON-able values, for manifests and fingerprints."""

    def plain(inner: Any) -> Any:
        return asdict(inner) if is_dataclass(inner) and not isinstance(inner, type) else str(inner)

    return json.loads(json.dumps(value, default=plain, sort_keys=True))


@contextlib.contextmanager
def publish(
    destination: str | Path,
    *,
    kind: str,
    schema_version: int = 1,
    inputs: Mapping[str, Artifact] | None = None,
    config: Any = None,
) -> Iterator[Draft]:
    """Publish a folder atomically: `with publish("runs/demo/records", kind="records") as draft: ...`.

    Markets that are no countries are carried on from `inputs`. An exception inside the block publishes nothing. Raises
    `UserError` when `destination` exists and is not an artifact.
    """
    destination = Path(destination).absolute()
    run_id, started = command.run_id(), time.monotonic()
    versions = destination.parent / ".versions" / destination.name
    ours = destination.is_symlink() and destination.resolve().parent == versions.resolve()
    if os.path.lexists(destination) and not ours:
        raise UserError(f"out: {destination} exists and is not an artifact of ours; remove it or choose another path")
    temporary = versions / f".tmp-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        versions.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(versions)
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"out: {destination} cannot be written ({error.strerror}); choose another path") from None
    try:
        draft = Draft(path=temporary)
        yield draft
        if not (temporary / MARKET_TABLE).exists():
            sources = [read_market_table(artifact.path) for artifact in (inputs or {}).values()]
            write_market_table((market for table in sources for market in table), temporary)
        seal(
            draft,
            kind=kind,
            schema_version=schema_version,
            run_id=run_id,
            inputs=inputs,
            config=config,
            started=started,
        )
        final = versions / run_id
        if final.exists():  # the same run publishes the same stage twice
            final = versions / f"{run_id}-{secrets.token_hex(4)}"
        os.rename(temporary, final)
        sync_folder(versions)
        _point(destination, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _keep_one_earlier(versions, final)


def seal(
    draft: Draft,
    *,
    kind: str,
    schema_version: int = 1,
    run_id: str | None = None,
    inputs: Mapping[str, Artifact] | None = None,
    config: Any = None,
    started: float | None = None,
) -> Manifest:
    """Hash and fsync every file of a finished folder and write its manifest: from then on `open_artifact` can tell it is whole.

    `publish` does it by itself; call it for folders that stand under no link (checkpoints, weights of a run). started: the
    `time.monotonic()` from which the manifest's seconds count.
    """
    started = time.monotonic() if started is None else started
    for leftover in (MANIFEST, MANIFEST_HASH):
        (draft.path / leftover).unlink(missing_ok=True)
    paths = sorted(path for path in draft.path.rglob("*") if path.is_file())
    with ThreadPoolExecutor(8) as pool:  # fsync waits on the disk, not on the processor
        hashes = list(pool.map(_fsync_and_hash, paths))
    files = {
        path.relative_to(draft.path).as_posix(): {"sha256": digest, "bytes": path.stat().st_size}
        for path, digest in zip(paths, hashes, strict=True)
    }
    identity = json.dumps([kind, schema_version, sorted((name, entry["sha256"]) for name, entry in files.items())])
    manifest = Manifest(
        kind=kind,
        schema_version=schema_version,
        run_id=run_id or command.run_id(),
        version=hashlib.sha256(identity.encode()).hexdigest()[:16],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        inputs={name: artifact.reference() for name, artifact in (inputs or {}).items()},
        config=as_plain(config or {}),
        counts=as_plain(draft.counts),
        files=files,
        versions=_library_versions(),
        seconds=round(time.monotonic() - started, 3),
    )
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    write_atomically(draft.path / MANIFEST, text)
    write_atomically(draft.path / MANIFEST_HASH, _hash_line(text.encode()))
    for folder in [draft.path, *(path for path in draft.path.rglob("*") if path.is_dir())]:
        sync_folder(folder)
    return manifest


def read_manifest(folder: Path, kind: str = "artifact") -> Manifest:
    """The manifest of a folder. Raises `UserError` when it is missing or damaged; `kind` only names what was looked for."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{kind}: no {MANIFEST} in {folder}; run the job that writes it, or correct the path")
    data = (folder / MANIFEST).read_bytes()
    try:
        manifest = Manifest(**json.loads(data.decode()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{kind}: {folder / MANIFEST} is damaged ({error}); rebuild the artifact") from None
    hash_file = folder / MANIFEST_HASH
    if not hash_file.is_file():
        raise UserError(f"{kind}: file {hash_file} is missing; rebuild the artifact")
    if hash_file.read_bytes() != _hash_line(data).encode():
        raise UserError(
            f"{kind}: file {folder / MANIFEST} does not match its SHA-256 in {hash_file}; rebuild the artifact"
        )
    return manifest


def open_artifact(path: str | Path, *, kind: str, schema_version: int = 1, verify: bool = True) -> Artifact:
    """Open a published folder, checking its kind, its schema version and (with `verify`) the SHA-256 of every file.

    Its markets that are no countries are known to the process from then on. Raises `UserError` naming the folder or the file
    that is missing, of another kind, or altered.
    """
    artifact = _checked(path, kind, schema_version, verify=verify)
    markets.define(read_market_table(artifact.path))
    return artifact


def _checked(path: str | Path, kind: str, schema_version: int, *, verify: bool = True) -> Artifact:
    manifest = read_manifest(Path(path), kind)
    folder = Path(path).resolve()
    if manifest.kind != kind:
        raise UserError(f"{kind}: {folder} holds a {manifest.kind!r} artifact; give the path of a {kind!r} one")
    if manifest.schema_version != schema_version:
        raise UserError(
            f"{kind}: {folder} has schema version {manifest.schema_version}, this program reads {schema_version}; rebuild it"
        )
    for name, entry in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{kind}: file {file} is missing; rebuild the artifact")
        if verify and sha256_file(file) != entry["sha256"]:
            raise UserError(f"{kind}: file {file} does not match its SHA-256 in the manifest; rebuild the artifact")
    return Artifact(path=folder, manifest=manifest)


def current(
    path: str | Path,
    *,
    kind: str,
    schema_version: int = 1,
    inputs: Mapping[str, Artifact] | None = None,
    config: Any = None,
) -> Artifact | None:
    """The artifact at `path` if it is whole and made from exactly these inputs and options, else None: how a stage resumes."""
    try:
        artifact = _checked(path, kind, schema_version)
    except UserError:
        return None
    versions = {name: source.manifest.version for name, source in (inputs or {}).items()}
    same_inputs = {name: entry["version"] for name, entry in artifact.manifest.inputs.items()} == versions
    same_library = artifact.manifest.versions.get("countryreward") == _library_versions().get("countryreward")
    if not (same_inputs and same_library and artifact.manifest.config == as_plain(config or {})):
        return None
    markets.define(read_market_table(artifact.path))  # only now: an older one may define other markets
    return artifact


def _library_versions() -> dict[str, str]:
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _TRACKED_LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _hash_line(manifest: bytes) -> str:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"


def _fsync_and_hash(path: Path) -> str:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _point(destination: Path, target: Path) -> None:
    link = temporary_path(destination)
    link.symlink_to(os.path.relpath(target, destination.parent), target_is_directory=True)
    os.replace(link, destination)
    sync_folder(destination.parent)


def _remove_leftovers(versions: Path) -> None:
    """Remove temporary folders whose writer, a process of this host, is gone."""
    for folder in versions.glob(".tmp-*"):
        host, _, rest = folder.name.removeprefix(".tmp-").rpartition("-")[0].rpartition("-")
        if host == socket.gethostname() and rest.isdigit() and not _alive(int(rest)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _keep_one_earlier(versions: Path, newest: Path) -> None:
    earlier = [path for path in versions.iterdir() if path != newest and not path.name.startswith(".tmp-")]
    for folder in sorted(earlier, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(folder, ignore_errors=True)
