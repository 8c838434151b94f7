"""Pretrained weights by name or folder: where they lie, which they are, and loading them with an error that a user can act on."""

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch

from countryreward.data.artifacts import sha256_file
from countryreward.errors import UserError
from countryreward.progress import quiet_loading

LoadedT = TypeVar("LoadedT")


def packaged(name: str) -> str:
    """The folder `model` inside an installed Python package called `name`: weights that came by pip need no network, and their
    name means the same on every machine. Any other name as it is; a folder of that name comes first."""
    if not name.isidentifier() or Path(name).is_dir():
        return name
    package = find_spec(name)  # a top-level name: nothing is imported
    for place in (package.submodule_search_locations or []) if package else []:
        if (Path(place) / "model" / "config.json").is_file():
            return str(Path(place) / "model")
    return name


def revision(name: str) -> str:
    """Which weights a name means: for a folder its name and a hash of every file in it; for a hub name itself."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{sha256_file(path)}\n".encode())
    return f"{folder.name}@{digest.hexdigest()[:12]}"


def best_device() -> str:
    """cuda where there is one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_pretrained(load: Callable[[], LoadedT], name: str) -> LoadedT:
    """What `load` returns, without bars. Raises `UserError` where the model called `name` cannot be read or reached."""
    try:
        with quiet_loading():
            return load()
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"encoders: {name!r} cannot be loaded ({first_line}); give a model folder or a name that can be reached"
        ) from None
