"""Images: their facts, where they are read from on import, and how a dataset gives them back."""

from countryreward.data.decoding import ImageError, ImageFacts, decode, inspect
from countryreward.data.image_source import ImageSource
from countryreward.data.image_table import ImageTable, ImageWriter

__all__ = ["ImageError", "ImageFacts", "ImageSource", "ImageTable", "ImageWriter", "decode", "inspect"]
