"""Encoders by name: two that need no download (`hashed-ngrams`, `layout-hog`), and any sentence-transformers, CLIP or SigLIP
model by its name or folder. The module of a family is imported when one of its models is asked for.
"""

from countryreward.errors import UserError
from countryreward.retrieval.encoders.base import ImageEncoder, TextEncoder, Vectors, unit_rows
from countryreward.retrieval.encoders.no_download import HashedNgrams, LayoutHog

__all__ = [
    "HashedNgrams",
    "ImageEncoder",
    "LayoutHog",
    "TextEncoder",
    "Vectors",
    "load_image_encoder",
    "load_text_encoder",
    "unit_rows",
]


def load_text_encoder(name: str) -> TextEncoder:
    """`hashed-ngrams`, `sentence-transformers:NAME`, `clip:NAME` or `siglip:NAME`. Raises `UserError` for anything else."""
    family, _, model = name.partition(":")
    if name == "hashed-ngrams":
        return HashedNgrams()
    if family == "sentence-transformers" and model:
        from countryreward.retrieval.encoders.sentences import SentenceEncoder

        return SentenceEncoder(model)
    if family in ("clip", "siglip") and model:
        from countryreward.retrieval.encoders.contrastive import ContrastiveTextEncoder

        return ContrastiveTextEncoder(model)
    raise UserError(
        f"encoders.text: {name!r} is unknown; write hashed-ngrams, sentence-transformers:NAME, clip:NAME or siglip:NAME"
    )


def load_image_encoder(name: str) -> ImageEncoder:
    """`layout-hog`, `clip:NAME` or `siglip:NAME`. Raises `UserError` for anything else."""
    family, _, model = name.partition(":")
    if name == "layout-hog":
        return LayoutHog()
    if family in ("clip", "siglip") and model:
        from countryreward.retrieval.encoders.contrastive import ContrastiveImageEncoder

        return ContrastiveImageEncoder(model)
    raise UserError(f"encoders.image: {name!r} is unknown; write layout-hog, clip:NAME or siglip:NAME")
