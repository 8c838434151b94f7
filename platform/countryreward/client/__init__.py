"""The service from Python: scorers over HTTP, one that blocks and one that is awaited."""

import warnings
from typing import Any

from countryreward.client.async_client import AsyncClient
from countryreward.client.client_errors import BadAnswer, NotAllowed, Refused, Unavailable
from countryreward.client.job_handles import AsyncBatchHandle, AsyncGenerationHandle
from countryreward.client.retrying import RetryPolicy
from countryreward.client.sync_client import BatchHandle, Client, GenerationHandle

__all__ = [
    "AsyncBatchHandle",
    "AsyncClient",
    "AsyncGenerationHandle",
    "BadAnswer",
    "BatchHandle",
    "Client",
    "GenerationHandle",
    "NotAllowed",
    "Refused",
    "RetryPolicy",
    "Unavailable",
]


def __getattr__(name: str) -> Any:
    if name == "Retries":
        warnings.warn("Retries is RetryPolicy now; the old name works in this release only", FutureWarning, 2)
        return RetryPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
