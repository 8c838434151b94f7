"""API keys: who may call, for what, how often. One JSON file that holds no key, only what recognises one."""

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from countryreward.data.artifacts import write_atomically
from countryreward.errors import UserError

SCOPES = ("score", "batch", "generate", "metrics")
"""What a key can be made for."""
RATE = "6000/minute"
"""Verdicts of a key, unless another rate is given."""
FILE = "keys.json"
"""Name of the file in the service's state folder."""
_KEY = re.compile(r"cr_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_NOBODY = "0" * 64  # compared with when the id is unknown, so that an unknown id takes as long as a wrong secret
_LOG = logging.getLogger("countryreward.service")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks."""

    key_id: str
    tenant: str
    scopes: tuple[str, ...]
    rate: str
    """Verdicts, such as 6000/minute."""


@dataclass(frozen=True, kw_only=True)
class KeyInfo:
    """What may be shown of a key."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    rate: str
    created: str
    """UTC, ISO 8601, as are the next two."""
    expires: str | None
    revoked: str | None

    def state(self) -> str:
        """valid, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        expired = self.expires is not None and datetime.fromisoformat(self.expires) <= datetime.now(UTC)
        return "expired" if expired else "valid"


_Known = dict[str, tuple[KeyInfo, str]]  # id -> (what may be shown, SHA-256 of the key as hex)


class KeyStore:
    """The keys in a file, which is looked at again at most every `poll_s` seconds: so soon a revoked key is refused.

    Without a file no key is valid. A file that cannot be read or understood changes nothing: the last good content holds
    (of a service that has just started: no key), and the log says so.
    """

    def __init__(self, path: Path, poll_s: float) -> None:
        self.path, self.poll_s = path, poll_s
        self._known: _Known = {}
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._told = ""

    def check(self, presented: str) -> Caller | None:
        """Who presents this key; None for one that is malformed, unknown, wrong, revoked or expired."""
        self._look()
        shaped = _KEY.fullmatch(presented)
        info, expected = self._known.get(shaped[1] if shaped else "", (None, _NOBODY))
        right = hmac.compare_digest(secret_hash(presented), expected)
        if info is None or not right or info.state() != "valid":
            return None
        return Caller(key_id=info.id, tenant=info.tenant, scopes=info.scopes, rate=info.rate)

    def create(self, tenant: str, scopes: Sequence[str] = ("score",), rate: str = RATE, days: int = 0) -> str:
        """A new key, which is shown once and kept nowhere. days: until it expires; 0: never. Raises `UserError`."""
        _demand(tenant, scopes, days)
        rate = rate_of(rate)
        private_folder(self.path.parent)
        with self._changing() as known:
            now = datetime.now(UTC)
            while (key_id := secrets.token_hex(4)) in known:
                pass
            key = f"cr_{key_id}_{secrets.token_urlsafe(32)}"
            info = KeyInfo(
                id=key_id,
                tenant=tenant,
                scopes=tuple(dict.fromkeys(scopes)),
                rate=rate,
                created=_text(now),
                expires=_text(now + timedelta(days=days)) if days else None,
                revoked=None,
            )
            known[key_id] = (info, secret_hash(key))
        return key

    def list(self) -> list[KeyInfo]:
        """All keys, also revoked and expired ones, oldest first. Raises `UserError` when the file cannot be read."""
        return sorted((info for info, _ in self._read_for_command().values()), key=lambda info: (info.created, info.id))

    def revoke(self, key_id: str) -> None:
        """End a key for good. Raises `UserError` for an unknown id."""
        if key_id not in self._read_for_command():  # before a lock file is made in a folder that may not exist
            raise UserError(f"key id: {key_id!r} is not known; `countryreward keys list` shows the ids")
        with self._changing() as known:
            info, digest = known[key_id]
            known[key_id] = (replace(info, revoked=info.revoked or _text(datetime.now(UTC))), digest)

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
            self._tell("there is no file of API keys, so every call is refused; make one: countryreward keys create")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._tell(
                f"the file of API keys cannot be used ({type(error).__name__}); the keys known before stay valid"
            )

    def _tell(self, message: str) -> None:
        """Once, not at every look."""
        if message != self._told:
            _LOG.error(json.dumps({"event": "keys", "message": message}))
        self._told = message

    def _read_for_command(self) -> _Known:
        try:
            return _parse(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(
                f"state: {self.path} cannot be read ({error.strerror}); run as the service's user"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"state: {self.path} is no file of keys; restore it, or remove it and make new keys"
            ) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Known]:
        """Read, change, write as one step among all processes."""
        lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._read_for_command()
            yield known
            told = {key_id: asdict(info) | {"sha256": digest} for key_id, (info, digest) in known.items()}
            write_atomically(self.path, json.dumps({"schema_version": 1, "keys": told}, indent=1), mode=0o600)
        finally:
            os.close(lock)


def _parse(content: bytes) -> _Known:
    told = json.loads(content)
    known = {}
    for key_id, one in told["keys"].items():
        digest = one.pop("sha256")
        info = KeyInfo(**one | {"scopes": tuple(one["scopes"])})
        info.state()  # a date that is none must be found now, not at a call
        if info.id != key_id or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError("no file of keys")
        known[key_id] = (info, digest)
    return known


def secret_hash(key: str) -> str:
    """A plain SHA-256 is enough: the secret is 256 random bits and cannot be guessed, so a slow hash would protect nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def private_folder(folder: Path) -> None:
    """Make the state folder, for its owner alone. Raises `UserError` where others may write, and so let themselves in."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UserError(
                f"state: others may write in {folder}, and so make keys; run chmod 700 on it first"
            ) from None
    except FileNotFoundError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def demand_tenant(tenant: str) -> None:
    """Raises `UserError` for what is no tenant's name."""
    if not _TENANT.fullmatch(tenant):
        raise UserError(f"tenant: {tenant!r} must be 1 to 40 of a-z, 0-9 and -, not starting with -")


def _demand(tenant: str, scopes: Sequence[str], days: int) -> None:
    demand_tenant(tenant)
    if not scopes:
        raise UserError(f"scope: none was given; choose among {', '.join(SCOPES)}")
    for scope in scopes:
        if scope not in SCOPES:
            raise UserError(f"scope: {scope!r} is not known; choose among {', '.join(SCOPES)}")
    if not 0 <= days <= 36_500:
        raise UserError(f"days: {days} must be 1 to 36500, or 0 for a key that never expires")


def rate_of(text: str) -> str:
    """A rate that `limits` understands and that lets something through."""
    import limits  # 0.15 s, and only needed where keys are made

    try:
        rates = limits.parse_many(text)
    except ValueError:
        rates = []
    if len(rates) != 1 or rates[0].amount < 1 or rates[0].get_expiry() < 1:
        raise UserError(f"rate: {text!r} is no rate of verdicts; write one such as {RATE} or 100/second")
    return text.strip()


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
