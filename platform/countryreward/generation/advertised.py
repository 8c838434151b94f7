"""What ads are made for: a product with its own picture, from a dataset or described by hand."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from countryreward.data.dataset import Dataset, own_pictures
from countryreward.data.decoding import ImageError, decode, pixels_of
from countryreward.data.images import ImageTable
from countryreward.data.quarantine import REASONS
from countryreward.errors import UserError
from countryreward.scoring.contracts import Product

_MAX_BYTES, _MAX_PIXELS = 64 * 2**20, 100_000_000


@dataclass(frozen=True, kw_only=True)
class Advertised:
    """What ads are made for."""

    product: Product
    image: bytes
    """File of the product's own picture."""
    pixels: np.ndarray
    """It, RGB uint8 [height, width, 3]."""

    @property
    def image_hash(self) -> str:
        """SHA-256 of the file, hex."""
        return hashlib.sha256(self.image).hexdigest()

    @classmethod
    def of(cls, product: Product, image: bytes) -> "Advertised":
        """Raises `UserError` for a picture that cannot be read."""
        try:
            pixels = pixels_of(decode(image, max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS))
        except ImageError as error:
            raise UserError(f"image: {error}; {REASONS[error.reason]}") from None
        return cls(product=product, image=image, pixels=pixels)

    @classmethod
    def from_dataset(cls, folder: Path, product_id: str) -> "Advertised":
        """A product of a dataset artifact, with its own picture. Raises `UserError` where either is missing."""
        dataset = Dataset.read(folder)
        found = dataset.products[dataset.products["product_id"] == product_id]
        pictures = own_pictures(dataset.creatives)
        if found.empty or product_id not in pictures.index:
            why = "is not in the dataset" if found.empty else "has no creative"
            some = ", ".join(dataset.products["product_id"].head(3))
            raise UserError(f"product: {product_id!r} {why}; there are {some}, ... (products.parquet lists them)")
        row = found.to_dict("records")[0]
        product = Product(
            product_id=product_id,
            title=row["title"],
            category=row["category"] if isinstance(row["category"], str) else None,
            attributes=dict(row["attributes"]) if row["attributes"] is not None else {},
            tags=list(row["tags"]) if row["tags"] is not None else [],
        )
        return cls.of(product, ImageTable(folder).bytes_of(str(pictures.loc[product_id, "content_hash"])))

    @classmethod
    def described(cls, title: str, category: str, attributes: Mapping[str, str], image: str) -> "Advertised":
        """Any product. image: path of a file. Raises `UserError` for a picture that cannot be read, or an empty title."""
        product = Product(title=title, category=category or None, attributes=dict(attributes))
        try:
            return cls.of(product, Path(image).read_bytes())
        except OSError as error:
            raise UserError(
                f"image: {image!r} cannot be read ({error.strerror}); give the product's own picture"
            ) from None
