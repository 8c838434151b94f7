"""Which Ray a job joins, and whether one answers there: Ray itself tries a dead address for minutes."""

import os
from typing import Any

from countryreward.command import SUBMITTED
from countryreward.errors import UserError
from countryreward.on_ray.ray_config import RayConfig

VARIABLE = "RAY_ADDRESS"
_ANSWER_WITHIN_S = 15.0


def chosen_address(config: RayConfig) -> str:
    """local, auto, HOST:PORT or ray://HOST:PORT: the option where it names one, else RAY_ADDRESS, else local (auto: auto).

    A job that `ray job submit` started joins its cluster also where the option says local.
    """
    address = "auto" if SUBMITTED in os.environ and config.address in ("", "local") else config.address
    if address in ("", "auto"):
        return os.environ.get(VARIABLE, "").strip() or address or "local"
    return address


def require_answer(config: RayConfig) -> None:
    """Raises `UserError`, which names the option or RAY_ADDRESS, unless a Ray answers at `chosen_address`, which is not local."""
    address = chosen_address(config)
    if address.startswith(("http://", "https://")):
        raise refusal(config, "is where `ray job submit` sends jobs, no Ray to join")
    try:
        error = _silence(address)
    except Exception as failure:  # no address, no Ray on this machine, a token or certificate that is missing
        error = str(failure).partition("\n")[0] or type(failure).__name__
    if error:
        raise refusal(config, f"cannot be joined: {error}")


def refusal(config: RayConfig, what: str) -> UserError:
    """That `chosen_address` cannot be used, and what to do. what: the reason, as it follows the address."""
    address = chosen_address(config)
    if address == config.address:
        return UserError(f"ray.address: {address!r} {what}; write local, auto, HOST:PORT or ray://HOST:PORT")
    return UserError(
        f"{VARIABLE}: {address!r} {what}; unset {VARIABLE}, or write --ray.address=local (or HOST:PORT), which comes before it"
    )


def _silence(address: str) -> str:
    """Why no Ray answers at an address; empty: one does. Raises what Ray and gRPC do."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest  # pyright: ignore[reportAttributeAccessIssue]
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    client = address.startswith("ray://")
    place = address.removeprefix("ray://") if client else canonicalize_bootstrap_address_or_die(address)
    channel: Any = init_grpc_channel(place)
    try:
        grpc.channel_ready_future(channel).result(timeout=_ANSWER_WITHIN_S)
        if not client:  # ray:// asks by itself, and gives up
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=_ANSWER_WITHIN_S)
    except grpc.FutureTimeoutError:
        return f"nothing like Ray answered within {_ANSWER_WITHIN_S:.0f} s"
    except grpc.RpcError as error:
        return f"what answered there said {error.code().name}"  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        channel.close()
    return ""
