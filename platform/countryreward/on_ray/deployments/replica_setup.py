"""What the deployments of all three services share: how their arguments are read, and what a replica does first."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator

from countryreward.serving.service_config import SharedServiceConfig, own_options

if TYPE_CHECKING:
    from countryreward.serving.http.keys import KeyStore
    from countryreward.serving.http.prometheus_metrics import Prometheus


class ServiceArgs(BaseModel):
    """`args:` of an application. A subclass has a field `service`; in it, options of other services are left out with a line."""

    model_config = ConfigDict(extra="forbid")
    name: ClassVar[str]
    """Of the service: reward, generator or studio."""

    @field_validator("service", mode="before", check_fields=False)
    @classmethod
    def _own_options(cls, options: Any) -> Any:
        return own_options(cls.name, options)


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
