"""One attempt at a call, but for the sending itself: what goes out, where the answer goes, what an answer means."""

import contextlib
from types import TracebackType
from typing import Any, Self

import httpx2
from pydantic import ValidationError

from countryreward.api.schemas import ErrorAnswer, ErrorDetail
from countryreward.client.calls import Call, Reply
from countryreward.client.client_errors import BadAnswer, NotAllowed, Refused
from countryreward.client.retrying import RETRIED, Failed, Patience, seconds

PASSING = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)
"""Errors of the connection that may pass."""


class Attempt:
    """`with` it: files are opened, and closed again; errors of the connection leave it as `Failed`."""

    def __init__(self, call: Call, patience: Patience) -> None:
        self.call, self.patience = call, patience
        patience.attempts += 1
        self._open = contextlib.ExitStack()
        self._chunks: list[bytes] = []
        self._file: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if isinstance(error, PASSING):
            raise Failed(f"{type(error).__name__} {error}".strip()) from error
        if isinstance(error, httpx2.DecodingError):
            raise BadAnswer("url: the answer cannot be decompressed; is this a CountryReward service") from None

    def request(self) -> dict[str, Any]:
        """Arguments of `build_request` of httpx2."""
        files = [
            (field, (name, data if isinstance(data, bytes) else self._open.enter_context(data.open("rb"))))
            for field, name, data in self.call.files
        ]
        return {
            "method": self.call.method,
            "url": self.call.path,
            "params": dict(self.call.query) or None,
            "data": dict(self.call.fields),
            "files": files or None,
            "headers": dict(self.call.headers),
            "timeout": self.patience.left_s(),
        }

    def answered(self, response: httpx2.Response) -> None:
        """The head of the answer is here."""
        if self.call.to is not None and response.is_success:
            self._file = self._open.enter_context(self.call.to.open("wb"))

    def take(self, chunk: bytes) -> None:
        """A piece of the answer. Raises `Failed` when it trickles in beyond the deadline."""
        if self.patience.deadline_left_s() <= 0:
            raise Failed(f"the answer did not end within {self.patience.deadline_s:g} s")
        if self._file is None:
            self._chunks.append(chunk)
        else:
            self._file.write(chunk)

    def reply(self, response: httpx2.Response) -> Reply:
        """The whole answer. Raises `Failed`, `Refused`, `NotAllowed` or `BadAnswer` for what is not 2xx."""
        content, status = b"".join(self._chunks), response.status_code
        request_id = response.headers.get("x-request-id", "").partition(",")[0][:100]
        if status not in RETRIED:
            self.patience.answered()
        if response.is_success:
            return Reply(status=status, content=content, request_id=request_id)
        detail = _detail(content, status)
        request_id = detail.request_id[:100] or request_id
        if status in RETRIED:
            raise Failed(
                f"status {status}, {detail.message[:1_000]}",
                status=status,
                request_id=request_id,
                retry_after=seconds(response.headers.get("retry-after")),
            )
        if 300 <= status < 400:
            raise Refused(
                f"url: it leads elsewhere (status {status}) and a key is never sent on; give the final address",
                code=detail.code,
                status=status,
                request_id=request_id,
            )
        if not 400 <= status < 500:
            raise BadAnswer(f"url: status {status}, {detail.message[:1_000]}", request_id=request_id)
        kind = NotAllowed if status in (401, 403) else Refused
        named = f", request {request_id}" if request_id else ""
        raise kind(
            f"{detail.message[:1_000]} ({detail.code}{named})",
            code=detail.code,
            status=status,
            request_id=request_id,
            attempts=self.patience.attempts,
        )


def _detail(content: bytes, status: int) -> ErrorDetail:
    """What an error says; a page of another server is not repeated."""
    try:
        return ErrorAnswer.model_validate_json(content).error
    except ValidationError:
        said = "url: not an answer of a CountryReward service; check the address and what stands in between"
        return ErrorDetail(code=f"status_{status}", message=said, request_id="")
