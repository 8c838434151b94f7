"""Starting a private local Ray, or joining the cluster that a job was submitted to."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from countryreward.command import RUN_ID, SUBMITTED
from countryreward.on_ray.ray_address import VARIABLE, chosen_address, refusal, require_answer
from countryreward.on_ray.ray_config import RayConfig
from countryreward.on_ray.ray_security import end_log_monitor, on_loopback, private_ray

_PREFIX = "cr-ray-"


@contextlib.contextmanager
def session(config: RayConfig) -> Iterator[None]:
    """Ray for the length of a `with` block; a Ray that runs already is used and left running.

    A local Ray gets its own temporary folder with a short path (Ray's sockets allow 107 characters), so it never joins
    another one on the machine; it listens on loopback only, and behind a token where Ray was not imported before.
    Raises `UserError` where the Ray to join does not answer.
    """
    private_ray(config)
    import ray

    if ray.is_initialized():
        yield
        return
    address = chosen_address(config)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as stack:
        options: dict = {"address": address, "logging_level": logging.ERROR, "log_to_driver": False}
        if address == "local":
            stack.enter_context(on_loopback())
            stack.enter_context(_without_address())
            _remove_leftovers()
            os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(config.log_mib * 2**20))
            os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
            os.environ.setdefault("RAY_local_fs_capacity_threshold", str(config.disk_limit))
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes its one node away
            prefix = f"{_PREFIX}{os.getpid()}-"
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True))
            options |= {
                "_temp_dir": folder,
                "object_store_memory": config.object_store_mib * 2**20,
                "include_dashboard": config.dashboard,
                "dashboard_host": "127.0.0.1",
                "_node_ip_address": "127.0.0.1",
            }
            if config.cpus:
                options["num_cpus"] = config.cpus
        else:
            require_answer(config)
            if run := _untold_run():
                options["runtime_env"] = {"env_vars": {RUN_ID: run}}
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if address == "local":
                raise
            raise refusal(config, f"cannot be joined: {str(error).partition(chr(10))[0]}") from None
        stack.callback(ray.shutdown)
        if address == "local":
            end_log_monitor()
        quiet_data()
        yield


@contextlib.contextmanager
def _without_address() -> Iterator[None]:
    """No RAY_ADDRESS, so that no process of a local Ray, which inherits the environment, takes another Ray for its own."""
    before = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before


def _untold_run() -> str:
    """The run id, where the nodes of a cluster are not told it already: a local Ray has the environment of its command."""
    submitted = json.loads(os.environ.get(SUBMITTED) or "{}").get("runtime_env") or {}
    return "" if RUN_ID in (submitted.get("env_vars") or {}) else os.environ.get(RUN_ID, "")


def _remove_leftovers() -> None:
    """Folders of local Rays whose process was killed: logs and spilled objects must not pile up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)) and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def quiet_data() -> None:
    """Ray Data's own progress and log lines off: jobs print their own."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
