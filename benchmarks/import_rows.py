"""What importing a large export costs: seconds and peak memory of jobs/import_data.py on a made-up table of observations.

    python benchmarks/import_rows.py --rows 1000000

The tables are written to a temporary folder; the import runs in a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from countryreward.machine import describe_machine

MARKETS = ("BR", "CL", "ES", "FR", "KR", "JP", "US", "MX", "AU", "SA")
CREATIVES = 10_000


def write_tables(folder: Path, rows: int) -> Path:
    """Products of four creatives each, observations by creative, market and week; returns the path of the config."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    for place in range(4):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{place}.png")
    ids = np.array([f"ad{place:06d}" for place in range(CREATIVES)])
    products = [f"p{place}" for place in range(CREATIVES // 4)]
    pd.DataFrame({"product_id": products, "title": products}).to_csv(folder / "products.csv", index=False)
    pd.DataFrame(
        {
            "creative_id": ids,
            "product_id": np.repeat(products, 4),
            "image_uri": [f"{place % 4}.png" for place in range(CREATIVES)],
        }
    ).to_csv(folder / "creatives.csv", index=False)
    place = np.arange(rows)
    week = place // (CREATIVES * len(MARKETS))
    start = np.datetime64("2024-01-01") + 7 * week
    impressions = random.integers(100, 100_000, rows)
    pd.DataFrame(
        {
            "creative_id": ids[place % CREATIVES],
            "market": np.array(MARKETS)[place // CREATIVES % len(MARKETS)],
            "period_start": start,
            "period_end": start + 6,
            "impressions": impressions,
            "clicks": random.binomial(impressions, 0.016),
        }
    ).to_csv(folder / "observations.csv", index=False)
    source = {name: {"path": str(folder / f"{name}.csv")} for name in ("products", "creatives", "observations")}
    config = folder / "import.yaml"
    config.write_text(yaml.safe_dump({"source": source | {"images": {"root": str(folder / "images")}}}))
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_tables(folder, rows)
        size = (folder / "observations.csv").stat().st_size
        start = time.monotonic()
        command = [sys.executable, "jobs/import_data.py", "--config", str(config), "--out", str(folder / "dataset")]
        subprocess.run(command, check=True)
        seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
    print(f"{rows:,} rows ({size / 2**20:.0f} MiB) in {seconds:.1f} s, peak {peak:.2f} GiB; {describe_machine()}")


if __name__ == "__main__":
    main()
