"""Contract 9: a design, the four text fields in which the paper describes an ad image's staging (section 3.4)."""

import re
import unicodedata
from dataclasses import dataclass, fields

from countryreward.errors import UserError

LABELS: dict[str, str] = {
    "foreground": "Foreground",
    "background": "Background",
    "color_tone": "Color Tone",
    "lighting": "Lighting",
}
"""Field -> the label in front of it in the written form, in the written order."""

_NAMES = r"(foreground|background|colou?r[ _]tone|lighting)"
# plain, **Label:** or **Label**:, after an optional list mark; full-width colons occur in what models write
_HEAD = re.compile(
    rf"^\s*(?:[-#>]+\s*|\d+[.)]\s*)?(?:\*\*{_NAMES}\s*[:：]\s*\*\*|\*\*{_NAMES}\*\*\s*[:：]|{_NAMES}\s*[:：])\s*(.*)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Design:
    """How an ad image is staged. Fields are in composed form (NFC), their white space is folded: each is one line, so writing and
    parsing are inverse."""

    foreground: str
    """What stands with the product: props, arrangement, promotional text."""
    background: str
    """The scene behind it."""
    color_tone: str
    """The palette."""
    lighting: str
    """Where the light comes from, how bright, how warm."""

    def __post_init__(self) -> None:
        """Raises `UserError` naming the fields that are empty."""
        for item in fields(self):
            composed = unicodedata.normalize("NFC", getattr(self, item.name))
            object.__setattr__(self, item.name, " ".join(composed.split()))
        missing = [LABELS[item.name] for item in fields(self) if not getattr(self, item.name)]
        if missing:
            raise UserError(f"design: {', '.join(missing)} missing; write all of {', '.join(LABELS.values())}")

    def as_text(self) -> str:
        """The written form: four lines, `Foreground: ...`, `Background: ...`, `Color Tone: ...`, `Lighting: ...`."""
        return "\n".join(f"{label}: {getattr(self, name)}" for name, label in LABELS.items())

    @classmethod
    def parse(cls, text: str) -> "Design":
        """Read the written form back, also as a language model answers it.

        Accepts any order and case, `Colour`, list marks, bold labels and fields wrapped over lines; text before the
        first label and after an empty line that follows a field is left out. Raises `UserError` naming the fields that
        are missing, or the one that occurs twice.
        """
        parts: dict[str, list[str]] = {}
        open_field: str | None = None
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head:
                label = next(group for group in head.groups()[:3] if group)
                open_field = re.sub(r"[ _]+", "_", label.lower()).replace("colour", "color")
                if open_field in parts:
                    raise UserError(f"design: {LABELS[open_field]} occurs twice; write each field once")
                parts[open_field] = [head.group(4)]
            elif open_field and line.strip():
                parts[open_field].append(line)
            elif open_field and any(part.strip() for part in parts[open_field]):
                open_field = None  # an empty line closes a field that has words, so closing chatter is not part of it
        return cls(**{name: " ".join(parts.get(name, [])) for name in LABELS})
