"""One process of a reward training, from opened artifacts to best and last weights: everything but who starts it.

Run folder (contract 6), written by the first rank:

    log.jsonl            one line per `log_every` steps ("kind": "step") and per validation ("kind": "validation")
    tensorboard/         the same numbers
    best/, last/         config.json, model.safetensors, processor, validation.parquet, training.json
    quarantine.jsonl     records whose prompt was refused
"""

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from countryreward.data.artifacts import open_artifact
from countryreward.data.quarantine import Quarantine
from countryreward.data.records import Dataset
from countryreward.errors import UserError
from countryreward.models.attention import fast_bfloat16
from countryreward.models.country_reward import CountryRewardModel, attention_implementation
from countryreward.models.processor import PairProcessor
from countryreward.models.prompts import PromptBuilder
from countryreward.models.rate_groups import rate_groups
from countryreward.models.reward_config import preset
from countryreward.models.tower import backbone_folder
from countryreward.scoring.examples import build_examples
from countryreward.scoring.image_inputs import image_inputs, with_images
from countryreward.scoring.judging import Loader
from countryreward.training.config import LoopConfig, RewardTraining
from countryreward.training.engine import DeepSpeedEngine, Engine, TorchEngine
from countryreward.training.ranks import Ranks
from countryreward.training.reward import total_steps, train_reward
from countryreward.training.schedule import cosine_with_warmup
from countryreward.training.validation import Validation, some_items, validate

Tell = Callable[[dict[str, Any]], None]
"""What the first rank tells whoever watches: {"stage", "done", "total"} and the log's lines."""


def run_training(job: RewardTraining, folder: Path, *, device: torch.device | str = "cpu", tell: Tell) -> None:
    """Train on this process's share. Call it on every rank; `torch.distributed` is set up by the caller."""
    ranks = Ranks.current()
    loop = settled(job.loop.resolved(preset(job.preset)), ranks, device)
    quarantine = Quarantine("training")
    model, processor = load_model(job, loop, device)
    train, validation = load_examples(job, model, processor, quarantine, loop, tell if ranks.first else _silent)
    steps = total_steps(len(train.examples.prompts), loop, ranks.world)
    engine = make_engine(model, job, loop, steps)
    writer = _Writer(folder, tell) if ranks.first else None
    facts = {"precision": loop.precision, "workers": ranks.world, "steps": steps}
    if writer:
        quarantine.write(folder)
    best: list[float] = []

    def after(step: int) -> None:
        started = time.monotonic()
        with engine.precision():
            found = validate(engine.bare, validation, ranks, batch_size=4 * loop.value("batch_size"))
        names = ["last"] + (["best"] if not best or found.score > max(best) else [])
        best.append(found.score)
        weights = engine.state_dict()  # every rank: gathering shards is done together
        if writer:
            seconds = round(time.monotonic() - started, 3)
            writer.line({"kind": "validation", "step": step, **found.metrics, "seconds": seconds})
            for name in names:
                writer.save(name, model, processor, weights, found, validation.examples.records, facts | {"step": step})

    train_reward(
        engine,
        model,
        train,
        loop,
        steps=steps,
        log=lambda line: writer.line({"kind": "step", **line}) if writer else None,
        validate=after,
        ranks=ranks,
        progress=(lambda done, total: tell({"stage": "training steps", "done": done, "total": total}))
        if ranks.first
        else None,
    )
    if writer:
        writer.close()


def _silent(_: dict[str, Any]) -> None:
    """Ranks other than the first tell nothing."""


def settled(loop: LoopConfig, ranks: Ranks, device: torch.device | str) -> LoopConfig:
    """`precision: auto` decided, the same on all ranks."""
    if loop.precision != "auto":
        return loop
    fast = ranks.mean([float(fast_bfloat16(device))], device)[0] == 1.0
    return dataclasses.replace(loop, precision="bf16" if fast else "fp32")


def bf16_weights(loop: LoopConfig, device: torch.device | str) -> bool:
    """Whether weights are bfloat16: on CUDA under DeepSpeed, which keeps float32 master copies. Elsewhere bf16 is autocast."""
    assert loop.precision in ("fp32", "bf16"), loop.precision
    return loop.precision == "bf16" and loop.engine == "deepspeed" and torch.device(device).type == "cuda"


def load_model(
    job: RewardTraining, loop: LoopConfig, device: torch.device | str
) -> tuple[CountryRewardModel, PairProcessor]:
    source = backbone_folder(job.source())
    compute = torch.bfloat16 if loop.precision == "bf16" else torch.float32
    dtype = torch.bfloat16 if bf16_weights(loop, device) else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(loop.seed)
        model = CountryRewardModel.from_backbone(
            source, job.reward.resolved(), dtype=dtype, attn_implementation=attention_implementation(device, compute)
        )
    model.config.image_px = job.px()
    torch.nn.Module.to(model, device)
    return model, PairProcessor.from_pretrained(source)


def make_engine(model: CountryRewardModel, job: RewardTraining, loop: LoopConfig, steps: int) -> Engine:
    groups = rate_groups(model, job.all_rates(), weight_decay=loop.weight_decay)
    factor = functools.partial(cosine_with_warmup, total=steps, warmup_share=loop.warmup)
    shared: dict[str, Any] = {
        "accumulation": loop.value("accumulation"),
        "max_grad_norm": loop.max_grad_norm,
        "autocast": loop.precision == "bf16" and model.dtype == torch.float32,
    }
    if loop.engine == "torch":
        return TorchEngine(model, groups, factor, **shared)
    size = loop.value("batch_size")
    return DeepSpeedEngine(model, groups, factor, **shared, batch_size=size, zero_stage=loop.zero_stage)


def load_examples(
    job: RewardTraining,
    model: CountryRewardModel,
    processor: PairProcessor,
    quarantine: Quarantine,
    loop: LoopConfig,
    tell: Tell,
) -> tuple[Loader, Loader]:
    """Training and validation."""
    dataset, records = open_artifact(job.dataset, kind="dataset"), open_artifact(job.records, kind="records")
    products = Dataset.read(dataset.path).products
    frame = pd.read_parquet(records.path / "records.parquet").sort_values("record_id").reset_index(drop=True)
    priors = None
    if job.priors:
        priors = pd.read_parquet(open_artifact(job.priors, kind="priors").path / "priors.parquet")
    images = image_inputs(job.features, dataset.path, model, processor, px=job.px())
    builder = PromptBuilder(processor.tokenizer, model.options)
    side = job.px() // 14
    loaders = []
    for split in ("train", "validation"):
        part = frame[frame["split"] == split].reset_index(drop=True)
        if split == "validation":
            part = some_items(part, loop.validation_items, loop.seed) if len(part) else part
        if part.empty:
            raise UserError(
                f"records: there are no {split} records in {job.records}; jobs/build_records.py sets the shares"
            )
        part = with_images(part, images, quarantine)
        examples = build_examples(
            part,
            products,
            priors,
            builder,
            grid=(1, side, side),
            quarantine=quarantine,
            progress=lambda done, total, split=split: tell({"stage": f"{split} prompts", "done": done, "total": total}),
        )
        if not examples.prompts:
            raise UserError(f"records: every {split} record was refused; {_first_reason(quarantine)}")
        loaders.append(Loader(examples, images, processor.tokenizer.pad_token_id))
    return loaders[0], loaders[1]


def _first_reason(quarantine: Quarantine) -> str:
    first = quarantine.refusals[0]
    return f"the first because of {first.field}: {first.value}"


@dataclass
class _Writer:
    """The run folder's files."""

    folder: Path
    tell: Tell

    def __post_init__(self) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(self.folder / "tensorboard"))

    def line(self, line: dict[str, Any]) -> None:
        """One line of the log, to all who read it."""
        line = {name: None if value != value else value for name, value in line.items()}  # JSON knows no NaN
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "of"):
                self._board.add_scalar(f"{line['kind']}/{name}", value, line["step"])
        for number, rate in enumerate(line.get("rates", ())):
            self._board.add_scalar(f"rates/{number}", rate, line["step"])
        self.tell(line)

    def save(
        self,
        name: str,
        model: CountryRewardModel,
        processor: PairProcessor,
        weights: dict[str, torch.Tensor],
        found: Validation,
        records: pd.DataFrame,
        facts: dict[str, Any],
    ) -> None:
        """A model folder without its surroundings. Written beside and swapped in, so none is ever half a model."""
        partial = self.folder / f".tmp-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial, state_dict=dict(weights))  # it empties the dict it is given
        processor.save_pretrained(partial)
        frame = records[["record_id", "market", "label"]].assign(logit=found.logits)
        frame.to_parquet(partial / "validation.parquet", index=False)
        measured = {metric: None if value != value else value for metric, value in found.metrics.items()}
        facts = facts | {"validation": measured, "temperature": found.temperature, "records": len(records)}
        (partial / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        final, old = self.folder / name, self.folder / f".old-{name}"
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._board.close()


def as_plain(job: RewardTraining) -> dict[str, Any]:
    """For a manifest: every option in force."""
    loop = job.loop.resolved(preset(job.preset))
    return asdict(job) | {
        "rates": asdict(job.all_rates()),
        "loop": asdict(loop),
        "reward": asdict(job.reward.resolved()),
    }
