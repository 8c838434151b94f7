"""Prompts and answers of a design writer become batches of tensors.

Legend: B rows, T tokens, P patches of all images.

A row of a supervised step is a prompt and its answer. A row of a preference step shares one prompt between two answers:

    p1 ... p(n-1) pn | chosen ... | pn | rejected ...

Neither answer sees the other, both stand at the same positions, and the prompt's last token comes twice, since it says two
first words. Every state is what two rows would give (`shared_prefix=False`), with the prompt and the picture read once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from countryreward.models.design_prompt import SplicedPrompt
from countryreward.models.processor import PairProcessor, Picture, pixels

IGNORED = -100
"""Label of a token that no loss counts."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row before padding."""

    ids: NDArray[np.int64]  # [T]
    positions: NDArray[np.int64]  # [3, T]
    next_ids: NDArray[np.int64]  # [T] what each token is to say next; IGNORED outside of answers
    part: NDArray[np.int64]  # [T] 0: prompt and first answer, 1: second answer
    own: int  # tokens of the prompt that the second answer sees


def answer_row(prompt: SplicedPrompt, answer: Sequence[int]) -> Row:
    """A prompt and one answer."""
    ids = np.append(prompt.ids, answer[:-1]).astype(np.int64)
    next_ids = np.full(len(ids), IGNORED, np.int64)
    next_ids[len(prompt.ids) - 1 :] = answer
    return Row(
        ids=ids,
        positions=np.append(prompt.positions, prompt.later(len(answer) - 1), axis=1),
        next_ids=next_ids,
        part=np.zeros(len(ids), np.int64),
        own=len(prompt.ids),
    )


def shared_row(prompt: SplicedPrompt, first: Sequence[int], second: Sequence[int]) -> Row:
    """A prompt and two answers, the second after the prompt's last token come again."""
    row, second_row = answer_row(prompt, first), answer_row(prompt, second)
    last = len(prompt.ids) - 1
    return Row(
        ids=np.append(row.ids, second_row.ids[last:]),
        positions=np.append(row.positions, second_row.positions[:, last:], axis=1),
        next_ids=np.append(row.next_ids, second_row.next_ids[last:]),
        part=np.append(row.part, np.ones(len(second_row.ids) - last, np.int64)),
        own=last,
    )


def stack(rows: Sequence[Row], pad_id: int, image_id: int) -> dict[str, Tensor]:
    """Rows padded on the right, as Qwen2VLModel takes them; `next_ids` [B, T] and `part` [B, T] come on top.

    attention_mask is [B, T], or, where a row holds two answers, bool [B, 1, T, T] (not for FlashAttention).
    """
    width = max(len(row.ids) for row in rows)
    ids_BT = np.full((len(rows), width), pad_id, np.int64)
    positions_3BT = np.zeros((3, len(rows), width), np.int64)
    next_BT = np.full((len(rows), width), IGNORED, np.int64)
    part_BT = np.zeros((len(rows), width), np.int64)
    for b, row in enumerate(rows):
        length = len(row.ids)
        ids_BT[b, :length], positions_3BT[:, b, :length] = row.ids, row.positions
        next_BT[b, :length], part_BT[b, :length] = row.next_ids, row.part
    lengths = np.array([len(row.ids) for row in rows])
    inside_BT = np.arange(width) < lengths[:, None]
    mask = torch.from_numpy(inside_BT.astype(np.int64))
    if part_BT.any():
        causal_TT = np.tri(width, dtype=bool)
        own_B11 = np.array([row.own for row in rows])[:, None, None]
        prompt_B1T = np.arange(width)[None, None, :] < own_B11
        same_BTT = part_BT[:, :, None] == part_BT[:, None, :]
        visible_BTT = causal_TT & inside_BT[:, None, :] & (same_BTT | (prompt_B1T & (part_BT[:, :, None] == 1)))
        visible_BTT |= np.eye(width, dtype=bool)  # padding sees itself: a row without anything to see would be NaN
        mask = torch.from_numpy(visible_BTT[:, None])
    return {
        "input_ids": torch.from_numpy(ids_BT),
        "attention_mask": mask,
        "position_ids": torch.from_numpy(positions_3BT),
        "mm_token_type_ids": torch.from_numpy((ids_BT == image_id).astype(np.int32)),
        "next_ids": torch.from_numpy(next_BT),
        "part": torch.from_numpy(part_BT),
    }


def pictures_of(
    prompts: Sequence[SplicedPrompt], images: Mapping[str, Picture], processor: PairProcessor, px: int
) -> dict[str, Any]:
    """pixel_values [P, values] and image_grid_thw [B, 3] of the rows' pictures, in order, each prepared once."""
    names = list(dict.fromkeys(prompt.image for prompt in prompts))
    values, grids = pixels(processor, [images[name] for name in names], px)
    pieces = dict(zip(names, values.split(grids.prod(-1).tolist()), strict=True))
    position = {name: n for n, name in enumerate(names)}
    return {
        "pixel_values": torch.cat([pieces[prompt.image] for prompt in prompts]),
        "image_grid_thw": grids[[position[prompt.image] for prompt in prompts]],
    }
