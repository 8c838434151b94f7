"""What is kept of images between requests: by tenant and content hash, bounded in bytes, forgotten after a time."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")
Key = tuple[str, str]
"""(tenant, content hash): one tenant's image says nothing, not even by its speed, about another's."""


class BoundedCache(Generic[ValueT]):
    """Least recently used go first. Not for several threads."""

    def __init__(self, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes, self.max_age_s, self.clock = max_bytes, max_age_s, clock
        self.bytes = 0
        self._kept: OrderedDict[Key, tuple[float, int, ValueT]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> ValueT | None:
        """The value, and it counts as used now; None where there is none."""
        self.sweep()
        found = self._kept.pop(key, None)
        if found is None:
            return None
        _, size, value = found
        self._kept[key] = (self.clock(), size, value)
        return value

    def put(self, key: Key, value: ValueT, size: int) -> None:
        """Keep a value of so many bytes; one larger than the whole cache is not kept."""
        self.drop(key)
        if size > self.max_bytes:
            return
        self._kept[key] = (self.clock(), size, value)
        self.bytes += size
        while self.bytes > self.max_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, key: Key) -> None:
        """Forget one."""
        found = self._kept.pop(key, None)
        self.bytes -= found[1] if found else 0

    def sweep(self) -> None:
        """Forget what was not used for too long: the oldest use comes first."""
        oldest_allowed = self.clock() - self.max_age_s
        while self._kept and next(iter(self._kept.values()))[0] < oldest_allowed:
            self.drop(next(iter(self._kept)))
