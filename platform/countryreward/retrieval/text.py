"""The one text by which a product is searched."""

from collections.abc import Iterable, Mapping

import pandas as pd


def product_text(title: str, category: str | None, attributes: Mapping[str, str], tags: Iterable[str]) -> str:
    """Title, category, attributes in the order of their names, tags: one line each."""
    lines = [
        title,
        category or "",
        *(f"{name}: {value}" for name, value in sorted(attributes.items())),
        ", ".join(tags),
    ]
    return "\n".join(line for line in lines if line)


def product_texts(products: pd.DataFrame) -> list[str]:
    """`product_text` of every row of a products table (attributes as Arrow map entries, tags as lists, either may be null)."""
    rows = zip(products["title"], products["category"], products["attributes"], products["tags"], strict=True)
    return [
        product_text(
            title,
            category if isinstance(category, str) else None,
            dict(attributes) if attributes is not None else {},
            tags if tags is not None else [],
        )
        for title, category, attributes, tags in rows
    ]
