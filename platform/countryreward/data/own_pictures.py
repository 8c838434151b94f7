"""A product's own picture: what a design is written for, and what a generated ad has to beat."""

import pandas as pd


def own_pictures(creatives: pd.DataFrame) -> pd.DataFrame:
    """creative_id and content_hash by product_id: the creative with the smallest id. creatives: as in `tables.CREATIVES`."""
    first = creatives.sort_values("creative_id").drop_duplicates("product_id")
    return first.set_index("product_id")[["creative_id", "content_hash"]].sort_index()
