"""How Ray Serve's processes are to run, said before Ray starts; imports no Ray. On a cluster: export the same at `ray start`."""

import os

from countryreward.serving.front import IMPORT_PATH

SERVE_ENVIRONMENT = {
    # Nothing a caller sends breaks the proxy or comes back from it (serving/front.py).
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": IMPORT_PATH,
    # One event loop in a replica: ours never blocks it. Fewer hops between threads for every call.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # With this in the environment of a caller by handle, a synchronous `handle.result()` does not work there.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
"""Measured by benchmarks/serving.py."""


def serve_environment() -> None:
    """Set what is not set yet."""
    for name, value in SERVE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
