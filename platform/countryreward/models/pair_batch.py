"""Examples become one right-padded batch of tensors.

Legend: B pairs, R rows (B, or 2 B where both orders are asked: first every (A, B), then every (B, A)), T tokens, S spans,
C tokens of a country, E tokens of an augmentation sentence, M different images, V visual tokens of all rows.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from countryreward.models.reward_prompts import SPANS, Example

_IMAGE = SPANS.index("image")


@dataclass(kw_only=True)
class Batch:
    """Prompts of B pairs, as `CountryRewardModel` reads them. Images are not in it: bring those of `images` in that order."""

    input_ids: Tensor  # [R, T]
    attention_mask: Tensor  # [R, T] 1 where a token is, 0 where padding is
    mm_token_type_ids: Tensor  # [R, T] 1 where a visual token is
    position_ids: Tensor  # [3, R, T] as Qwen2VLModel.get_rope_index gives them
    spans: Tensor  # [R, S, T] bool
    last: Tensor  # [R] index of the last token that is no padding
    country_ids: Tensor  # [R, C] padded
    country_mask: Tensor  # [R, C] bool
    augment_ids: Tensor  # [R, E] padded
    augment_mask: Tensor  # [R, E] bool; a row without a prior is empty
    log_odds: Tensor  # [R] float32
    visual_at: Tensor  # [V] where each visual token goes, in the R x T tokens laid out one after another
    visual_from: Tensor  # [V] which token of the M images it is, all images laid out one after another
    image_grid_thw: Tensor  # [M, 3]
    images: list[str]
    patches: int  # of all M images
    both_orders: bool
    sign: Tensor | None = None  # [B] where one order stands for both: 1 for (A, B), -1 for (B, A)

    @property
    def pairs(self) -> int:
        """How many pairs: B."""
        return len(self.last) // (2 if self.both_orders else 1)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """A copy with every tensor on `device`."""
        tensors = {
            item.name: value.to(device, non_blocking=non_blocking)
            for item in dataclasses.fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return dataclasses.replace(self, **tensors)


def collate(
    examples: Sequence[Example], pad_id: int, *, merge: int = 2, swap: NDArray[np.bool_] | None = None
) -> Batch:
    """One batch, padded on the right. Where the examples carry their swapped order, both orders are in it.

    pad_id: any id of the vocabulary; what stands in padding changes nothing. merge: as in `PromptBuilder`. swap: [B] which of
    such examples to ask as (B, A) and which as (A, B), in one order only.
    """
    assert examples, "an empty batch"
    swapped = [example.swapped for example in examples if example.swapped is not None]
    assert len(swapped) in (0, len(examples)), "examples of two kinds of model in one batch"
    rows, sign_B = [*examples, *swapped], None
    if swap is not None and swapped:
        rows = [orders[int(turned)] for *orders, turned in zip(examples, swapped, swap, strict=True)]
        sign_B = torch.from_numpy(np.where(swap, -1.0, 1.0).astype(np.float32))
    lengths = np.array([len(row.ids) for row in rows])
    width = int(lengths.max())
    ids_RT = np.full((len(rows), width), pad_id, dtype=np.int64)
    spans_RST = np.zeros((len(rows), len(SPANS), width), dtype=bool)
    positions_3RT = np.zeros((3, len(rows), width), dtype=np.int64)
    for r, row in enumerate(rows):
        length = lengths[r]
        ids_RT[r, :length], spans_RST[r, :, :length], positions_3RT[:, r, :length] = row.ids, row.spans, row.positions
    grids = {name: grid for row in rows for name, grid in zip(row.images, row.grids, strict=True)}
    tokens = {name: int(np.prod(grid)) // merge**2 for name, grid in grids.items()}
    offsets = dict(zip(tokens, np.cumsum([0, *tokens.values()]), strict=False))
    visual_from = [offsets[name] + np.arange(tokens[name]) for row in rows for name in row.images]
    visual_at = np.flatnonzero(spans_RST[:, _IMAGE])
    assert len(visual_at) == sum(map(len, visual_from)), "an image came with two different grids in one batch"
    country_ids, country_mask = _padded([row.country for row in rows], pad_id)
    augment_ids, augment_mask = _padded([row.augmentation for row in rows], pad_id)
    return Batch(
        input_ids=torch.from_numpy(ids_RT),
        attention_mask=torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64)),
        mm_token_type_ids=torch.from_numpy(spans_RST[:, _IMAGE].astype(np.int64)),
        position_ids=torch.from_numpy(positions_3RT),
        spans=torch.from_numpy(spans_RST),
        last=torch.from_numpy(lengths - 1),
        country_ids=country_ids,
        country_mask=country_mask,
        augment_ids=augment_ids,
        augment_mask=augment_mask,
        log_odds=torch.tensor([row.log_odds for row in rows], dtype=torch.float32),
        visual_at=torch.from_numpy(visual_at),
        visual_from=torch.from_numpy(np.concatenate(visual_from or [np.zeros(0)]).astype(np.int64)),
        image_grid_thw=torch.tensor(list(grids.values()), dtype=torch.long).reshape(-1, 3),
        images=list(grids),
        patches=sum(int(np.prod(grid)) for grid in grids.values()),
        both_orders=bool(swapped) and sign_B is None,
        sign=sign_B,
    )


def _padded(lists: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Lists of ids as one tensor [R, longest], at least one wide, and where they are ids and no padding."""
    width = max(1, *map(len, lists)) if lists else 1
    mask = torch.tensor([[position < len(ids) for position in range(width)] for ids in lists])
    return torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in lists], dtype=torch.long), mask
