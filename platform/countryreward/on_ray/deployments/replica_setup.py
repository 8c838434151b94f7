"""What the replicas of all three services do first, and what their apps stand behind: metrics, log, keys, rates."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from countryreward.serving.service_config import SharedServiceConfig

if TYPE_CHECKING:
    from countryreward.serving.http.keys import KeyStore
    from countryreward.serving.http.prometheus_metrics import Prometheus


def set_up_replica(config: SharedServiceConfig) -> "Prometheus":
    """The replica's counts, to be called before anything else in a deployment's constructor.

    From here on the replica listens on loopback where its Ray does, and its counts and its log go into `config.state`: the
    counts into a folder that all replicas of this node share.
    """
    from countryreward.on_ray.ray_security import replica_on_loopback
    from countryreward.serving.http.prometheus_metrics import Prometheus, share_counts
    from countryreward.serving.http.request_log import to_files

    replica_on_loopback()
    state = Path(config.state)
    share_counts(state / "metrics" / socket.gethostname())  # before anything is counted
    to_files(state / "logs")
    prometheus = Prometheus()
    prometheus.count_errors()
    return prometheus


def key_store(config: SharedServiceConfig) -> "KeyStore":
    """The API keys in `config.state`."""
    from countryreward.serving.http.keys import FILE, KeyStore

    return KeyStore(Path(config.state) / FILE, config.poll_s)
