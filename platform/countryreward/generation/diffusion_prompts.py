"""The words a diffusion model is given, and their token ids."""

from collections.abc import Sequence
from typing import Any

from countryreward.data.design import Design
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
