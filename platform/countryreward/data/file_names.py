"""File names in whatever Unicode form a disk spells them: a Mac writes é as e and an accent, a keyboard as one character."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path


def names_in(folder: Path) -> dict[str, list[str]]:
    """Names in composed form (NFC) -> how they are spelled in a folder; empty where it cannot be listed."""
    names: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    except (OSError, ValueError):
        return {}
    return names


def in_any_form(path: Path, names: Callable[[Path], dict[str, list[str]]] = names_in) -> Path:
    """The path as the disk spells it; one that is not there comes back as it is.

    names: lists a folder. Raises ValueError where two files differ in their form alone.
    """
    if str(path).isascii():
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        spellings = [part] if part.isascii() else names(found).get(unicodedata.normalize("NFC", part), [part])
        if len(spellings) > 1:
            raise ValueError("two files have this name, in different Unicode forms")
        found /= spellings[0]
    return found
