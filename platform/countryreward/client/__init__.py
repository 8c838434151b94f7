"""The service from Python: a Scorer over HTTP. docs/api.md, Python client."""

from countryreward.client.async_client import AsyncClient
from countryreward.client.batch_handles import AsyncBatchHandle, BatchHandle
from countryreward.client.client_errors import BadAnswer, NotAllowed, Refused, Unavailable
from countryreward.client.generation_handles import AsyncGenerationHandle, GenerationHandle
from countryreward.client.retrying import Retries
from countryreward.client.sync_client import Client

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
    "Retries",
    "Unavailable",
]
