"""Where this process stands among those that train together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `world`. Alone, nothing is communicated."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Ranks":
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
        gathered: list = [None] * self.world
        torch.distributed.all_gather_object(gathered, values)
        return np.stack(gathered)

    def share(self, count: int) -> NDArray[np.int64]:
        """Positions of this process among `count`: every world-th. All processes get equally many; some come twice."""
        return np.resize(np.arange(count), -(-count // self.world) * self.world)[self.rank :: self.world]
