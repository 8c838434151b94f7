"""What a run is made from: the same goes on where it was, another is told apart, with what differs in words."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import countryreward
from countryreward.data.artifacts import as_plain


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """A run goes on under its name only with the same inputs and options."""

    inputs: dict[str, str]
    """Name of each input artifact -> its version."""
    options: dict[str, Any]
    """Every option in force that shapes the result."""

    @property
    def made_from(self) -> dict[str, Any]:
        """Inputs and options as one level: what run folders and checkpoints keep."""
        return {**self.inputs, **self.options}

    def fingerprint(self) -> str:
        """The name of a run that was given none, 12 hex digits: the same inputs, options and library version have the same."""
        text = json.dumps(
            [as_plain({"inputs": self.inputs, "options": self.options}), countryreward.__version__], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(mine: dict[str, Any], its: dict[str, Any]) -> str:
    """What another start of a run was made from, where it differs from this one's: `name value (now value)`; empty: nothing."""
    mine, its = flat(as_plain(mine)), flat(its)
    unlike = [name for name in sorted({*mine, *its}) if mine.get(name) != its.get(name)]
    return ", ".join(f"{name} {its.get(name)} (now {mine.get(name)})" for name in unlike)


def flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options inside options as one level: {"loop": {"seed": 0}} -> {"loop.seed": 0}."""
    level: dict[str, Any] = {}
    for name, value in options.items():
        level |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return level
