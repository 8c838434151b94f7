"""A table of pairs scored by Ray Data: every image encoded once, then every row judged in every market, in parts.

Images and encodes go through the work folder (`scoring/verdict_shards.py`), never through Ray's object store.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from countryreward import __version__
from countryreward.data.artifacts import as_plain, sha256_file
from countryreward.data.data_config import ImagesConfig
from countryreward.data.quarantine import check_counts
from countryreward.on_ray.encode_dataset import Batch, in_actors
from countryreward.progress import bar
from countryreward.scoring.feature_cache import FeatureCache, check_space, image_bytes
from countryreward.scoring.model_folder import ModelFolder
from countryreward.scoring.pair_table import (
    SIDES,
    TABLE,
    FoundImages,
    PairTable,
    Place,
    find_images,
    image_root,
    refuse_images,
)
from countryreward.scoring.scoring_config import RewardScorerConfig, TableScoring
from countryreward.scoring.verdict_shards import ShardScorer, WorkFolder, merge, part_path, write_rows

_SHARD_BATCHES = 4  # forward passes whose images make one shard: what is lost when an actor is killed


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model actors load, and where to."""

    folder: str
    knowledge_base: str
    device: str
    scorer: RewardScorerConfig

    def open(self) -> ModelFolder:
        """Open it, every file checked."""
        return ModelFolder.open(self.folder, self.knowledge_base)


class EncodeImages:
    """A Ray Data actor: a shard of encoded images per call. What is refused is told, not raised."""

    def __init__(self, model: Model, images: ImagesConfig, copied: Path, store: Path) -> None:
        from countryreward.scoring.feature_cache import ImageEncoding

        options: dict[str, Any] = {"device": model.device, "batch_size": model.scorer.batch_size}
        self.encoding, self.store = ImageEncoding(model.open(), images, copied, **options), store

    def __call__(self, batch: Batch) -> Batch:
        names = [str(name) for name in batch["content_hash"]]
        columns = (batch["uri"], batch["offset"], batch["length"])
        places = [Place(str(uri), int(offset), int(length)) for uri, offset, length in zip(*columns, strict=True)]
        done = self.encoding.encode(names, places, self.store)
        told = [(done.refused | done.lost).get(name, ("", "")) for name in names]
        return {
            "content_hash": names,
            "tower_encodes": [done.tower_encodes, *[0] * (len(names) - 1)],  # of the whole call: the driver adds up
            "reason": [reason for reason, _ in told],
            "value": [value for _, value in told],
        }


class ScoreParts:
    """A Ray Data actor: writes one part per row."""

    def __init__(
        self, model: Model, store: Path, rows: Path, parts: Path, markets: tuple[str, ...] | None, keep: list[str]
    ) -> None:
        from countryreward.scoring.country_reward import CountryReward

        scorer = CountryReward(model.open(), device=model.device, config=model.scorer)
        self.shards, self.parts = ShardScorer(scorer, FeatureCache(store), rows, markets, keep), parts

    def __call__(self, batch: Batch) -> Batch:
        for part in batch["part"]:
            self.shards.write(int(part), self.parts)
        return {"part": batch["part"]}


def score_table(
    table: PairTable, config: TableScoring, opened: ModelFolder, work: WorkFolder, folder: Path
) -> dict[str, Any]:
    """Write verdicts.parquet and quarantine.jsonl into `folder`. Returns counts; input = kept + quarantined.

    table: as `read_pairs` gave it. Finished encodes and parts in `work` are taken, not done again.
    """
    asked = Model(  # by the version's own folder: one that is published meanwhile must not slip in
        folder=str(opened.artifact.path),
        knowledge_base=str(opened.base.artifact.path),
        device="cuda" if config.gpus_per_actor > 0 else "cpu",
        scorer=RewardScorerConfig(abstain_below=config.abstain_below, batch_size=config.batch_size),
    )
    images = replace(config.images, root=image_root(config))
    with bar("images read") as progress:
        found = find_images(table, images, work.copied, progress)
    made_by = {"model": opened.artifact.manifest.version, "device": asked.device, "library": __version__}
    store = work.of("encodes", {**made_by, "max_pixels": images.max_pixels})
    counts = _encode(table, config, asked, opened, images, found, work, store)

    rows = write_rows(table, found.hashes, config.keep, work.rows, config.part_rows)
    options = {"abstain_below": config.abstain_below, "part_rows": config.part_rows, "keep": config.keep}
    parts = work.of(
        "parts",
        {
            **made_by,
            **options,
            "knowledge_base": opened.base.version,
            "markets": as_plain(table.markets),
            "pairs": table.digest,
            "rows": sha256_file(work.rows),  # with the hashes of their images
        },
    )
    done = [part_path(parts, part) for part in range(-(-rows // config.part_rows))]
    todo = [part for part, path in enumerate(done) if not path.exists()]
    if len(todo) < len(done):
        print(f"score: {len(done) - len(todo):,} of {len(done):,} parts are finished already")
    if todo:
        arguments = {
            "model": asked,
            "store": store,
            "rows": work.rows,
            "parts": parts,
            "markets": table.markets,
            "keep": config.keep,
        }
        actors: dict[str, Any] = {"gpus_per_actor": config.gpus_per_actor, "blocks": len(todo)}
        source = in_actors(pd.DataFrame({"part": todo}), ScoreParts, arguments, batch_size=1, **actors)
        with bar("parts judged") as progress:
            ready = len(done) - len(todo)
            for batch in source.iter_batches(batch_size=None, batch_format="numpy"):
                ready += len(batch["part"])  # pyright: ignore[reportArgumentType, reportCallIssue]
                progress(ready, len(done))
    choices: Counter[str] = Counter()

    def see(part: pa.Table) -> None:
        choices.update(choice or "none" for choice in part["choice"].to_pylist())

    verdicts = merge(done, folder / "verdicts.parquet", config.keep, see)
    table.checks.quarantine.write(folder)
    by_reason = table.checks.quarantine.counts(TABLE)
    counts["pairs"] = {
        "input": len(table.frame),
        "kept": rows,
        "dropped": 0,
        "quarantined": sum(by_reason.values()),
        "quarantined_by_reason": by_reason,
    }
    counts["verdicts"] = {"all": verdicts, "choices": dict(sorted(choices.items()))}
    counts["parts"] = {"judged": len(todo), "found": len(done) - len(todo)}
    check_counts(counts["pairs"], "score")
    return counts


def _encode(
    table: PairTable,
    config: TableScoring,
    model: Model,
    opened: ModelFolder,
    images: ImagesConfig,
    found: FoundImages,
    work: WorkFolder,
    store: Path,
) -> dict[str, Any]:
    """Encode the images of good rows that the store lacks; quarantine the rows of those that cannot be decoded."""
    good = found.hashes[table.checks.good]
    names = pd.unique(good.to_numpy().ravel())
    before = FeatureCache.open(store)
    refused = {name: before.refused[name] for name in names if name in before.refused}
    missing = [name for name in names if name not in before and name not in refused]
    known = len(names) - len(missing) - len(refused)
    tower_encodes = done = 0
    if missing:
        size = check_space(store, len(missing), image_bytes(opened, half=model.device == "cuda"))
        print(f"score: {len(missing):,} images to encode, {known:,} are already; they take {size}")
        places = [found.places[name] for name in missing]
        frame = pd.DataFrame({"content_hash": missing, **pd.DataFrame(places).to_dict("list")})
        arguments = {"model": model, "images": images, "copied": work.copied, "store": store}
        shard = config.batch_size * _SHARD_BATCHES
        actors: dict[str, Any] = {"gpus_per_actor": config.gpus_per_actor, "blocks": -(-len(missing) // shard)}
        source = in_actors(frame, EncodeImages, arguments, batch_size=shard, **actors)
        with bar("images encoded") as progress:
            batches: Any = source.iter_batches(batch_size=None, batch_format="numpy")
            for batch in batches:
                tower_encodes += int(batch["tower_encodes"].sum())
                done += len(batch["reason"])
                told = zip(batch["content_hash"], batch["reason"], batch["value"], strict=True)
                refused |= {str(name): (str(reason), str(value)) for name, reason, value in told if reason}
                progress(done, len(missing))
        whole = FeatureCache(store)
        assert all(name in whole or name in refused for name in missing), "an image was neither encoded nor refused"
    for side in SIDES:
        names_of = good[f"hash_{side[-1]}"]
        refuse_images(table, side, {int(str(row)): refused[name] for row, name in names_of.items() if name in refused})
    counts = {
        "images": {
            "input": len(names),
            "kept": len(names) - len(refused),
            "dropped": 0,
            "quarantined": len(refused),
        },
        "tower_encodes": {"now": tower_encodes, "before": known},
    }
    check_counts(counts["images"], "images of the table")
    return counts
