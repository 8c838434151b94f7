"""API keys: who may call, for what, how often. One JSON file that holds no key, only what recognises one."""

import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from countryreward.data.file_primitives import FileLock, write_atomically
from countryreward.errors import UserError

SCOPES = ("score", "batch", "generate", "metrics")
"""What a key can be made for."""
RATE = "6000/minute"
"""Verdicts of a key, unless another rate is given."""
FILE = "keys.json"
"""Name of the file in the service's state folder."""
_KEY = re.compile(r"cr_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
NO_HASH = "0" * 64
"""Compared with when an id is unknown, so that an unknown id takes as long as a wrong secret."""
_BROKEN = (ValueError, TypeError, KeyError, AttributeError)  # what parsing a file that is none may raise
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


StoredKey = tuple[KeyInfo, str]
"""What may be shown of a key, and the key's SHA-256 as hex."""
RecordT = TypeVar("RecordT")


class RecordFile(ABC, Generic[RecordT]):
    """A small JSON file of records by id: read again when it has changed, changed by one process at a time.

    It is looked at at most every `poll_s` seconds. A file that cannot be read or understood changes nothing: the last good
    content holds (of a service that has just started: no record), and the log says so once.
    """

    kind: ClassVar[str]
    """The file's key for the records, and the event in the log."""
    noun: ClassVar[str]
    """What an operator calls the records."""
    missing: ClassVar[str] = ""
    """What to log where there is no file; empty: nothing, that is as it should be."""
    still: ClassVar[str]
    """What holds of the records known before while the file cannot be used."""
    afresh: ClassVar[str]
    """What to do where the file is lost."""

    def __init__(self, path: Path, poll_s: float) -> None:
        self.path, self.poll_s = path, poll_s
        self._records: dict[str, RecordT] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._logged = ""

    @abstractmethod
    def parse(self, record_id: str, content: dict[str, Any]) -> RecordT:
        """A record from its JSON. Raises ValueError, TypeError, KeyError or AttributeError for what is none."""

    @abstractmethod
    def content(self, record: RecordT) -> dict[str, Any]:
        """A record as JSON."""

    def records(self, *, newest: bool = False) -> dict[str, RecordT]:
        """All records by id, for a service. newest: look at the file now, even if that was done a moment ago."""
        now = time.monotonic()
        if newest or now >= self._next_look:
            self._next_look = now + self.poll_s
            try:
                status = self.path.stat()
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                if stamp != self._stamp:
                    self._records, self._stamp = self._parse_all(self.path.read_bytes()), stamp
                self._log_once("")
            except FileNotFoundError:
                self._records, self._stamp = {}, None
                self._log_once(self.missing)
            except (OSError, *_BROKEN) as error:
                self._log_once(f"the file of {self.noun} cannot be used ({type(error).__name__}); {self.still}")
        return self._records

    def read(self) -> dict[str, RecordT]:
        """All records by id, for a command. Raises `UserError` where the file cannot be read or understood."""
        try:
            return self._parse_all(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(
                f"state: {self.path} cannot be read ({error.strerror}); run as the service's user"
            ) from None
        except _BROKEN:
            raise UserError(
                f"state: {self.path} is no file of {self.kind}; restore it, or remove it and {self.afresh}"
            ) from None

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, RecordT]]:
        """Read, change what is given, write: one step among all processes. After an exception nothing is written."""
        with FileLock.take(self.path.with_name(f".{self.path.name}.lock"), mode=0o600):
            records = self.read()
            yield records
            content = {record_id: self.content(record) for record_id, record in records.items()}
            write_atomically(self.path, json.dumps({"schema_version": 1, self.kind: content}, indent=1), mode=0o600)

    def _parse_all(self, content: bytes) -> dict[str, RecordT]:
        return {record_id: self.parse(record_id, one) for record_id, one in json.loads(content)[self.kind].items()}

    def _log_once(self, message: str) -> None:
        if message and message != self._logged:
            _LOG.error(json.dumps({"event": self.kind, "message": message}))
        self._logged = message


class KeyStore(RecordFile[StoredKey]):
    """The API keys in a file. A revoked key is refused `poll_s` seconds later at most; without a file no key is valid."""

    kind, noun, afresh = "keys", "API keys", "make new keys"
    missing = "there is no file of API keys, so every call is refused; make one: countryreward keys create"
    still = "the keys known before stay valid"

    def parse(self, record_id: str, content: dict[str, Any]) -> StoredKey:
        digest = content.pop("sha256")
        content["scopes"] = tuple(content["scopes"])
        info = KeyInfo(**content)
        info.state()  # a date that is none must be noticed now, not at a call
        if info.id != record_id or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError("no file of keys")
        return info, digest

    def content(self, record: StoredKey) -> dict[str, Any]:
        info, digest = record
        return asdict(info) | {"sha256": digest}

    def check(self, presented: str) -> Caller | None:
        """Who presents this key; None for one that is malformed, unknown, wrong, revoked or expired."""
        shaped = _KEY.fullmatch(presented)
        info, digest = self.records().get(shaped[1] if shaped else "", (None, NO_HASH))
        right = hmac.compare_digest(secret_hash(presented), digest)
        if info is None or not right or info.state() != "valid":
            return None
        return Caller(key_id=info.id, tenant=info.tenant, scopes=info.scopes, rate=info.rate)

    def create(self, tenant: str, scopes: Sequence[str] = ("score",), rate: str = RATE, days: int = 0) -> str:
        """A new key, which is shown once and kept nowhere. days: until it expires; 0: never. Raises `UserError`."""
        _demand(tenant, scopes, days)
        rate = rate_of(rate)
        private_folder(self.path.parent)
        with self.changing() as keys:
            now = datetime.now(UTC)
            key_id = free_id(keys)
            key = f"cr_{key_id}_{secrets.token_urlsafe(32)}"
            info = KeyInfo(
                id=key_id,
                tenant=tenant,
                scopes=tuple(dict.fromkeys(scopes)),
                rate=rate,
                created=iso_text(now),
                expires=iso_text(now + timedelta(days=days)) if days else None,
                revoked=None,
            )
            keys[key_id] = (info, secret_hash(key))
        return key

    def list(self) -> list[KeyInfo]:
        """All keys, also revoked and expired ones, oldest first. Raises `UserError` when the file cannot be read."""
        return sorted((info for info, _ in self.read().values()), key=lambda info: (info.created, info.id))

    def revoke(self, key_id: str) -> None:
        """End a key for good. Raises `UserError` for an unknown id."""
        if key_id not in self.read():  # before a lock file is made in a folder that may not exist
            raise UserError(f"key id: {key_id!r} is not known; `countryreward keys list` shows the ids")
        with self.changing() as keys:
            info, digest = keys[key_id]
            keys[key_id] = (replace(info, revoked=info.revoked or iso_text(datetime.now(UTC))), digest)


def free_id(records: Container[str]) -> str:
    """8 hex digits that no record has."""
    while (record_id := secrets.token_hex(4)) in records:
        pass
    return record_id


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


def iso_text(moment: datetime) -> str:
    """As the files of keys and guests write a time: ISO 8601, to the second."""
    return moment.isoformat(timespec="seconds")
