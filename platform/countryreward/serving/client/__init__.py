"""The service from Python: a Scorer over HTTP. docs/api.md, Python client."""

from countryreward.serving.client.asynchronous import AsyncBatchHandle, AsyncClient
from countryreward.serving.client.errors import BadAnswer, NotAllowed, Refused, Unavailable
from countryreward.serving.client.retrying import Retries
from countryreward.serving.client.sync import BatchHandle, Client

__all__ = [
    "AsyncBatchHandle",
    "AsyncClient",
    "BadAnswer",
    "BatchHandle",
    "Client",
    "NotAllowed",
    "Refused",
    "Retries",
    "Unavailable",
]
