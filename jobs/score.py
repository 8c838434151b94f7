"""Score a table of pairs with a trained model, in any number of markets, with Ray Data.

    python jobs/score.py --pairs=my.csv --markets='[KR, BR]' --out=runs/scores

docs/scoring.md lists the table's columns. Killed, it goes on where it was when the same command is run again.
"""

from dataclasses import dataclass, field
from pathlib import Path

from countryreward.command import run
from countryreward.data.artifacts import Artifact, as_plain, current, open_artifact, publish
from countryreward.on_ray.ray_config import RayConfig
from countryreward.scoring.scoring_config import TableScoring

SHAPING = ("pairs", "columns", "constants", "keep", "markets", "market_aliases", "abstain_below")
"""Options that shape the verdicts; the others only say how the work is done."""


@dataclass(kw_only=True)
class Config(TableScoring):
    """Score every good row of a table; the others go to quarantine."""

    model: str = "runs/demo/model"
    """Model folder."""
    knowledge_base: str = ""
    """A newer knowledge base than the model's own; it must have the same encoders and schema."""
    out: str = "runs/scores"
    """Folder to publish: verdicts.parquet, quarantine.jsonl."""
    work: str = ""
    """Folder of encoded images and finished parts while the job runs, where all nodes see it; empty: `.work` beside out."""
    keep_encodes: bool = False
    """Leave the encoded images in the work folder, for other markets or other tables with the same images."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Where Ray runs."""


def main(config: Config) -> Artifact:
    from dataclasses import replace

    from countryreward.data.quarantine import Quarantine
    from countryreward.scoring.model_folder import ModelFolder
    from countryreward.scoring.pair_table import image_root, images_state, read_pairs
    from countryreward.scoring.verdict_shards import WorkFolder

    folder = ModelFolder.open(config.model, config.knowledge_base or None)
    table = read_pairs(config, folder.trained_markets, Quarantine("score"))
    state = images_state(table, replace(config.images, root=image_root(config)))
    place = Path(config.out).absolute()
    work = WorkFolder(Path(config.work) if config.work else place.parent / ".work" / place.name)
    inputs = {"model": folder.artifact, "knowledge_base": folder.base.artifact}
    options = {
        **{name: as_plain(getattr(config, name)) for name in SHAPING},
        "limits": [config.images.max_bytes, config.images.max_pixels],
        "device": "cuda" if config.gpus_per_actor > 0 else "cpu",
        "pairs_sha256": table.digest,
        "images_state": state,
    }
    found = current(config.out, kind="verdicts", inputs=inputs, config=options) if state else None
    if found:
        print(f"score: {config.out} is up to date")
        return found
    from countryreward.on_ray.scoring import score_table
    from countryreward.on_ray.session import session

    with (
        work.held(),
        session(config.ray),
        publish(config.out, kind="verdicts", inputs=inputs, config=options) as draft,
    ):
        draft.counts |= score_table(table, config, folder, work, draft.path)
    work.clear(keep_encodes=config.keep_encodes)
    _tell(draft.counts, config.out)
    return open_artifact(config.out, kind="verdicts")


def _tell(counts: dict, out: str) -> None:
    pairs, verdicts, encodes = counts["pairs"], counts["verdicts"], counts["tower_encodes"]
    print(f"score: {pairs['input']:,} rows = {pairs['kept']:,} judged + {pairs['quarantined']:,} quarantined")
    for reason, count in pairs["quarantined_by_reason"].items():
        print(f"       {count:,} {reason}")
    said = ", ".join(f"{count:,} {choice}" for choice, count in verdicts["choices"].items())
    print(f"score: {verdicts['all']:,} verdicts: {said or 'none'}")
    print(
        f"score: {counts['images']['input']:,} unique images, {encodes['now']:,} through the tower, {encodes['before']:,} before"
    )
    print(f"score: -> {out}/verdicts.parquet; what was refused and why: {out}/quarantine.jsonl")


if __name__ == "__main__":
    run(Config, main)
