"""What became of a task: a row, dropped with a reason, or quarantined with a reason; and the files in which outcomes are kept.

FOLDER/done-HASH.jsonl    some outcomes, one a line; the hash is of their keys
FOLDER/ads/*.png          files that belong to rows, written before them
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from countryreward.data.file_primitives import write_atomically
from countryreward.data.quarantine import REASONS, Quarantine, check_counts
from countryreward.generation.ad_contracts import AdTask

DROPPED = ("same_design", "same_ad", "swap_inconsistent", "unsure")
"""Why a good task gives no pair (docs/data.md)."""
TABLE = "tasks"
"""What quarantine calls the table that is worked off."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one task: exactly one of `row`, `dropped` and `quarantined` is set."""

    key: str
    """Of the task."""
    row: dict[str, Any] | None = None
    """As the schema of the published table says; kept."""
    dropped: str | None = None
    """One of `DROPPED`."""
    quarantined: str | None = None
    """One of `data.quarantine.REASONS`."""
    where: str = ""
    """Quarantined: what is at fault."""
    value: str = ""
    """Quarantined: what was found."""
    content: dict[str, Any] | None = None
    """Quarantined: the task, without its picture."""
    designs: dict[str, int] = field(default_factory=dict)
    """How many were written, and of them repaired, refused by the reader, refused by the renderer, the same as another one."""
    elsewhere: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the same ads in other markets (`PairRule.elsewhere`)."""
    dropped_elsewhere: dict[str, int] = field(default_factory=dict)
    """Reason -> other markets that gave no row."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Names of files that belong to the row -> their bytes; they are no part of `as_dict`."""

    def __post_init__(self) -> None:
        results = (self.row, self.dropped, self.quarantined)
        assert sum(result is not None for result in results) == 1, "an outcome is one thing"
        assert self.dropped is None or self.dropped in DROPPED, self.dropped
        assert self.quarantined is None or self.quarantined in REASONS, self.quarantined

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `Outcome(**...)` reads it back."""
        plain = {
            name: value for name, value in self.__dict__.items() if name != "files" and value not in (None, "", {}, [])
        }
        return {"key": self.key, **plain}


def quarantined(task: AdTask, reason: str, where: str, value: object, designs: dict[str, int] | None = None) -> Outcome:
    """The outcome of a task that cannot be done."""
    content = {**asdict(task.product), "market": task.market, "image_hash": task.image_hash, "seed": task.seed}
    return Outcome(
        key=task.key,
        quarantined=reason,
        where=where,
        value=str(value)[:200],
        content=content,
        designs=designs or {},
    )


def refused(task: AdTask, error: Exception, where: str) -> Outcome:
    """The outcome of a task that was refused with a `UserError`: an image by its own reason, the rest as `refused_prompt`."""
    reason = getattr(error, "reason", None)
    if reason in REASONS:
        return quarantined(task, str(reason), "image", error)
    return quarantined(task, "refused_prompt", where, error)


def fill_quarantine(outcomes: Iterable[tuple[int, Outcome]], quarantine: Quarantine) -> None:
    """outcomes: (position of the task, outcome)."""
    for position, outcome in outcomes:
        if outcome.quarantined is not None:
            content = outcome.content or {}
            quarantine.add(
                table=TABLE,
                row=position,
                reason=outcome.quarantined,
                field=outcome.where,
                value=outcome.value,
                key=f"{content.get('product_id') or content.get('title')}/{content.get('market')}",
                content=content,
            )


def counts_of(outcomes: Iterable[Outcome], tasks: int) -> dict[str, Any]:
    """For the manifest; asserts that input = kept + dropped + quarantined. tasks: how many came in."""
    dropped: Counter[str] = Counter()
    quarantine: Counter[str] = Counter()
    designs: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    kept = kept_elsewhere = 0
    for outcome in outcomes:
        kept += outcome.row is not None
        kept_elsewhere += len(outcome.elsewhere)
        elsewhere.update(outcome.dropped_elsewhere)
        dropped.update([outcome.dropped] if outcome.dropped else [])
        quarantine.update([outcome.quarantined] if outcome.quarantined else [])
        designs.update(outcome.designs)
    counts = {
        "tasks": {
            "input": tasks,
            "kept": kept,
            "dropped": dropped.total(),
            "quarantined": quarantine.total(),
            "dropped_by_reason": dict(sorted(dropped.items())),
            "quarantined_by_reason": dict(sorted(quarantine.items())),
        },
        "designs": dict(sorted(designs.items())),
    }
    check_counts(counts["tasks"], "tasks")
    if kept_elsewhere or elsewhere:
        counts["elsewhere"] = {
            "input": kept_elsewhere + elsewhere.total(),
            "kept": kept_elsewhere,
            "dropped": elsewhere.total(),
            "quarantined": 0,
            "dropped_by_reason": dict(sorted(elsewhere.items())),
        }
    return counts


class OutcomeStore:
    """The outcomes of one run, by key. Not more than one process at a time, and one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.rglob(".tmp-*"):  # of a killed run
            torn.unlink()
        self.outcomes = {outcome.key: outcome for outcome in self.read()}
        """By key, as they were at the start, and all that was put since, without `files`."""

    def read(self) -> Iterator[Outcome]:
        """Everything that is on the disk."""
        for path in sorted(self.folder.glob("done-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield Outcome(**json.loads(line))

    def put(self, outcomes: Sequence[Outcome]) -> None:
        """In safety when it returns. An outcome of a key that is there already is left out."""
        fresh = {outcome.key: outcome for outcome in outcomes if outcome.key not in self.outcomes}
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
            "".join(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n" for fields in plain),
        )
        self.outcomes |= {fields["key"]: Outcome(**fields) for fields in plain}
