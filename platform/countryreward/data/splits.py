"""Train, validation and test: which unit (product, image, or time window) belongs to which split."""

import hashlib
from datetime import date, timedelta

import pandas as pd

from countryreward.data.data_config import SplitConfig
from countryreward.errors import UserError


def hashed_share(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the parts: the same on every machine and in every run."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def unit_split(unit: str, config: SplitConfig) -> str:
    """The split of a product id or an image hash, by a seeded hash; adding data never moves a unit to another split."""
    share = hashed_share(config.seed, "split", unit)
    if share < config.test:
        return "test"
    return "validation" if share < config.test + config.validation else "train"


def parse_day(text: str, field: str) -> date:
    """A configured day. Raises `UserError` naming the field."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{field}: {text!r} is not a date; write YYYY-MM-DD") from None


def time_windows(observations: pd.DataFrame, config: SplitConfig) -> "pd.Series[str]":
    """The window of each observation: train, validation, test, `undated`, or `straddles_window` when it lies in two."""
    first = parse_day(config.train_until, "split.train_until")
    second = parse_day(config.validation_until, "split.validation_until")
    start, end = pd.to_datetime(observations["period_start"]), pd.to_datetime(observations["period_end"])
    cut_1, cut_2 = pd.Timestamp(first), pd.Timestamp(second)
    window = pd.Series("straddles_window", index=observations.index, dtype="str")
    window[end <= cut_1] = "train"
    window[(start > cut_1) & (end <= cut_2)] = "validation"
    window[start > cut_2] = "test"
    window[start.isna() | end.isna()] = "undated"
    return window


def as_of_day(window: str, config: SplitConfig) -> date | None:
    """From which day a record of a time window looks back: only evidence that ended before it may speak.

    Train records look back from the day after their own window (their own product is guarded), validation and test records
    from the day after the window before theirs. Splits by product or image carry no date.
    """
    if config.by != "time":
        return None
    last = parse_day(config.validation_until if window == "test" else config.train_until, "split")
    return last + timedelta(days=1)
