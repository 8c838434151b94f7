"""What SDXL is told of an ad: the words of its prompt with their token ids, and the outline of the product for its ControlNet."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from countryreward.data.design import Design
from countryreward.generation.subject import Subject
from countryreward.scoring.contracts import Product


def prompt_parts(design: Design, product: Product) -> tuple[str, ...]:
    """What a prompt says, in this order: product, attributes, background, foreground, colours, light.

    The first words weigh most. The outline knows no colours and materials, so the attributes name them.
    """
    attributes = ", ".join(f"{name} {value}" for name, value in product.attributes.items())
    parts = (
        product.title,
        "advertising photograph",
        attributes,
        design.background,
        design.foreground,
        design.color_tone,
        design.lighting,
    )
    return tuple(part.strip().rstrip(".") for part in parts if part.strip())


def prompt_of(design: Design, product: Product) -> str:
    """The whole prompt in words, as it is kept with an ad. The model reads the token ids of its parts: `token_ids`."""
    return ", ".join(prompt_parts(design, product))


def token_ids(tokenizer: Any, parts: Sequence[str]) -> list[int]:
    """Ids of a CLIP tokenizer, exactly as many as its text encoder takes (77), for parts set apart by commas.

    Where they are too long each part is cut to a fair share, so that none goes unheard. Control tokens in the text are
    read as the characters they are written with.
    """
    length = tokenizer.model_max_length
    comma = _ids(tokenizer, ",")
    found = [_ids(tokenizer, part) for part in parts]
    room = length - 2 - len(comma) * (len(found) - 1)
    kept = [ids[:share] for ids, share in zip(found, fair_shares([len(ids) for ids in found], room), strict=True)]
    body = [token for number, ids in enumerate(kept) for token in ([*comma, *ids] if number else ids)][: length - 2]
    ids = [tokenizer.bos_token_id, *body, tokenizer.eos_token_id]
    return ids + [tokenizer.pad_token_id] * (length - len(ids))


def fair_shares(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each may stay so that all fit: what the short do not need goes to the long.

    [2, 50, 30] in 42 is [2, 20, 20].
    """
    shares = [0] * len(lengths)
    left = max(0, room)
    for rank, place in enumerate(sorted(range(len(lengths)), key=lambda index: lengths[index])):
        shares[place] = min(lengths[place], left // (len(lengths) - rank))
        left -= shares[place]
    return shares


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


_LOW, _HIGH = 100, 200  # Canny's thresholds, those the published canny ControlNets were trained with


def canny_image(picture: np.ndarray, subject: Subject, px: int) -> np.ndarray:
    """Canny(I_ori) of Eq. 13: uint8 [px, px, 3], white edges on black, of the picture fitted into the square.

    Where the product was cut out only its own edges stay, so that the design decides on all around it; else the whole
    picture's. The picture keeps its proportions; what it leaves of the square is black.
    """
    height, width = picture.shape[:2]
    share = px / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_CUBIC
    edges = cv2.Canny(cv2.resize(picture, size, interpolation=how), _LOW, _HIGH)
    if subject.seen == "cut out":
        left, top, wide, high = subject.view.box
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + high, left : left + wide] = subject.view.mask
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
        reach = max(1, round(0.01 * px))  # the outline itself lies on the mask's border
        edges[cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) < 128] = 0
    square = np.zeros((px, px), np.uint8)
    top, left = (px - size[1]) // 2, (px - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = edges
    return cv2.merge([square] * 3)
