"""How many verdicts a key may ask: fixed windows of the `limits` library, counted for all replicas of a node or a cluster."""

import json
import logging
import socket
import sqlite3
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import limits
from limits.errors import ConfigurationError
from limits.storage import Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

from countryreward.errors import UserError
from countryreward.serving.http.keys import Caller
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import SharedServiceConfig

SCHEME = "countryreward+sqlite"
_PATIENCE_S = 1.0  # a storage that is slower than this counts as failed
_PAUSE_S = 1.0  # after a failure the storage is left alone for so long
_LOG = logging.getLogger("countryreward.service")
_parse = lru_cache(1_024)(limits.parse)


class Rates:
    """Counts verdicts by tenant and key. A storage that fails takes nothing down: calls pass, and the log says so."""

    def __init__(self, uri: str) -> None:
        """uri: of the `limits` library (redis://HOST:6379, memory://) or `countryreward+sqlite:///FILE`. Raises `UserError`."""
        options: dict[str, Any] = {}
        if urlsplit(uri).scheme.startswith("redis"):  # which else waits for ever
            options = {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S}
        try:
            storage = cast(Storage, storage_from_string(uri, **options))
        except ConfigurationError as error:
            raise UserError(
                f"rates: {urlsplit(uri).scheme}:// cannot be used ({error}); install what it needs, or leave rates empty"
            ) from None
        self._limiter = FixedWindowRateLimiter(storage)
        self._closed_until = self._silent_until = 0.0

    @classmethod
    def of(cls, config: SharedServiceConfig) -> "Rates":
        """Counters as configured: `config.rates`, or a file in the state folder for the replicas of this node."""
        return cls(config.rates or sqlite_uri(Path(config.state) / f"rates-{socket.gethostname()}.sqlite"))

    def charge(self, caller: Caller, cost: int = 1) -> None:
        """Count `cost` verdicts. Raises `Problem` when the window has not so many left; then nothing was counted.

        It may wait a second for its storage: call it in a thread.
        """
        if cost < 1 or time.monotonic() < self._closed_until:
            return
        rate, who = _parse(caller.rate), f"{caller.tenant}/{caller.key_id}"
        if cost > rate.amount:
            raise Problem(
                "rate_limited", f"{cost} verdicts in one call are more than the key's rate; ask fewer at a time"
            )
        try:
            left = cost == 1 or self._limiter.test(
                rate, who, cost=cost
            )  # a refused large call leaves room for small ones
            if left and self._limiter.hit(rate, who, cost=cost):
                return
            reset = self._limiter.get_window_stats(rate, who).reset_time
        except Exception as error:  # of whatever storage it is
            self._failed(error)
            return
        raise Problem("rate_limited", retry_after=max(0.0, reset - time.time()))

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        self._closed_until = now + _PAUSE_S
        if now >= self._silent_until:
            self._silent_until = now + 60.0
            message = f"rates cannot be counted ({type(error).__name__}), so no call is refused for its rate"
            _LOG.error(json.dumps({"event": "rates", "message": message}))


def sqlite_uri(path: Path) -> str:
    """What `Rates` takes for a file. Not for a folder shared over a network: SQLite's counters need one machine."""
    return path.absolute().as_uri().replace("file", SCHEME, 1)


class SqliteStorage(Storage):
    """Counters in a SQLite file, exact among threads and processes of one machine; lost with it, which costs one window."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - as the library declares it

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **options: float | str | bool) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        self.path = Path(unquote(urlsplit(uri or "").path))
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._next_sweep = 0.0

    @property
    def base_exceptions(self) -> type[Exception]:
        """What it raises when it fails."""
        return sqlite3.Error

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a counter, which starts anew when its window has ended."""
        now = time.time()
        with self._lock:
            ((count,),) = self._run(_ADD, {"key": key, "amount": amount, "now": now, "expires": now + expiry})
            if now >= self._next_sweep:
                self._next_sweep = now + 60.0
                self._run("DELETE FROM counters WHERE expires <= ?", (now,))
        return count

    def get(self, key: str) -> int:
        """A counter's value; 0 when there is none."""
        with self._lock:
            rows = self._run("SELECT count FROM counters WHERE key = ? AND expires > ?", (key, time.time()))
        return rows[0][0] if rows else 0

    def get_expiry(self, key: str) -> float:
        """When a counter's window ends, Unix time; now when there is none."""
        with self._lock:
            rows = self._run("SELECT expires FROM counters WHERE key = ?", (key,))
        return rows[0][0] if rows else time.time()

    def check(self) -> bool:
        """Whether it can be used."""
        with self._lock:
            return self._run("SELECT 1", ()) == [(1,)]

    def reset(self) -> int:
        """Forget all counters."""
        with self._lock:
            return len(self._run("DELETE FROM counters RETURNING key", ()))

    def clear(self, key: str) -> None:
        """Forget one counter."""
        with self._lock:
            self._run("DELETE FROM counters WHERE key = ?", (key,))

    def _run(self, statement: str, values: Any) -> list[Any]:
        if self._connection is None:
            self._connection = _open(self.path)
        return self._connection.execute(statement, values).fetchall()


_ADD = """
INSERT INTO counters VALUES (:key, :amount, :expires) ON CONFLICT (key) DO UPDATE SET
  count = iif(expires <= :now, excluded.count, count + excluded.count),
  expires = iif(expires <= :now, excluded.expires, expires)
RETURNING count
"""


@retry(  # SQLite does not wait when two processes switch a new file to WAL at the same time
    retry=retry_if_exception_type(sqlite3.OperationalError),
    stop=stop_after_delay(_PATIENCE_S),
    wait=wait_random(0.005, 0.05),
    reraise=True,
)
def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # a counter is not worth a disk's flush
        connection.execute(
            "CREATE TABLE IF NOT EXISTS counters (key TEXT PRIMARY KEY, count INTEGER NOT NULL, expires REAL NOT NULL)"
            " WITHOUT ROWID"
        )
    except sqlite3.Error:
        connection.close()
        raise
    return connection
