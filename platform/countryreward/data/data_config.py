"""Configs of the data room. Standard library only, so that `--help` is quick."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from countryreward.errors import UserError

Reading = Literal["paper", "repaired"]


def expand(path: str, field_name: str) -> str:
    """Fill in environment variables ($NAME, ${NAME}) of a configured path. Raises `UserError` for one that is not set."""
    expanded = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise UserError(
            f"{field_name}: {path!r} names the environment variable {unset[1]}, which is not set; export it, or write the path"
        )
    return expanded


def spellings(aliases: Mapping[str, str], field_name: str) -> dict[str, str]:
    """Aliases whose spellings are texts: YAML reads a number of a shop as a number. Raises `UserError` for what it reads as true,
    false or nothing, for that has lost its spelling."""
    lost = [spelling for spelling in aliases if spelling is None or isinstance(spelling, bool)]
    if lost:
        raise UserError(
            f"{field_name}: a spelling is {lost[0]}, as YAML reads NO, on, yes or null; write it in quotes, 'NO'"
        )
    return {str(spelling): code for spelling, code in aliases.items()}


@dataclass(kw_only=True)
class ImagesConfig:
    """Where images come from and what is accepted."""

    root: str = ""
    """Folder, .zip file or storage URI (s3://, gs://) that relative image URIs are resolved against."""
    store: Literal["embed", "reference"] = "embed"
    """embed copies the bytes into the dataset; reference keeps the URI and the hash only."""
    max_bytes: int = 20 * 2**20
    """Largest accepted file, in bytes."""
    max_pixels: int = 25_000_000
    """Largest accepted width x height, read from the header before anything is decoded."""
    allowed_schemes: list[str] = field(default_factory=list)
    """Storage schemes a row may name itself (s3, gs); local files inside the root are always allowed, http never."""
    workers: int = 4
    """Threads that read and decode."""

    def __post_init__(self) -> None:
        self.root = expand(self.root, "images.root")
        for name in ("max_bytes", "max_pixels", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"images.{name}: {getattr(self, name)} must be at least 1")


@dataclass(kw_only=True)
class TableSource:
    """One input table."""

    path: str = ""
    """CSV, TSV, Parquet or JSONL file, told by its ending; local or a storage URI. Empty: there is no such table."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name -> the file's, for columns named differently."""
    constants: dict[str, str] = field(default_factory=dict)
    """Our column name -> one value for every row."""
    skip_lines: int | None = None
    """Lines before the header of a CSV or TSV file; not set: found by looking for the header."""
    decimal: Literal["auto", "point", "comma"] = "auto"
    """How numbers are written: 1,240.5 (point), 1.240,5 (comma); auto: inferred column by column, refused where both fit."""
    dates: Literal["auto", "iso", "day-first", "month-first"] = "auto"
    """How dates are written: 2026-03-01, 1.3.2026, 3/1/2026; auto: inferred column by column, refused where two fit."""
    rates: Literal["auto", "share", "percent"] = "auto"
    """What rates without a per cent sign are: .016 (share) or 1.6 (percent); auto: inferred column by column, or refused."""
    missing: list[str] = field(default_factory=list)
    """Words that mean an empty cell, beyond NaN, NA, N/A, null, None, - and -- (any case)."""

    def __post_init__(self) -> None:
        self.path = expand(self.path, "path")
        if self.skip_lines is not None and self.skip_lines < 0:
            raise UserError(f"skip_lines: {self.skip_lines} must be at least 0")


@dataclass(kw_only=True)
class ImportConfig:
    """Three tables as an ad platform exports them, or one ready-made pair file instead of all three."""

    products: TableSource = field(default_factory=lambda: TableSource(path="runs/demo/export/products.csv"))
    """Columns product_id, title, category, attributes (JSON or key=value;...), `attribute:NAME`, tags (JSON or a;b), seller."""
    creatives: TableSource = field(default_factory=lambda: TableSource(path="runs/demo/export/creatives.csv"))
    """Columns creative_id, product_id, image_uri, or image_bytes (Parquet) instead of image_uri; the words of the ad: headline,
    body, call_to_action, tags (JSON or a;b)."""
    observations: TableSource = field(default_factory=lambda: TableSource(path="runs/demo/export/observations.csv"))
    """Columns creative_id, market, period_start, period_end, the values of its kind, placement, device, ad_set, audience (found
    by their headers where they are not mapped), delivery, source, prompt (checked against market)."""
    pairs: TableSource = field(default_factory=TableSource)
    """A pair file: product_id, title, category, image_a, image_b, market, words and values with _a and _b; excludes the three
    tables."""
    votes: TableSource = field(default_factory=TableSource)
    """Votes on pairs: creative_1, creative_2, market, votes_1 and votes_2, or winner (1, 2, tie or an id) where a row is one
    vote; where known votes_tie, voter_class, period_start, period_end, source."""
    images: ImagesConfig = field(default_factory=lambda: ImagesConfig(root="runs/demo/export/images"))
    """Where the images are read from, and which are accepted."""
    market_aliases: dict[str, str] = field(default_factory=dict)
    """Spelling in the file -> code of a country (ISO 3166) or of `markets`, beyond codes and names that are understood anyway."""
    markets: str = ""
    """YAML file of markets that are no countries (regions, languages, segments); docs/data.md shows one."""
    empty_clicks: Literal["refuse", "zero"] = "refuse"
    """What an empty cell of clicks, conversions or value means beside impressions. zero: none. refuse: empty clicks refuse the
    row; empty conversions and value are not known."""
    delivery: Literal["randomised", "rotated", "optimised", "unknown"] = "unknown"
    """Who chose what a customer saw, where the observations have no delivery column: chance, turns, or the platform."""

    def __post_init__(self) -> None:
        self.markets = expand(self.markets, "markets")
        self.market_aliases = spellings(self.market_aliases, "market_aliases")
        tables = [self.products.path, self.creatives.path, self.observations.path]
        if self.pairs.path and any(tables):
            raise UserError(
                f"pairs.path: {self.pairs.path!r} is set beside the three tables; set their paths to '' or leave pairs out"
            )
        if not self.pairs.path and not all(tables[: 2 if self.votes.path else 3]):
            raise UserError(
                "products.path, creatives.path, observations.path: all three are needed when there is no pairs.path, "
                "observations.path may be empty when there are votes"
            )


@dataclass(kw_only=True)
class SplitConfig:
    """How records are divided into train, validation and test."""

    by: Literal["product", "image", "time"] = "product"
    """product: a product is in one split. image: an image is, and pairs that cross are dropped. time: by period."""
    validation: float = 0.1
    """Share of units in validation (product, image)."""
    test: float = 0.2
    """Share of units in test (product, image)."""
    seed: int = 0
    """Seed of the hash that assigns units."""
    train_until: str = ""
    """time: last day, YYYY-MM-DD, of the training window."""
    validation_until: str = ""
    """time: last day of the validation window; later periods are test."""

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise UserError(
                f"split.validation, split.test: {self.validation} and {self.test} must be >= 0 and sum to less than 1"
            )
        if self.by == "time" and not (self.train_until and self.validation_until):
            raise UserError("split.train_until, split.validation_until: both are needed with split.by: time")
        for name in ("train_until", "validation_until"):
            if getattr(self, name) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", getattr(self, name)):
                raise UserError(f"split.{name}: {getattr(self, name)!r} is not a date; write YYYY-MM-DD")
        if self.by == "time" and self.train_until > self.validation_until:
            raise UserError(
                f"split.train_until: {self.train_until} is later than validation_until {self.validation_until}"
            )


@dataclass(kw_only=True)
class RecordsConfig:
    """How observations become labelled pairs (method.md: evidence behind a label)."""

    reading: Reading = "repaired"
    """Sets label_kind and orientation where they are not set themselves."""
    label_kind: Literal["hard", "soft"] | None = None
    """What `target`, which training learns from, holds. paper: the hard label. repaired: the soft one where counts exist."""
    orientation: Literal["as_given", "hashed"] | None = None
    """paper: A is the first of the table. repaired: a seeded hash decides, the same in every market."""
    orientation_seed: int = 0
    """Seed of the hash that orients pairs."""
    label_outcome: Literal["clicks", "conversions", "value"] = "clicks"
    """What of an impression counts as success, where there are counts: clicks, conversions, or value (revenue)."""
    min_impressions: int = 0
    """Pairs with a creative below this are dropped, only where there are counts. Dropping selects on the outcome, since platforms
    stop showing losers; few impressions are kept with their noise."""
    reveal_markets: float = 0.0
    """Share of each product's markets whose results are revealed as known results of the pair's records in its other markets."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How the records are divided into train, validation and test."""
