"""Import an ad platform's export (three tables and images) or a ready-made pair file into a dataset.

    python jobs/import_data.py --config docs/sample/import.yaml

docs/data.md has a sample to copy.
"""

from dataclasses import asdict, dataclass, field

from countryreward.command import run
from countryreward.data.artifacts import Artifact, current, open_artifact, publish
from countryreward.data.data_config import ImportConfig
from countryreward.errors import UserError


@dataclass(kw_only=True)
class Config:
    """Import products, creatives and observations; bad rows go to quarantine with their reason."""

    out: str = "runs/demo/dataset"
    """Folder to publish: products, creatives, observations, images, quarantine.jsonl."""
    source: ImportConfig = field(default_factory=ImportConfig)
    """What to read."""


def main(config: Config) -> Artifact:
    from countryreward.data.importers.import_dataset import (
        evidence_rows,
        import_dataset,
        is_known,
        notes,
        source_fingerprint,
        why_none,
    )
    from countryreward.progress import bar

    fingerprint = source_fingerprint(config.source)
    options = {**asdict(config.source), "fingerprint": fingerprint}
    artifact = current(config.out, kind="dataset", config=options) if is_known(fingerprint) else None
    if artifact and evidence_rows(artifact.manifest.counts, "kept"):  # one without failed, and fails again
        print(f"import: {config.out} is up to date")
        return artifact
    with publish(config.out, kind="dataset", config=options) as draft:
        draft.counts |= import_dataset(config.source, draft.path, bar)
    for table, counts in draft.counts.items():
        print(
            f"import: {table:<13} {counts['input']:,} rows = {counts['kept']:,} kept + {counts['dropped']:,} dropped"
            f" + {counts['quarantined']:,} quarantined"
            + (f" {counts['quarantined_by_reason']}" if counts["quarantined_by_reason"] else "")
        )
        for line in notes(counts):
            print(f"import: {table:<13} {line}")
    print(f"import: -> {config.out}; what was refused and why: {config.out}/quarantine.jsonl")
    if not evidence_rows(draft.counts, "kept"):
        rows = evidence_rows(draft.counts, "input")
        refused = f"none of {rows:,} rows was kept; see {config.out}/quarantine.jsonl{why_none(draft.counts)}"
        raise UserError(f"observations, votes: {refused}" if "votes" in draft.counts else f"observations: {refused}")
    return open_artifact(config.out, kind="dataset")


if __name__ == "__main__":
    run(Config, main)
