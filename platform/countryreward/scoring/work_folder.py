"""The work folder of a scoring job: what a killed one leaves, and the next one with the same table and options takes.

encodes-KEY/   whole shards of encoded images, of one model in one precision
parts-KEY/     finished parts of one table with its images, one model, one set of options
rows.parquet, images.bin    written anew by every run
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from countryreward.data.file_primitives import FileLock, LockHeldError
from countryreward.errors import UserError


class WorkFolder:
    """Held by one job at a time. All nodes of a cluster must see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows, self.copied = folder / "rows.parquet", folder / "images.bin"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raises `UserError` when another job holds it. A killed job holds nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock.take(self.folder / "lock", wait_s=0)
        except LockHeldError:
            raise UserError(
                f"work: another job is at work in {self.folder}; wait for it, or write another folder as work"
            ) from None
        with lock:
            for leftover in self.folder.glob(".tmp-*"):  # of a job that was killed while it wrote rows.parquet
                leftover.unlink()
            yield

    def of(self, kind: str, made_from: Any) -> Path:
        """The folder kind-KEY, KEY being a hash of `made_from` (JSON-able); those of other keys are removed."""
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
        mine = self.folder / f"{kind}-{key}"
        for other in self.folder.glob(f"{kind}-*"):
            if other != mine:
                shutil.rmtree(other)
        mine.mkdir(exist_ok=True)
        return mine

    def clear(self, *, keep_encodes: bool) -> None:
        """Remove what a finished job needs no more."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and path.name.startswith("parts-" if keep_encodes else ("parts-", "encodes-")):
                shutil.rmtree(path)
            elif path in (self.rows, self.copied) or (path.name == "lock" and not keep_encodes):
                path.unlink()
        with contextlib.suppress(OSError):  # not empty: the encodes are kept, or something of the user's is there
            self.folder.rmdir()
            self.folder.parent.rmdir()
