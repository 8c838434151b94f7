"""How fast is a table scored, where do its bad rows go, and how often is an image encoded when ten markets are asked?

    python benchmarks/bulk_scoring.py --run=runs/demo

Builds a table of 10,000 rows from the run's export, 1,000 of them bad in eight ways, and runs jobs/score.py on it twice, from
nothing each time: for one market and for all of the model's. Prints rows per second, rows by reason, encodes per unique image,
and the machine. The time includes starting Ray and loading the model.
"""

import argparse
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

BAD: dict[str, dict[str, str]] = {
    "missing_value": {"title": ""},
    "missing_image": {"image_a": "gone.jpg"},
    "forbidden_uri": {"image_b": "https://example.org/a.jpg"},
    "undecodable_image": {"image_b": "cut.jpg"},
    "unsupported_format": {"image_a": "moving.gif"},
    "pixel_bomb": {"image_a": "bomb.png"},
    "wrong_type": {"attributes": "no mapping"},
    "duplicate_key": {"row_id": "r00000"},
}
"""Reason -> what is wrong with the row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo", help="a run folder with export and model")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of the table")
    parser.add_argument("--bad", type=int, default=1_000, help="how many of them are bad")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of each actor")
    parser.add_argument("--markets", type=int, nargs="+", default=[1, 10], help="how many markets to ask, one job each")
    parser.add_argument("--batch", type=int, default=64, help="pairs, and images, per forward pass")
    options = parser.parse_args()

    sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
    import score
    from countryreward.data.data_config import ImagesConfig
    from countryreward.machine import describe_machine
    from countryreward.scoring.model_folder import ModelFolder

    folder = Path(options.run)
    trained = ModelFolder.open(folder / "model").trained_markets
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        planted = build_table(folder / "export", place, options.rows, options.bad)
        measured: list[dict[str, Any]] = []
        for count in options.markets:
            config = score.Config(
                model=str(folder / "model"),
                pairs=str(place / "pairs.csv"),
                markets=list(trained[:count]),
                images=ImagesConfig(root=str(place / "images")),
                out=str(place / f"scores-{count}"),
                batch_size=options.batch,
                gpus_per_actor=options.gpus,
            )
            started = time.perf_counter()
            made = score.main(config)
            seconds = time.perf_counter() - started
            counts = made.manifest.counts
            assert counts["pairs"]["quarantined_by_reason"] == planted, counts
            assert counts["pairs"]["kept"] == options.rows - sum(planted.values())
            assert counts["verdicts"]["all"] == counts["pairs"]["kept"] * len(config.markets)
            measured.append(
                {
                    "markets": len(config.markets),
                    "seconds": round(seconds, 1),
                    "rows_per_second": round(options.rows / seconds, 1),
                    "verdicts_per_second": round(counts["verdicts"]["all"] / seconds, 1),
                    "kept": counts["pairs"]["kept"],
                    "verdicts": counts["verdicts"]["all"],
                    "unique_images": counts["images"]["kept"],
                    "tower_encodes": counts["tower_encodes"]["now"],
                    "encodes_per_unique_image": counts["tower_encodes"]["now"] / counts["images"]["kept"],
                }
            )
    print(json.dumps({"jobs": measured, "quarantined_by_reason": planted, "machine": describe_machine()}, indent=1))


def build_table(export: Path, place: Path, rows: int, bad: int) -> dict[str, int]:
    """Write pairs.csv and its images into `place`; returns the planted bad rows by reason."""
    import pandas as pd

    dice = random.Random(0)
    products = pd.read_csv(export / "products.csv", dtype=str).to_dict("records")
    creatives = pd.read_csv(export / "creatives.csv", dtype=str).groupby("product_id")["image_uri"].agg(list)
    images = place / "images"
    images.mkdir()
    for path in (export / "images").resolve().iterdir():
        shutil.copyfile(path, images / path.name)
    whole = next(path for path in images.iterdir()).read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "moving.gif").write_bytes(b"GIF89a" + bytes(40))
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (images / "bomb.png").write_bytes(bomb)
    wrong = set(dice.sample(range(1, rows), bad))  # row 0 stays good: its id is the one that is repeated
    table, planted = [], dict.fromkeys(BAD, 0)
    for n in range(rows):
        product = products[n % len(products)]
        a, b = dice.sample(creatives[product["product_id"]], 2)
        described = {name: product[name] for name in ("product_id", "title", "category", "attributes", "tags")}
        row = {"row_id": f"r{n:05d}", **described, "image_a": a, "image_b": b}
        if n in wrong:
            reason = sorted(BAD)[sum(planted.values()) % len(BAD)]
            planted[reason] += 1
            row |= BAD[reason]
        table.append(row)
    pd.DataFrame(table).to_csv(place / "pairs.csv", index=False)
    return {reason: count for reason, count in planted.items() if count}


if __name__ == "__main__":
    main()
