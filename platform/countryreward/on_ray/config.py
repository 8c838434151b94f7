"""Configs of the Ray pieces. Standard library only."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class RayConfig:
    """How a job meets Ray."""

    address: str = "local"
    """local starts a private Ray on this machine; auto joins the cluster the job was submitted to; or ray://HOST:PORT."""
    cpus: int = 0
    """Processors of a local Ray; 0: all."""
    object_store_mib: int = 512
    """Object store of a local Ray, in MiB."""
    dashboard: bool = False
    """Start the dashboard of a local Ray (on loopback)."""
