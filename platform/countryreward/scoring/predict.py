"""A reward model over many records: collated batches with their images, and logits in the records' order.

Legend: B pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from countryreward.models.pair_batch import Batch, collate
from countryreward.scoring.examples import Examples
from countryreward.scoring.image_inputs import ImageInputs


@dataclass(frozen=True)
class Loader:
    """Batches of examples by their positions."""

    examples: Examples
    images: ImageInputs
    pad_id: int

    def load(
        self,
        positions: NDArray[np.int64],
        device: torch.device | str = "cpu",
        *,
        swap: NDArray[np.bool_] | None = None,
    ) -> tuple[Batch, dict[str, Tensor], Tensor]:
        """The batch, its images as keyword arguments of the model, and the targets [B]. swap: see `models.batch.collate`."""
        batch = collate([self.examples.prompts[position] for position in positions], self.pad_id, swap=swap)
        images = {name: value.to(device) for name, value in self.images.read(batch.images).items()}
        return batch.to(device), images, torch.from_numpy(self.examples.targets[positions]).to(device)


@torch.inference_mode()
def judge(
    model: nn.Module,
    loader: Loader,
    *,
    positions: NDArray[np.int64] | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Logits of the examples at `positions` (all: None), in that order. Scores do not depend on the batching, by length."""
    device = next(model.parameters()).device
    positions = np.arange(len(loader.examples.prompts)) if positions is None else positions
    order = np.argsort(loader.examples.lengths[positions], kind="stable")
    logits = np.zeros(len(order))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch, images, _ = loader.load(positions[chosen], device)
        logits[chosen] = model(batch, **images).logit.float().cpu().numpy()
        if progress:
            progress(min(start + batch_size, len(order)), len(order))
    return logits
