"""Calls of an ASGI app down to the byte, as a server would make them, and what came back."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

BOUNDARY = "edge"
MULTIPART = ("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
Headers = Sequence[tuple[str | bytes, str | bytes]]


@dataclass
class Answered:
    """What the app sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    reads: int
    """How often the app asked for the body."""

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        found = [value.decode() for key, value in self.headers if key.decode().lower() == name.lower()]
        assert len(found) <= 1
        return found[0] if found else None

    def code(self) -> str:
        """Of an error, after a look at everything an error must be."""
        assert self.header("content-type") == "application/json"
        assert len(self.body) <= 4_096
        error = self.json()["error"]
        assert set(error) == {"code", "message", "request_id"}
        assert error["message"]
        assert error["request_id"] == self.header("x-request-id")
        return error["code"]


def raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


async def called(
    app: Callable[..., Awaitable[None]],
    method: str,
    path: str,
    headers: Headers = (),
    body: bytes | Sequence[bytes] = b"",
    *,
    length: bool = True,
    leaves: bool = False,
    stalls: bool = False,
    root_path: str = "",
) -> Answered:
    """One call. length: send Content-Length; leaves: the caller hangs up where the body ends; stalls: more is announced and
    never comes."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    sent = [(raw(name).lower(), raw(value)) for name, value in headers]
    if length and any(chunks):
        sent.append((b"content-length", str(sum(map(len, chunks))).encode()))
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": root_path + path,
        "raw_path": (root_path + path).encode(),
        "root_path": root_path,
        "query_string": query.encode(),
        "headers": sent,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    left, reads, messages = list(chunks), 0, []

    async def receive() -> dict[str, Any]:
        nonlocal reads
        reads += 1
        if left:
            chunk = left.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(left) or leaves or stalls}
        if not leaves:
            await asyncio.sleep(3_600)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if leaves:
            raise OSError("the caller is gone")
        messages.append(message)

    await app(scope, receive, send)
    if not messages:
        return Answered(0, [], b"", reads)
    start, *rest = messages
    assert start["type"] == "http.response.start"
    return Answered(start["status"], start["headers"], b"".join(one.get("body", b"") for one in rest), reads)


def call(*args: Any, **options: Any) -> Answered:
    """`called`, from outside a loop."""
    return asyncio.run(called(*args, **options))


def form(
    fields: Sequence[tuple[str, str | bytes]], files: Sequence[tuple[str, bytes]] = (), name: str = "a.png"
) -> bytes:
    """A multipart body."""
    parts = [(f'name="{field}"', value) for field, value in fields]
    parts += [(f'name="{field}"; filename="{name}"', data) for field, data in files]
    told = [
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
        % (raw(BOUNDARY), head.encode(), value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))
        for head, value in parts
    ]
    return b"".join(told) + f"--{BOUNDARY}--\r\n".encode()
