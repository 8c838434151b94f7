"""Starting a private local Ray, or joining the cluster that a job was submitted to."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

import ray

from countryreward.on_ray.config import RayConfig


@contextlib.contextmanager
def session(config: RayConfig) -> Iterator[None]:
    """Ray for the length of a `with` block; a Ray that runs already is used and left running.

    A local Ray gets its own temporary folder with a short path (Ray's sockets allow 107 characters), so it never joins
    another one on the machine, and binds to loopback.
    """
    if ray.is_initialized():
        yield
        return
    # A job that `ray job submit` started must join its own cluster, whatever the default says.
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or os.environ.get("RAY_ADDRESS"):
        config = RayConfig(address="auto")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as stack:
        options: dict = {"address": config.address, "logging_level": logging.ERROR, "log_to_driver": False}
        if config.address == "local":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cr-ray-", ignore_cleanup_errors=True))
            options |= {
                "_temp_dir": folder,
                "object_store_memory": config.object_store_mib * 2**20,
                "include_dashboard": config.dashboard,
                "dashboard_host": "127.0.0.1",
                "_node_ip_address": "127.0.0.1",
            }
            if config.cpus:
                options["num_cpus"] = config.cpus
        ray.init(**options)
        stack.callback(ray.shutdown)
        quiet_data()
        yield


def quiet_data() -> None:
    """Ray Data's own progress and log lines off: jobs print their own."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
