"""What became of a task: a row, dropped with a reason, or quarantined with a reason. They add up."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from countryreward.data.quarantine import REASONS, Quarantine, check_counts
from countryreward.generation.tasks import AdTask

DROPPED = ("same_design", "same_ad", "swap_inconsistent", "unsure")
"""Why a good task gives no pair (docs/data.md)."""
TABLE = "tasks"
"""What quarantine calls the table that is worked off."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Exactly one of `row`, `dropped` and `quarantined` is set."""

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
        said = [self.row is not None, self.dropped is not None, self.quarantined is not None]
        assert sum(said) == 1, "an outcome is one thing"
        assert self.dropped is None or self.dropped in DROPPED, self.dropped
        assert self.quarantined is None or self.quarantined in REASONS, self.quarantined

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; `Outcome(**...)` reads it back."""
        told = {
            name: value for name, value in self.__dict__.items() if name != "files" and value not in (None, "", {}, [])
        }
        return {"key": self.key, **told}


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
    bad: Counter[str] = Counter()
    designs: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    kept = more = 0
    for outcome in outcomes:
        kept += outcome.row is not None
        more += len(outcome.elsewhere)
        elsewhere.update(outcome.dropped_elsewhere)
        dropped.update([outcome.dropped] if outcome.dropped else [])
        bad.update([outcome.quarantined] if outcome.quarantined else [])
        designs.update(outcome.designs)
    counts = {
        "tasks": {
            "input": tasks,
            "kept": kept,
            "dropped": dropped.total(),
            "quarantined": bad.total(),
            "dropped_by_reason": dict(sorted(dropped.items())),
            "quarantined_by_reason": dict(sorted(bad.items())),
        },
        "designs": dict(sorted(designs.items())),
    }
    check_counts(counts["tasks"], "tasks")
    if more or elsewhere:
        counts["elsewhere"] = {
            "input": more + elsewhere.total(),
            "kept": more,
            "dropped": elsewhere.total(),
            "quarantined": 0,
            "dropped_by_reason": dict(sorted(elsewhere.items())),
        }
    return counts
