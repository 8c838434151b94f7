"""Finished outcomes in small files, each whole or not there: what a killed run leaves, and the next one takes.

FOLDER/done-HASH.jsonl    some outcomes, one a line; the hash is of their keys
FOLDER/ads/*.png          files that belong to rows, written before them
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from countryreward.data.file_primitives import write_atomically
from countryreward.generation.outcomes import Outcome


class OutcomeStore:
    """The outcomes of one run, by key. Not more than one process at a time, and one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.rglob(".tmp-*"):  # of a killed run
            torn.unlink()
        self.found = {outcome.key: outcome for outcome in self.read()}
        """As they were at the start, and all that was put since, without `files`."""

    def read(self) -> Iterator[Outcome]:
        """Everything that is on the disk."""
        for path in sorted(self.folder.glob("done-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield Outcome(**json.loads(line))

    def put(self, outcomes: Sequence[Outcome]) -> None:
        """In safety when it returns. An outcome of a key that is there already is left out."""
        fresh = {outcome.key: outcome for outcome in outcomes if outcome.key not in self.found}
        if not fresh:
            return
        for outcome in fresh.values():
            for name, data in outcome.files.items():
                path = self.folder / name
                if not path.exists():  # named by its content
                    path.parent.mkdir(exist_ok=True)
                    write_atomically(path, data)
        plain = [outcome.as_dict() for outcome in fresh.values()]
        name = hashlib.sha256("".join(fresh).encode()).hexdigest()[:16]
        write_atomically(
            self.folder / f"done-{name}.jsonl",
            "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in plain),
        )
        self.found |= {one["key"]: Outcome(**one) for one in plain}
