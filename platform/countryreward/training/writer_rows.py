"""What a design writer trains on, tokenised: prompts with one answer, or with two of which the first is the better one."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from countryreward.data.artifacts import open_artifact
from countryreward.data.dataset import Dataset
from countryreward.data.decoding import ImageError, decode, pixels_of
from countryreward.data.design import LABELS, Design
from countryreward.data.images import ImageTable
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.models.design_prompt import DesignFields, DesignPrompt, SplicedPrompt
from countryreward.models.processor import squared

_MAX_BYTES, _MAX_PIXELS = 20 * 2**20, 25_000_000


@dataclass(frozen=True)
class WriterRow:
    """One row to train on."""

    prompt: SplicedPrompt
    answers: tuple[list[int], ...]
    """One answer, or (chosen, rejected)."""
    market: str
    """ISO 3166 alpha-2."""
    key: str = ""
    """Which row of the published table: the pair's key, or product and market of a design."""


class Pictures:
    """Products' pictures by content hash, decoded and made small; the newest are kept in memory as uint8."""

    def __init__(self, folder: Path, px: int, *, kept_mib: int = 512) -> None:
        self.table, self.px = ImageTable(folder), px
        self._most = max(1, kept_mib * 2**20 // (3 * px * px))
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def __getitem__(self, name: str) -> np.ndarray:
        """RGB uint8 [px, px, 3]. Raises `UserError` for a picture that cannot be read."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        try:
            picture = decode(self.table.bytes_of(name), max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS)
        except ImageError as refused:
            raise UserError(f"picture {name}: {refused.reason} ({refused.field_value}); import it again") from None
        self._kept[name] = np.asarray(squared(pixels_of(picture), self.px))
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[name]


def design_rows(
    designs: str, dataset: str, pictures: Pictures, prompt: DesignPrompt, grid: Any, quarantine: Quarantine
) -> dict[str, list[WriterRow]]:
    """{split: rows} of a published designs table. A prompt or picture that is refused goes to quarantine."""
    frame = pd.read_parquet(open_artifact(designs, kind="designs").path / "designs.parquet")
    products = Dataset.read(open_artifact(dataset, kind="dataset").path).products.set_index("product_id")
    rows: dict[str, list[WriterRow]] = {"train": [], "validation": [], "test": []}
    designs_of_table: list[dict[str, Any]] = frame.to_dict("records")  # pyright: ignore[reportAssignmentType]
    for number, row in enumerate(designs_of_table):
        product = products.loc[row["product_id"]]
        fields = DesignFields(
            title=product["title"],
            category=product["category"] if isinstance(product["category"], str) else None,
            attributes=dict(product["attributes"]),
            market=row["market"],
            image=row["image"],
            grid=grid,
        )
        key = f"{row['product_id']} {row['market']}"
        spliced = _spliced(prompt, fields, pictures, quarantine, "designs", number, key)
        if spliced is not None:
            design = Design(**{name: row[name] for name in LABELS})
            rows[row["split"]].append(WriterRow(spliced, (prompt.answer(design),), row["market"], key))
    return rows


def pair_rows(
    pairs: str, pictures: Pictures, prompt: DesignPrompt, grid: Any, quarantine: Quarantine
) -> list[WriterRow]:
    """Rows of published preference pairs, in their order."""
    table = pq.read_table(open_artifact(pairs, kind="pairs").path / "pairs.parquet")
    rows = []
    for number, row in enumerate(table.to_pylist()):
        fields = DesignFields(
            title=row["title"],
            category=row["category"],
            attributes=dict(row["attributes"] or ()),
            market=row["market"],
            image=row["images"][0],
            grid=grid,
        )
        spliced = _spliced(prompt, fields, pictures, quarantine, "pairs", number, row["key"])
        if spliced is not None:
            answers = tuple(prompt.answer(Design.parse(row[side])) for side in ("chosen", "rejected"))
            rows.append(WriterRow(spliced, answers, row["market"], row["key"]))
    return rows


def _spliced(
    prompt: DesignPrompt,
    fields: DesignFields,
    pictures: Pictures,
    quarantine: Quarantine,
    table: str,
    number: int,
    key: str,
) -> SplicedPrompt | None:
    try:
        spliced = prompt.splice(fields)
    except UserError as error:
        quarantine.add(table=table, row=number, reason="refused_prompt", field="prompt", value=error, key=key)
        return None
    if fields.image not in pictures:
        quarantine.add(table=table, row=number, reason="missing_image", field="image", value=fields.image, key=key)
        return None
    return spliced
