"""Guests of the studio: an invitation is used once and becomes a session. One JSON file that holds neither, only hashes."""

import contextlib
import fcntl
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from countryreward.data.artifacts import write_atomically
from countryreward.errors import UserError
from countryreward.serving.http.keys import RATE, Caller, demand_tenant, private_folder, rate_of, secret_hash

FILE = "guests.json"
"""Name of the file in the service's state folder."""
OPEN_HOURS = 72
"""How long an invitation can be used."""
SCOPE = "studio"
_SECRET = re.compile(r"(ci|cs)_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64  # compared with where there is no such guest, so that it takes as long
_NAME = 60
_LOG = logging.getLogger("countryreward.service")
_BROKEN = (ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Somebody who was invited. Times are UTC, ISO 8601."""

    id: str
    tenant: str
    name: str
    rate: str
    """Verdicts of the whole tenant in the studio, such as 6000/minute."""
    days: int
    """How long the session lasts from signing in."""
    created: str
    open_until: str
    """When the invitation lapses, unless it is used."""
    expires: str | None = None
    """When the session ends; None: nobody has signed in yet."""
    revoked: str | None = None
    code: str
    """SHA-256 of the invitation, hex."""
    session: str = ""
    """SHA-256 of the session's token, hex; empty: nobody has signed in yet."""

    def state(self) -> str:
        """invited, lapsed, signed in, expired or revoked."""
        now = datetime.now(UTC)
        if self.revoked is not None:
            return "revoked"
        if self.expires is not None:
            return "signed in" if now < datetime.fromisoformat(self.expires) else "expired"
        return "invited" if now < datetime.fromisoformat(self.open_until) else "lapsed"


class GuestStore:
    """The guests in a file, which is looked at again at most every `poll_s` seconds, or when somebody unknown comes.

    Without a file nobody is let in. A file that cannot be read or understood changes nothing: the last good content holds.
    """

    def __init__(self, path: Path, poll_s: float) -> None:
        self.path, self.poll_s = path, poll_s
        self._known: dict[str, Guest] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._told = ""

    def invite(self, tenant: str, name: str, days: int = 30, rate: str = RATE) -> str:
        """A new invitation's code, which is shown once and kept nowhere. Raises `UserError`."""
        demand_tenant(tenant)
        name = name.strip()
        if not 1 <= len(name) <= _NAME or not name.isprintable():
            raise UserError(f"name: {name[:_NAME]!r} must be 1 to {_NAME} characters that can be shown")
        if not 1 <= days <= 366:
            raise UserError(f"days: {days} must be 1 to 366")
        rate, now = rate_of(rate), datetime.now(UTC)
        private_folder(self.path.parent)
        with self._changing() as known:
            while (guest_id := secrets.token_hex(4)) in known:
                pass
            code = f"ci_{guest_id}_{secrets.token_urlsafe(32)}"
            known[guest_id] = Guest(
                id=guest_id,
                tenant=tenant,
                name=name,
                rate=rate,
                days=days,
                created=_text(now),
                open_until=_text(now + timedelta(hours=OPEN_HOURS)),
                code=secret_hash(code),
            )
        return code

    def sign_in(self, code: str) -> tuple[str, Guest] | None:
        """Use an invitation up: a session's token, shown once, and whose it is. None: it is not known, was used, or lapsed."""
        if self._right(code, "ci") is None:  # nobody makes us write who has no invitation
            return None
        with self._changing() as known:
            guest = known.get(code[3:11])
            if guest is None or guest.state() != "invited" or not hmac.compare_digest(secret_hash(code), guest.code):
                return None
            token = f"cs_{guest.id}_{secrets.token_urlsafe(32)}"
            expires = _text(datetime.now(UTC) + timedelta(days=guest.days))
            known[guest.id] = guest = replace(guest, expires=expires, session=secret_hash(token))
        self._next_look = 0.0
        return token, guest

    def check(self, token: str) -> tuple[Caller, Guest] | None:
        """Whose session this is; None for a token that is malformed, unknown, wrong, or whose session has ended."""
        guest = self._right(token, "cs")
        if guest is None or guest.state() != "signed in":
            return None
        return Caller(key_id=guest.id, tenant=guest.tenant, scopes=(SCOPE,), rate=guest.rate), guest

    def list(self) -> list[Guest]:
        """All of them, oldest first. Raises `UserError` when the file cannot be read."""
        return sorted(self._read().values(), key=lambda guest: (guest.created, guest.id))

    def knows(self, guest_id: str) -> bool:
        """Whether there is such a guest. Raises `UserError` as `list`."""
        return guest_id in self._read()

    def revoke(self, guest_id: str) -> None:
        """End an invitation, or its session, for good. Raises `UserError` for an unknown id."""
        if not self.knows(guest_id):
            raise UserError(f"id: {guest_id!r} is not known; `countryreward keys list` shows the ids")
        with self._changing() as known:
            guest = known[guest_id]
            known[guest_id] = replace(guest, revoked=guest.revoked or _text(datetime.now(UTC)))
        self._next_look = 0.0

    def _right(self, secret: str, kind: str) -> Guest | None:
        """Whose invitation (ci) or session (cs) this is, whatever its state."""
        shaped = _SECRET.fullmatch(secret)
        guest_id = shaped[2] if shaped and shaped[1] == kind else ""
        self._look()
        guest = self._known.get(guest_id)
        if guest_id and (guest is None or not getattr(guest, "code" if kind == "ci" else "session")):
            self._next_look = 0.0  # somebody may have signed in at another replica a moment ago
            self._look()
            guest = self._known.get(guest_id)
        expected = (guest.code if kind == "ci" else guest.session) if guest else ""
        return guest if hmac.compare_digest(secret_hash(secret), expected or _NOBODY) else None

    def _look(self) -> None:
        """Take in the file when it has changed."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self.poll_s
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._known, self._stamp = _parse(self.path.read_bytes()), stamp
            self._told = ""
        except FileNotFoundError:
            self._known, self._stamp = {}, None
        except (OSError, *_BROKEN) as error:
            message = f"the file of guests cannot be used ({type(error).__name__}); those known before stay signed in"
            if message != self._told:
                _LOG.error(json.dumps({"event": "guests", "message": message}))
            self._told = message

    def _read(self) -> dict[str, Guest]:
        try:
            return _parse(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(
                f"state: {self.path} cannot be read ({error.strerror}); run as the service's user"
            ) from None
        except _BROKEN:
            raise UserError(
                f"state: {self.path} is no file of guests; restore it, or remove it and invite them again"
            ) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Guest]]:
        """Read, change, write as one step among all processes."""
        lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._read()
            yield known
            told: dict[str, Any] = {guest_id: asdict(guest) for guest_id, guest in known.items()}
            write_atomically(self.path, json.dumps({"schema_version": 1, "guests": told}, indent=1), mode=0o600)
        finally:
            os.close(lock)


def link_of(url: str, code: str) -> str:
    """What to send to whoever is invited. The code stands behind the #, which browsers send to nobody."""
    return f"{url.rstrip('/')}/studio/#invite={code}"


def _parse(content: bytes) -> dict[str, Guest]:
    known = {}
    for guest_id, one in json.loads(content)["guests"].items():
        guest = Guest(**one)
        guest.state()  # a date that is none must be found now, not when somebody comes
        if guest.id != guest_id or not re.fullmatch(r"[0-9a-f]{64}", guest.code):
            raise ValueError("no file of guests")
        known[guest_id] = guest
    return known


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
