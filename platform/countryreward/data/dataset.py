"""The tables of an imported dataset, and the picture that stands for a product."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.tables import CREATIVES, OBSERVATIONS, VOTES


@dataclass(frozen=True)
class Dataset:
    """The input tables of an imported dataset, and the listed pairs when it came from a pair file."""

    products: pd.DataFrame
    creatives: pd.DataFrame
    observations: pd.DataFrame
    listed_pairs: pd.DataFrame | None = None
    votes: pd.DataFrame | None = None

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """Read the Parquet files of a dataset artifact. Columns that a dataset of an earlier release lacks come as missing."""
        listed, votes = folder / "pairs.parquet", folder / "votes.parquet"
        return cls(
            products=pq.read_table(folder / "products.parquet").to_pandas(),
            creatives=_read(folder / "creatives.parquet", CREATIVES),
            observations=_read(folder / "observations.parquet", OBSERVATIONS),
            listed_pairs=pq.read_table(listed).to_pandas() if listed.exists() else None,
            votes=_read(votes, VOTES) if votes.exists() else None,
        )


def _read(path: Path, schema: pa.Schema) -> pd.DataFrame:
    table = pq.read_table(path)
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).to_pandas()


def own_pictures(creatives: pd.DataFrame) -> pd.DataFrame:
    """creative_id and content_hash by product_id: the creative with the smallest id. creatives: as in `tables.CREATIVES`."""
    first = creatives.sort_values("creative_id").drop_duplicates("product_id")
    return first.set_index("product_id")[["creative_id", "content_hash"]].sort_index()
