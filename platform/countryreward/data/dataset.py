"""The tables of an imported dataset, and the picture that stands for a product."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Dataset:
    """The three input tables of an imported dataset, and the listed pairs when it came from a pair file."""

    products: pd.DataFrame
    creatives: pd.DataFrame
    observations: pd.DataFrame
    listed_pairs: pd.DataFrame | None

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """Read the Parquet files of a dataset artifact."""
        listed = folder / "pairs.parquet"
        return cls(
            products=pq.read_table(folder / "products.parquet").to_pandas(),
            creatives=pq.read_table(folder / "creatives.parquet").to_pandas(),
            observations=pq.read_table(folder / "observations.parquet").to_pandas(),
            listed_pairs=pq.read_table(listed).to_pandas() if listed.exists() else None,
        )


def own_pictures(creatives: pd.DataFrame) -> pd.DataFrame:
    """creative_id and content_hash by product_id: the creative with the smallest id. creatives: as in `tables.CREATIVES`."""
    first = creatives.sort_values("creative_id").drop_duplicates("product_id")
    return first.set_index("product_id")[["creative_id", "content_hash"]].sort_index()
