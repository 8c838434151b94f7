"""The simulator's files: a marketplace as an ad platform exports it, the truth beside it, and pair files with drawn pictures."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from countryreward.data.marketplace.drawer import Craft, ProductLook, draw, draw_variant
from countryreward.data.marketplace.marketplace_config import MarketplaceConfig
from countryreward.data.marketplace.simulate import Marketplace, simulate
from countryreward.data.marketplace.vocabulary import Spec, spec_to_design
from countryreward.errors import UserError
from countryreward.progress import ShowProgress

JPEG_QUALITY = 90


def write_export(folder: Path, config: MarketplaceConfig, *, progress: ShowProgress | None = None) -> dict[str, int]:
    """Simulate and write into `folder` (made when absent). Returns the rows of every table and the number of images.

    products.csv, creatives.csv, observations.csv, images/, truth.parquet (creative_id, market, ctr), designs.jsonl
    (creative_id, design, spec with everything `draw` needs). The same config gives the same bytes of every file.
    `progress(done, all)` is called from the calling thread after each image.
    """
    marketplace = simulate(config)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    _write_tables(folder, marketplace)
    rows: list[dict[str, Any]] = marketplace.specs.to_dict("records")  # type: ignore[assignment]
    with open(folder / "designs.jsonl", "w", encoding="utf-8", newline="\n") as handle:
        for row in rows:
            line = {"creative_id": row["creative_id"], "design": asdict(spec_to_design(spec_of(row))), "spec": row}
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")

    # ads that show one picture share its file
    pictures = {name: row for row, name in zip(rows, marketplace.creatives["image_uri"], strict=True)}

    def write_image(name: str) -> None:
        row = pictures[name]
        (folder / "images" / name).write_bytes(encode(draw_creative(row, px=config.image_px), name.rpartition(".")[2]))

    with ThreadPoolExecutor(config.workers) as pool:
        for done, _ in enumerate(pool.map(write_image, pictures), start=1):
            if progress:
                progress(done, len(pictures))
    return {
        "products": len(marketplace.products),
        "creatives": len(marketplace.creatives),
        "observations": len(marketplace.observations),
        "images": len(pictures),
        "truth": len(marketplace.truth),
    }


def spec_of(row: Mapping[str, Any]) -> Spec:
    """The design in a row of `Marketplace.specs` or in `spec` of designs.jsonl."""
    return Spec(**{item.name: row[item.name] for item in fields(Spec)})


def draw_creative(row: Mapping[str, Any], *, px: int = 224) -> np.ndarray:
    """The picture, uint8 RGB [px, px, 3], of a row of `Marketplace.specs` or of `spec` in designs.jsonl."""
    look = ProductLook(**{item.name: row[item.name] for item in fields(ProductLook)})
    craft = Craft(**{item.name: row[item.name] for item in fields(Craft)})
    return draw(spec_of(row), look, px=px, seed=int(row["draw_seed"]), craft=craft)


def encode(pixels: np.ndarray, extension: str) -> bytes:
    """An RGB array [H, W, 3] as the bytes of a file; `extension` is jpg or png."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if extension == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    encoded, buffer = cv2.imencode(f".{extension}", pixels[:, :, ::-1], options)
    assert encoded, extension
    return buffer.tobytes()


def _write_tables(folder: Path, marketplace: Marketplace) -> None:
    products = marketplace.products.assign(
        attributes=[json.dumps(value, ensure_ascii=False) for value in marketplace.products["attributes"]],
        tags=[json.dumps(value, ensure_ascii=False) for value in marketplace.products["tags"]],
    )
    for name, frame in (
        ("products", products),
        ("creatives", marketplace.creatives),
        ("observations", marketplace.observations),
    ):
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n", encoding="utf-8")
    columns = {name: marketplace.truth[name].tolist() for name in ("creative_id", "market", "ctr")}
    pq.write_table(pa.table(columns), folder / "truth.parquet")  # no pandas metadata: it names library versions


def draw_variant_pairs(
    pairs: str | Path, folder: Path, *, title: str, variants: tuple[str, str], px: int = 224
) -> dict[str, Any]:
    """Write pairs.csv (the file with image_a and image_b added) and images/*.png, one per product and colour.

    Raises `UserError` when a named column is missing or a colour is unknown to the drawer.
    """
    frame = pd.read_csv(pairs, dtype=str, keep_default_na=False)
    missing = [name for name in (title, *variants) if name not in frame]
    if missing:
        raise UserError(
            f"columns {missing}: {pairs} has {list(frame.columns)}; name its columns with --title, --variant_a, --variant_b"
        )
    (folder / "images").mkdir()
    drawn: dict[tuple[str, str], str] = {}
    for side, column in zip(("a", "b"), variants, strict=True):
        names = []
        for product, colour in zip(frame[title], frame[column], strict=True):
            if (product, colour) not in drawn:
                name = hashlib.sha256("\0".join((product, colour)).encode()).hexdigest()[:16] + ".png"
                pixels = draw_variant(product, colour, px=px)
                cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
                drawn[product, colour] = name
            names.append(drawn[product, colour])
        frame[f"image_{side}"] = names
    frame.to_csv(folder / "pairs.csv", index=False)
    return {"pairs": len(frame), "images": len(drawn)}
