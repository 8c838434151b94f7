"""Where this process stands among those that train together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from countryreward.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of `world`. Alone, nothing is communicated."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "ProcessGroup":
        """Of torch's process group when there is one."""
        if not torch.distributed.is_initialized():
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def mean(self, values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
        """Means over all processes, the same on each."""
        if self.world == 1:
            return [float(value) for value in values]
        summed = torch.tensor(values, dtype=torch.float32, device=device)
        torch.distributed.all_reduce(summed)
        return (summed / self.world).tolist()

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The arrays of all processes, [world, n], the same on each; all have one length."""
        if self.world == 1:
            return values[None]
        return np.stack(self.gather_objects(values))

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes by rank, the same list on each. They travel by pickle: for small things, seldom."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def first_of(self, value: Any) -> Any:
        """The first process's value, given to all."""
        if self.world == 1:
            return value
        box = [value if self.first else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, value: bool, device: torch.device | str = "cpu") -> bool:
        """Whether it is true on any process, the same on each."""
        return self.mean([float(value)], device)[0] > 0

    def agree(self, refusal: str | None) -> None:
        """Raise `UserError` on every process when any of them has a refusal, so that none is left waiting for another."""
        for text in self.gather_objects(refusal):
            if text is not None:
                raise UserError(text)

    def share(self, count: int) -> NDArray[np.int64]:
        """Positions of this process among `count`: every world-th. All processes get equally many; some come twice."""
        return np.resize(np.arange(count), -(-count // self.world) * self.world)[self.rank :: self.world]
