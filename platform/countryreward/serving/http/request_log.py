"""One line of JSON per request, for operators. It never holds a key, a title, an image, a raw path or an exception's words."""

import contextlib
import json
import logging
import logging.handlers
import os
import socket
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

_LOG = logging.getLogger("countryreward.service")
_KEPT_S = 7 * 86_400


@dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """What is kept of a request and its answer, for the log and for metrics."""

    request_id: str
    tenant: str | None
    """None when nobody was let in."""
    key_id: str | None
    method: str
    """OTHER when it is none of HTTP's."""
    route: str
    """The path as the app declares it, such as /v1/batch/{job}; unknown where there is none."""
    status: int
    """Of the answer; 499: the caller left before."""
    seconds: float
    """From the request's head to the end of the answer."""
    verdicts: int
    """Verdicts given."""
    bytes_in: int
    """Bytes of the body, as far as it was read."""
    bytes_out: int
    """Bytes of the answer's body."""
    error: BaseException | None = None
    """An exception that nothing caught."""


def write(record: RequestRecord) -> None:
    """Log a request under `countryreward.service`: INFO, or ERROR with the way to the fault."""
    line: dict[str, Any] = {
        "event": "request",
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "tenant": record.tenant,
        "key_id": record.key_id,
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "ms": round(record.seconds * 1e3, 1),
        "verdicts": record.verdicts,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
    }
    if record.error is not None:
        line["error"] = _place(record.error)
    _LOG.log(logging.INFO if record.error is None else logging.ERROR, "%s", json.dumps(line))


def fault(what: str, error: BaseException) -> None:
    """Log that something of ours failed: what was being done, and the way to the fault."""
    line = {"event": "fault", "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "what": what}
    _LOG.error("%s", json.dumps({**line, "error": _place(error)}))


def to_files(folder: Path) -> None:
    """Log of this process into a file of its own, at most 5 of 10 MiB; those that nobody wrote to for a week are deleted."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.glob("service-*"):
        with contextlib.suppress(FileNotFoundError):  # another replica was faster
            if time.time() - old.stat().st_mtime > _KEPT_S:
                old.unlink()
    name = f"service-{socket.gethostname()}-{os.getpid()}.jsonl"
    handler = logging.handlers.RotatingFileHandler(folder / name, maxBytes=10 * 2**20, backupCount=4, encoding="utf-8")
    handler.setFormatter(_Lines())
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed body


class _Lines(logging.Formatter):
    """Other messages of ours as JSON, too."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if text.startswith('{"event": "request"'):
            return text
        now = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"event": "message", "time": now, "level": record.levelname}
        line |= json.loads(text) if text.startswith('{"event"') else {"text": text}
        if record.exc_info and record.exc_info[1]:
            line["error"] = _place(record.exc_info[1])
        return json.dumps(line)


def _place(error: BaseException) -> list[dict[str, Any]]:
    """Types and frames of an exception and of what caused it. Its message is left out: it may quote a title."""
    chain: list[dict[str, Any]] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 4:
        frames = [
            f"{'/'.join(PurePath(frame.f_code.co_filename).parts[-2:])}:{line}"
            for frame, line in traceback.walk_tb(link.__traceback__)
        ]
        chain.append({"type": type(link).__name__, "frames": frames[-12:]})
        link = link.__cause__ or link.__context__
    return chain
