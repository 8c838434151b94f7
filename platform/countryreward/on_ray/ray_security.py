"""A Ray for one job alone: behind a token, on loopback. Ray reads both when it is imported, so this comes before it."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from countryreward.on_ray.ray_address import chosen_address
from countryreward.on_ray.ray_config import RayConfig

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0 a Ray has one node, as on Windows and macOS, and all its processes listen on loopback. By itself a Ray on Linux takes
127.0.0.1 for the machine's outer address, and most of its ports are open on all interfaces."""


def is_private(config: RayConfig) -> bool:
    """Whether a job starts a Ray of its own."""
    return chosen_address(config) == "local"


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


def private_ray(config: RayConfig) -> None:
    """Before Ray is imported: a Ray that this job starts answers only its own processes, by a token that is kept nowhere else."""
    if not is_private(config) or "ray" in sys.modules:
        return
    os.environ.setdefault(LOOPBACK, "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray started inside the block listens on loopback, also in a process that had imported Ray, such as a test's; afterwards
    it can join a cluster again.
    """
    from ray._private import ray_constants

    before = os.environ.get(LOOPBACK), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK] = before[0] or "0"
    ray_constants.ENABLE_RAY_CLUSTER = os.environ[LOOPBACK] != "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[LOOPBACK]


def end_log_monitor() -> None:
    """End Ray's process that sends workers' output on to drivers: `log_to_driver` is off, and it takes 2 % of a processor."""
    from ray._private import worker

    if node := worker._global_node:
        node.kill_log_monitor(check_alive=False)


def replica_on_loopback() -> None:
    """For a Serve deployment to call when it is made, on a Ray that is on loopback: its port for other deployments is, too.

    Ray opens that port on all interfaces, whatever the node's address, after the deployment's own class was made.
    """
    if os.environ.get(LOOPBACK) != "0":
        return
    from ray.serve._private import replica

    open_port: Any = replica.add_port_to_grpc_server  # pyright: ignore[reportPrivateImportUsage]

    def on_loopback_only(server: Any, address: str) -> int:
        return open_port(server, address.replace("[::]", "127.0.0.1"))

    if open_port.__name__ != on_loopback_only.__name__:
        replica.add_port_to_grpc_server = on_loopback_only  # pyright: ignore[reportPrivateImportUsage]
