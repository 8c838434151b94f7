"""The whole product on a simulated marketplace: what `make demo` runs.

python jobs/demo.py --out=runs/noisy --marketplace.level=real-noise
"""

from dataclasses import dataclass, field

import make_marketplace
import prior_chain
from countryreward.command import run
from countryreward.data.config import ImagesConfig, ImportConfig, RecordsConfig, TableSource
from countryreward.data.marketplace.config import MarketplaceConfig
from countryreward.on_ray.config import RayConfig
from countryreward.retrieval.config import EncodersConfig, RetrievalConfig


@dataclass(kw_only=True)
class Config:
    """Simulate a marketplace, then run the chain on its export as on anybody's."""

    out: str = "runs/demo"
    """Run folder; every stage publishes a folder in it."""
    marketplace: MarketplaceConfig = field(default_factory=MarketplaceConfig)
    """What to simulate."""
    records: RecordsConfig = field(default_factory=RecordsConfig)
    """How to label and split."""
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    """Which encoders."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Search and vote."""
    draws: int = 2000
    """Bootstrap draws of the report."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> None:
    export = f"{config.out}/export"
    made = make_marketplace.main(make_marketplace.Config(out=export, marketplace=config.marketplace))
    products, creatives, observations = (
        TableSource(path=f"{export}/{name}.csv") for name in ("products", "creatives", "observations")
    )
    prior_chain.main(
        prior_chain.Config(
            out=config.out,
            source=ImportConfig(
                products=products,
                creatives=creatives,
                observations=observations,
                images=ImagesConfig(root=f"{export}/images"),
            ),
            records=config.records,
            encoders=config.encoders,
            retrieval=config.retrieval,
            truth=f"{export}/truth.parquet",
            draws=config.draws,
            stages={"marketplace": made.manifest.seconds},
            ray=config.ray,
        )
    )
    print(f"next: open {config.out}/report.html")
    print(f"next: .venv/bin/countryreward data check {config.out}")
    print(f"next: .venv/bin/countryreward kb show {config.out} --market KR")


if __name__ == "__main__":
    run(Config, main)
