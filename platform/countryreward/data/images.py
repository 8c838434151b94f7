"""Images: their facts, where they are read from on import, and how a dataset gives them back."""

from countryreward.data.decoding import ImageFacts, ImageRefused, decode, inspect
from countryreward.data.image_source import ImageSource
from countryreward.data.image_table import ImageTable, ImageWriter

__all__ = ["ImageFacts", "ImageRefused", "ImageSource", "ImageTable", "ImageWriter", "decode", "inspect"]
