"""The service from Python: a Scorer over HTTP. docs/api.md, Python client."""

from countryreward.serving.client.asynchronous import AsyncClient
from countryreward.serving.client.errors import BadAnswer, NotAllowed, Refused, Unavailable
from countryreward.serving.client.generation_handles import AsyncGenerationHandle, GenerationHandle
from countryreward.serving.client.handles import AsyncBatchHandle, BatchHandle
from countryreward.serving.client.retrying import Retries
from countryreward.serving.client.sync import Client

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
