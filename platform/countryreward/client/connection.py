"""Calls to the service over HTTP: where they go and with which key, how answers are read, what is repeated."""

import asyncio
import contextlib
import ipaddress
import os
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying

from countryreward import __version__
from countryreward.api.schemas import ErrorAnswer, ErrorDetail
from countryreward.client.client_errors import BadAnswer, NotAllowed, Refused
from countryreward.client.retrying import (
    RETRIED_STATUSES,
    AttemptFailed,
    CallRetries,
    RetryBudget,
    RetryPolicy,
    retry_after_s,
)
from countryreward.errors import UserError

URL, KEY = "COUNTRYREWARD_URL", "COUNTRYREWARD_KEY"
"""Environment variables."""
PASSING_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)
"""Errors of a connection that may pass."""

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to the service. Repeating it must do no harm."""

    method: str
    """GET, POST or DELETE."""
    path: str
    """Under the service's address, without a leading slash."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the address."""
    fields: Mapping[str, str | list[str]] = field(default_factory=dict, repr=False)
    """Form fields; a list repeats the field."""
    files: tuple[tuple[str, str, bytes | Path], ...] = field(default=(), repr=False)
    """(field, file name, bytes or a path that is read anew for every attempt)."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside those of every call."""
    to: Path | None = None
    """Where the answer is written; None: it is kept in memory."""
    patient: bool = False
    """Whether nobody waits for this one answer: it may take `RetryPolicy.patient_deadline_s`."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer with a status of 2xx."""

    content: bytes
    """Empty when it was written to `Call.to`."""
    request_id: str
    """As the header X-Request-ID has it; may be empty."""

    def parse(self, model: type[Model]) -> Model:
        """Its JSON; fields of a newer service are ignored. Raises `BadAnswer`."""
        try:
            return model.model_validate_json(self.content)
        except ValidationError as error:
            places = {".".join(map(str, item["loc"])) or "JSON" for item in error.errors(include_input=False)}
            wrong = ", ".join(sorted(places)[:3])
            raise BadAnswer(
                f"url: the answer is not a {model.__name__} ({wrong}); is this a CountryReward service",
                request_id=self.request_id,
            ) from None


_slots_of_caller: ContextVar[asyncio.Semaphore | None] = ContextVar("slots_of_caller", default=None)


class Connection:
    """The service at its address: up to `parallel` calls in flight, each repeated while its failure may pass.

    Inside `slots_of_their_own` so many are in flight beside those of others: threads that share a blocking client do not wait
    for each other.

    Calls raise `Refused`, `NotAllowed`, `Unavailable` or `BadAnswer`.
    """

    def __init__(
        self, url: str | None, key: str | None, *, timeout_s: float, retries: RetryPolicy | None, parallel: int
    ) -> None:
        self.url = service_url(url)
        self._http = httpx2.AsyncClient(base_url=self.url, headers=key_headers(key), follow_redirects=False)
        self._timeout_s, self._policy = timeout_s, retries or RetryPolicy()
        self._budget = RetryBudget(self._policy, parallel)
        self._parallel, self._slots = parallel, asyncio.Semaphore(parallel)

    async def close(self) -> None:
        """Close the connections; no call can be sent after it."""
        await self._http.aclose()

    async def slots_of_their_own(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """What the function comes to, with `parallel` calls in flight for it alone."""
        _slots_of_caller.set(asyncio.Semaphore(self._parallel))  # of this task's context, which ends with it
        return await function(*arguments, **options)

    async def send(self, call: Call) -> Reply:
        """The answer to one call."""
        async with _slots_of_caller.get() or self._slots:
            retries = CallRetries(
                f"{call.method} {call.path}",
                self._policy,
                self._budget,
                timeout_s=self._timeout_s,
                patient=call.patient,
            )
            return await AsyncRetrying(**retries.tenacity_options())(self._attempt, call, retries)

    async def send_all(self, calls: Sequence[Call]) -> list[Reply]:
        """The answers to several calls, in order. Raises the first error in that order and drops the calls behind it."""
        return await all_results(self.send(call) for call in calls)

    async def get(self, path: str, model: type[Model], query: Mapping[str, str] | None = None) -> Model:
        """The JSON at a path."""
        return (await self.send(Call(method="GET", path=path, query=query or {}))).parse(model)

    async def delete(self, path: str) -> None:
        """Delete what is at a path."""
        try:
            await self.send(Call(method="DELETE", path=path))
        except Refused as refusal:
            # After a retry, gone means that the first attempt worked and only its answer was lost.
            if not (refusal.status == 404 and refusal.attempts > 1):
                raise

    async def _attempt(self, call: Call, retries: CallRetries) -> Reply:
        retries.attempts += 1
        try:
            with contextlib.ExitStack() as files:
                parts = [
                    (name, (file_name, data if isinstance(data, bytes) else files.enter_context(data.open("rb"))))
                    for name, file_name, data in call.files
                ]
                request = self._http.build_request(
                    call.method,
                    call.path,
                    params=dict(call.query) or None,
                    data=dict(call.fields),
                    files=parts or None,
                    headers=dict(call.headers),
                    timeout=retries.timeout_left_s(),
                )
                response = await self._http.send(request, stream=True)
                try:
                    content = await _read(response, call.to, retries)
                finally:
                    await response.aclose()
        except PASSING_ERRORS as error:
            raise AttemptFailed(f"{type(error).__name__} {error}".strip()) from error
        except httpx2.DecodingError:
            raise BadAnswer("url: the answer cannot be decompressed; is this a CountryReward service") from None
        if response.status_code not in RETRIED_STATUSES:
            self._budget.earn()
        if response.is_success:
            return Reply(content=content, request_id=_request_id(response))
        raise _error(response, content, retries.attempts)


async def all_results(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """What they come to, in order, all running at once. Raises the first error in that order and cancels the others."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(response: httpx2.Response, to: Path | None, retries: CallRetries) -> bytes:
    """The whole body, or b"" where it went into the file `to`. Raises `AttemptFailed` when it trickles in beyond the deadline."""
    chunks: list[bytes] = []
    with to.open("wb") if to is not None and response.is_success else contextlib.nullcontext() as file:
        async for chunk in response.aiter_bytes():
            if retries.deadline_left_s() <= 0:
                raise AttemptFailed(f"the answer did not end within {retries.deadline_s:g} s")
            if file is None:
                chunks.append(chunk)
            else:
                file.write(chunk)
    return b"".join(chunks)


def _request_id(response: httpx2.Response) -> str:
    return response.headers.get("x-request-id", "").partition(",")[0][:100]


def _error(response: httpx2.Response, content: bytes, attempts: int) -> Exception:
    """What an answer that is no success means to the caller."""
    status = response.status_code
    try:
        detail = ErrorAnswer.model_validate_json(content).error
    except ValidationError:  # a page of another server is not repeated
        message = "url: not an answer of a CountryReward service; check the address and what stands in between"
        detail = ErrorDetail(code=f"status_{status}", message=message, request_id="")
    request_id, message = detail.request_id[:100] or _request_id(response), detail.message[:1_000]
    if status in RETRIED_STATUSES:
        return AttemptFailed(
            f"status {status}, {message}",
            status=status,
            request_id=request_id,
            retry_after_s=retry_after_s(response.headers.get("retry-after")),
        )
    if 300 <= status < 400:
        message = f"url: it leads elsewhere (status {status}) and a key is never sent on; give the final address"
        return Refused(message, code=detail.code, status=status, request_id=request_id)
    if not 400 <= status < 500:
        return BadAnswer(f"url: status {status}, {message}", request_id=request_id)
    kind = NotAllowed if status in (401, 403) else Refused
    request = f", request {request_id}" if request_id else ""
    return kind(
        f"{message} ({detail.code}{request})",
        code=detail.code,
        status=status,
        request_id=request_id,
        attempts=attempts,
    )


def service_url(url: str | None) -> str:
    """The service's address, with a slash at its end; None: of the environment. Warns where the key would travel in the clear."""
    text = url or os.environ.get(URL, "")
    if not text:
        raise UserError(f"url: it is missing; give the service's address or set {URL}")
    try:
        address = httpx2.URL(text.strip())
    except (httpx2.InvalidURL, ValueError):
        raise UserError("url: it is no address; write it as https://HOST") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise UserError("url: it is no address; write it as https://HOST")
    if address.userinfo or address.query or address.fragment:
        raise UserError("url: it holds a user, a query or a fragment; write only https://HOST/PATH")
    if address.scheme == "http" and not _is_loopback(address.host):
        message = f"the key and the images go to {address.host} unencrypted; use https://"
        warnings.warn(message, UserWarning, stacklevel=4)
    return str(address).rstrip("/") + "/"


def key_headers(key: str | None) -> dict[str, str]:
    """Headers of every call. key None: of the environment."""
    text = (key or os.environ.get(KEY, "")).strip()
    if not text:
        raise UserError(f"key: it is missing; give your API key or set {KEY}")
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise UserError("key: it holds a character that no key has; copy it again")  # an HTTP library would quote it
    return {"Authorization": f"Bearer {text}", "User-Agent": f"countryreward/{__version__}"}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
