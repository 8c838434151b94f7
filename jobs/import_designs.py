"""Import the designs that a design writer learns from: your own briefs, or the designs of creatives, the winners by market.

python jobs/import_designs.py --designs.path=briefs.csv
"""

from dataclasses import dataclass, field

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.data.data_config import TableSource, spellings


@dataclass(kw_only=True)
class Config:
    """A table of designs becomes designs by product and market."""

    designs: TableSource = field(default_factory=lambda: TableSource(path="runs/demo/export/designs.jsonl"))
    """Columns product_id and market (briefs), or creative_id; and design (four lines or JSON), or the four fields."""
    dataset: str = "runs/demo/dataset"
    """The published dataset of the products."""
    records: str = "runs/demo/records"
    """Its records: a design is in the split of its product."""
    won: bool = True
    """Of creatives' designs, only the one that did best in a market; false: those of all creatives observed there."""
    market_aliases: dict[str, str] = field(default_factory=dict)
    """Spelling in the file -> code of a country (ISO 3166) or of the dataset's own market."""
    out: str = "runs/demo/designs"
    """Folder to publish."""

    def __post_init__(self) -> None:
        self.market_aliases = spellings(self.market_aliases, "market_aliases")


def main(config: Config) -> Artifact:
    from countryreward.data.importers.table_files import table_digest

    inputs = {
        "dataset": open_artifact(config.dataset, kind="dataset"),
        "records": open_artifact(config.records, kind="records"),
    }
    options = {
        "designs": config.designs,
        "sha256": table_digest(config.designs.path),
        "won": config.won,
        "market_aliases": config.market_aliases,
    }
    artifact = current(config.out, kind="designs", inputs=inputs, config=options)
    if artifact:
        print(f"designs: {config.out} is up to date")
        return artifact
    import pandas as pd

    from countryreward.data.dataset import Dataset
    from countryreward.data.importers.designs import import_designs
    from countryreward.data.quarantine import Quarantine

    units = pd.read_parquet(inputs["records"].path / "units.parquet")
    quarantine = Quarantine("import_designs")
    with publish(config.out, kind="designs", inputs=inputs, config=options) as draft:
        draft.counts |= import_designs(
            config.designs,
            Dataset.read(inputs["dataset"].path),
            dict(zip(units["unit"], units["split"], strict=True)),
            draft.path,
            quarantine,
            won=config.won,
            aliases=config.market_aliases,
        )
        quarantine.write(draft.path)
    designs = open_artifact(config.out, kind="designs")
    rows, by_market = designs.manifest.counts["designs"], designs.manifest.counts["records"]
    print(f"designs: {rows['input']:,} = {rows['kept']:,} kept + {rows['quarantined']:,} quarantined")
    print(f"designs: by product and market {by_market['kept']:,}, {by_market['splits']} -> {config.out}")
    return designs


if __name__ == "__main__":
    run(Config, main)
