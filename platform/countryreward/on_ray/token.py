"""Ray behind a token. Ray reads how it authenticates when it is imported, so this comes before and imports no Ray."""

import os
import secrets
import sys
from pathlib import Path


def private_token(folder: Path) -> None:
    """Ray started from here on answers only who knows a token, kept in `folder`; an environment that says how wins."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    assert "ray" not in sys.modules, "too late: Ray was imported"
    path = folder / "ray.token"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), encoding="ascii")
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
