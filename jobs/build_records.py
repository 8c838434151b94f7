"""Derive labelled pairs from a dataset: one row per pair and market.

python jobs/build_records.py --records.split.by=image --dataset=runs/bass/dataset --out=runs/bass/records
"""

from dataclasses import dataclass, field

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.data.data_config import RecordsConfig
from countryreward.errors import UserError


@dataclass(kw_only=True)
class Config:
    """Label pairs, split them, say what can be shown with them."""

    dataset: str = "runs/demo/dataset"
    """A published dataset."""
    out: str = "runs/demo/records"
    """Folder to publish: records.parquet, units.parquet (which unit is in which split)."""
    records: RecordsConfig = field(default_factory=RecordsConfig)
    """How to label, orient and split."""


def main(config: Config) -> Artifact:
    dataset = open_artifact(config.dataset, kind="dataset")
    artifact = current(config.out, kind="records", inputs={"dataset": dataset}, config=config.records)
    if artifact:
        print(f"records: {config.out} is up to date")
        return artifact
    from countryreward.data.check import check, describe
    from countryreward.data.dataset import Dataset
    from countryreward.data.records import build_records

    tables = Dataset.read(dataset.path)
    with publish(config.out, kind="records", inputs={"dataset": dataset}, config=config.records) as draft:
        records = build_records(tables, config.records)
        records.write(draft.path)
        facts = check(tables, records)
        draft.counts |= {**records.counts, "facts": facts}
        print("records: " + describe(facts).replace("\n", "\nrecords: "))
        if facts["nothing_to_compare"]:
            raise UserError(
                f"dataset: {config.dataset}: {facts['nothing_to_compare']}; import more ads of its products"
            )
    print(f"records: -> {config.out}")
    return open_artifact(config.out, kind="records")


if __name__ == "__main__":
    run(Config, main)
