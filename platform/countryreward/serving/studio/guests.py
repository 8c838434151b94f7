"""Guests of the studio: an invitation is used once and becomes a session. One JSON file that holds neither, only hashes."""

import hmac
import re
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from countryreward.errors import UserError
from countryreward.serving.http.keys import (
    NO_HASH,
    RATE,
    Caller,
    RecordFile,
    demand_tenant,
    free_id,
    iso_text,
    private_folder,
    rate_of,
    secret_hash,
)

FILE = "guests.json"
"""Name of the file in the service's state folder."""
OPEN_HOURS = 72
"""How long an invitation can be used."""
SCOPE = "studio"
_SECRET = re.compile(r"(ci|cs)_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NAME = 60


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


class GuestStore(RecordFile[Guest]):
    """The guests in a file. A revoked one is signed out `poll_s` seconds later at most; without a file nobody is let in."""

    kind, noun, afresh = "guests", "guests", "invite them again"
    still = "those known before stay signed in"

    def parse(self, record_id: str, content: dict[str, Any]) -> Guest:
        guest = Guest(**content)
        guest.state()  # a date that is none must be noticed now, not when somebody comes
        if guest.id != record_id or not re.fullmatch(r"[0-9a-f]{64}", guest.code):
            raise ValueError("no file of guests")
        return guest

    def content(self, record: Guest) -> dict[str, Any]:
        return asdict(record)

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
        with self.changing() as guests:
            guest_id = free_id(guests)
            code = f"ci_{guest_id}_{secrets.token_urlsafe(32)}"
            guests[guest_id] = Guest(
                id=guest_id,
                tenant=tenant,
                name=name,
                rate=rate,
                days=days,
                created=iso_text(now),
                open_until=iso_text(now + timedelta(hours=OPEN_HOURS)),
                code=secret_hash(code),
            )
        return code

    def sign_in(self, code: str) -> tuple[str, Guest] | None:
        """Use an invitation up: a session's token, shown once, and whose it is. None: it is not known, was used, or lapsed."""
        if self._owner(code, "ci") is None:  # nobody makes us write who has no invitation
            return None
        with self.changing() as guests:
            guest = guests.get(code[3:11])
            if guest is None or guest.state() != "invited" or not hmac.compare_digest(secret_hash(code), guest.code):
                return None
            token = f"cs_{guest.id}_{secrets.token_urlsafe(32)}"
            expires = iso_text(datetime.now(UTC) + timedelta(days=guest.days))
            guests[guest.id] = guest = replace(guest, expires=expires, session=secret_hash(token))
        self.records(newest=True)
        return token, guest

    def check(self, token: str) -> tuple[Caller, Guest] | None:
        """Whose session this is; None for a token that is malformed, unknown, wrong, or whose session has ended."""
        guest = self._owner(token, "cs")
        if guest is None or guest.state() != "signed in":
            return None
        return Caller(key_id=guest.id, tenant=guest.tenant, scopes=(SCOPE,), rate=guest.rate), guest

    def list(self) -> list[Guest]:
        """All of them, oldest first. Raises `UserError` when the file cannot be read."""
        return sorted(self.read().values(), key=lambda guest: (guest.created, guest.id))

    def knows(self, guest_id: str) -> bool:
        """Whether there is such a guest. Raises `UserError` as `list`."""
        return guest_id in self.read()

    def revoke(self, guest_id: str) -> None:
        """End an invitation, or its session, for good. Raises `UserError` for an unknown id."""
        if not self.knows(guest_id):
            raise UserError(f"id: {guest_id!r} is not known; `countryreward keys list` shows the ids")
        with self.changing() as guests:
            guest = guests[guest_id]
            guests[guest_id] = replace(guest, revoked=guest.revoked or iso_text(datetime.now(UTC)))
        self.records(newest=True)

    def _owner(self, secret: str, kind: str) -> Guest | None:
        """Whose invitation (ci) or session (cs) this is, whatever its state."""
        shaped = _SECRET.fullmatch(secret)
        guest_id = shaped[2] if shaped and shaped[1] == kind else ""
        guest = self.records().get(guest_id)
        if guest_id and not _digest(guest, kind):  # somebody may have signed in at another replica a moment ago
            guest = self.records(newest=True).get(guest_id)
        return guest if hmac.compare_digest(secret_hash(secret), _digest(guest, kind) or NO_HASH) else None


def _digest(guest: Guest | None, kind: str) -> str:
    """SHA-256 of a guest's invitation (ci) or session (cs); empty where there is none."""
    if guest is None:
        return ""
    return guest.code if kind == "ci" else guest.session


def link_of(url: str, code: str) -> str:
    """What to send to whoever is invited. The code stands behind the #, which browsers send to nobody."""
    return f"{url.rstrip('/')}/studio/#invite={code}"
