"""Has the input changed since it was imported? Table files by content, image folders by names, sizes and times."""

import hashlib
from pathlib import Path

from countryreward.data.artifacts import sha256_file
from countryreward.data.data_config import ImportConfig


def source_fingerprint(config: ImportConfig) -> dict[str, str]:
    """Path -> fingerprint of every input; `unknown` for storage URIs, which are imported anew every time."""
    tables = [config.products.path, config.creatives.path, config.observations.path, config.pairs.path]
    found = {path: _file(path) for path in tables if path}
    if config.images.root:
        found[config.images.root] = _images(config.images.root)
    return found


def is_known(fingerprint: dict[str, str]) -> bool:
    """Whether every input could be fingerprinted."""
    return "unknown" not in fingerprint.values()


def _file(path: str) -> str:
    return sha256_file(Path(path)) if Path(path).is_file() else "unknown"


def _images(root: str) -> str:
    folder = Path(root)
    if not folder.is_dir():  # a zip file, or a folder inside one
        return _file(str(next((path for path in (folder, *folder.parents) if path.is_file()), root)))
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
        digest.update(f"{path.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
