"""Seeded random numbers, one stream for each purpose."""

import zlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """An independent stream per purpose, so that a change in one leaves the others as they were."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
