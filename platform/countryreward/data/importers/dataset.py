"""A user's files into a dataset: products, creatives with their images, observations, and what was refused.

The caller publishes the folder (`artifacts.publish`).
"""

from pathlib import Path
from typing import Any

from countryreward.data.data_config import ImportConfig
from countryreward.data.importers.creatives import import_creatives
from countryreward.data.importers.observations import import_observations
from countryreward.data.importers.output import Progress
from countryreward.data.importers.pair_files import import_pairs
from countryreward.data.importers.products import import_products
from countryreward.data.quarantine import Quarantine


def import_dataset(config: ImportConfig, folder: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Import three tables or a pair file into `folder`; returns counts by table, each of which adds up.

    Writes products.parquet, creatives.parquet, images/part-*.parquet, observations.parquet, quarantine.jsonl, and
    pairs.parquet for a pair file (schemas: `data/tables.py`). A bad row is quarantined and the job goes on; a file that
    is missing, unreadable or lacks a column is a `UserError`. progress: called with (images done, all).
    """
    quarantine = Quarantine("import")
    if config.pairs.path:
        counts = import_pairs(config.pairs, config.images, config.market_aliases, folder, quarantine, progress)
    else:
        counts = {}
        counts["products"], products = import_products(config.products, folder, quarantine)
        counts["creatives"], creatives = import_creatives(
            config.creatives, config.images, products, folder, quarantine, progress
        )
        counts["observations"] = import_observations(
            config.observations, config.market_aliases, creatives, folder, quarantine
        )
    quarantine.write(folder)
    return counts
