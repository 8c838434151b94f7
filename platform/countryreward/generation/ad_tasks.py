"""Which tasks a dataset gives: every product of a split in every market, with the product's own picture."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from countryreward import markets as countries
from countryreward.data.artifacts import Artifact, open_artifact
from countryreward.data.dataset import Dataset, own_pictures
from countryreward.data.images import ImageTable
from countryreward.errors import UserError
from countryreward.generation.ad_contracts import AdTask, task_key
from countryreward.generation.generation_config import TasksConfig
from countryreward.generation.outcomes import Outcome, quarantined
from countryreward.scoring.contracts import Product

_DRAW = 1_000_003  # between the seeds of two draws: seeds of neighbouring runs do not meet
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class ListedTask:
    """A task without the bytes of its picture."""

    product: Product
    image_hash: str
    market: str
    seed: int

    def key(self, made_by: Any) -> str:
        """The same for the same product, picture, market, seed and `made_by`: versions and options that shape the outcome."""
        return task_key(self.product, self.image_hash, self.market, self.seed, made_by)


class AdTasks:
    """The tasks of a dataset, in a fixed order; pictures are read when a task is taken."""

    def __init__(self, listed: Sequence[ListedTask], images: ImageTable) -> None:
        self.listed, self.images = list(listed), images
        """Without their pictures, and where those are."""

    def __len__(self) -> int:
        return len(self.listed)

    def keys(self, made_by: Any) -> list[str]:
        """Of all tasks, in order; all different. made_by: versions and options that shape the outcomes, JSON-able."""
        keys = [task.key(made_by) for task in self.listed]
        assert len(set(keys)) == len(keys), "the same task twice"
        return keys

    def take(self, made_by: Any, without: Collection[str] = ()) -> Iterator[AdTask | Outcome]:
        """The tasks whose key is not in `without`, one by one; quarantined: one whose picture is gone. It reads files."""
        for listed, key in zip(self.listed, self.keys(made_by), strict=True):
            if key not in without:
                task = AdTask(**listed.__dict__, image=b"", key=key)
                try:
                    yield replace(task, image=self.images.bytes_of(listed.image_hash))
                except UserError as error:
                    yield quarantined(task, "changed_image", "image", error)


def tasks_of(
    dataset: Artifact,
    records: Artifact,
    *,
    split: str,
    markets: Sequence[str],
    products: int = 0,
    first: int = 0,
    seed: int = 0,
    draws: int = 1,
) -> AdTasks:
    """Products of a split x markets. The product's own picture is its creative with the smallest id; one without is left out.

    records: which product is in which split. markets: codes or names; none: all that the records know. products: at most so
    many, those with the smallest hashes of seed and id, after `first` of them; 0: all. draws: tasks of each product and
    market, with seeds of their own. Raises `UserError` for what is no split or no country, and where
    nothing is left.
    """
    if split not in SPLITS:
        raise UserError(f"split: {split!r}; write one of {', '.join(SPLITS)}")
    codes = _codes(markets) or sorted(set(_column(records, "records.parquet", "market")))
    tables = Dataset.read(dataset.path)
    pictures = dict(own_pictures(tables.creatives)["content_hash"].items())
    wanted = _products_in(records, split)
    rows: list[Any] = [
        row
        for row in tables.products.to_dict("records")
        if row["product_id"] in wanted and row["product_id"] in pictures
    ]
    rows.sort(key=lambda row: hashlib.sha256(f"{seed}/{row['product_id']}".encode()).digest())
    rows = rows[first : first + products if products else None]
    if not rows or not codes:
        raise UserError(
            f"split: {split!r} has no product with a picture; choose another split, or make the records again"
        )
    listed = [
        ListedTask(
            product=product_of(row),
            image_hash=str(pictures[row["product_id"]]),
            market=market,
            seed=seed + draw * _DRAW,
        )
        for row in rows
        for market in codes
        for draw in range(draws)
    ]
    return AdTasks(listed, ImageTable(dataset.path))


def open_tasks(config: TasksConfig, *, verify: bool = True) -> tuple[dict[str, Artifact], AdTasks]:
    """The artifacts `dataset` and `records` of a config, and their tasks. verify: check the files against their hashes.

    Raises `UserError` for an artifact that is not there or altered, and as `tasks_of`.
    """
    inputs = {name: open_artifact(getattr(config, name), kind=name, verify=verify) for name in ("dataset", "records")}
    options = {name: value for name, value in vars(config).items() if name not in inputs}
    return inputs, tasks_of(inputs["dataset"], inputs["records"], **options)


def originals_of(dataset: Artifact, products: Sequence[str]) -> dict[str, tuple[str, str, bytes]]:
    """Product id -> title, category, the file of its own picture."""
    tables = Dataset.read(dataset.path)
    pictures, images = own_pictures(tables.creatives)["content_hash"], ImageTable(dataset.path)
    rows: list[dict[str, Any]] = tables.products.to_dict("records")  # pyright: ignore[reportAssignmentType]
    texts = {row["product_id"]: (row["title"], row["category"] or "") for row in rows}
    return {name: (*texts[name], images.bytes_of(pictures[name])) for name in products}


def _products_in(records: Artifact, split: str) -> set[str]:
    """By product: its units, also those without a pair. By image or time: those that have a record in it."""
    if records.manifest.config.get("split", {}).get("by", "product") == "product":
        units = pq.read_table(records.path / "units.parquet").to_pandas()
        return set(units.loc[units["split"] == split, "unit"])
    products, splits = (_column(records, "records.parquet", name) for name in ("product_id", "split"))
    return {product for product, its in zip(products, splits, strict=True) if its == split}


def _column(artifact: Artifact, file: str, name: str) -> list[str]:
    return pq.read_table(artifact.path / file, columns=[name]).column(0).to_pylist()


def _codes(markets: Sequence[str]) -> list[str]:
    codes = []
    for name in markets:
        code = countries.parse(name)
        if code is None:
            raise UserError(
                f"markets: {name!r} is no country and no market of the dataset; write an ISO 3166 code such as KR or a name"
            )
        codes.append(code)
    return list(dict.fromkeys(codes))


def product_of(row: dict[str, Any]) -> Product:
    """From a row of the products table. attributes: pairs, as a map column comes out of Arrow; missing cells are None or NaN."""
    category, attributes, tags = row["category"], row["attributes"], row["tags"]
    return Product(
        title=row["title"],
        category=category if isinstance(category, str) else None,
        attributes=dict(attributes) if attributes is not None and attributes == attributes else {},
        tags=[] if tags is None or isinstance(tags, float) else [str(tag) for tag in tags],
        product_id=row["product_id"],
    )
