"""One process of a reward training, from opened artifacts to best and last weights: everything but who starts it.

What it writes: training/run_folder.py. Called again for the same folder it goes on where it was.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from countryreward.data.artifacts import open_artifact
from countryreward.data.dataset import Dataset
from countryreward.data.file_primitives import read_json
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.models.attention import attention_implementation, fast_bfloat16
from countryreward.models.learning_rate_groups import parameter_groups
from countryreward.models.lora import add_lora, loading_options, merged, save_adapter
from countryreward.models.processor import PairProcessor
from countryreward.models.reward_config import preset
from countryreward.models.reward_model import CountryRewardModel
from countryreward.models.reward_prompts import PromptBuilder
from countryreward.models.tower import backbone_folder
from countryreward.scoring.predict import Loader, build_examples, image_inputs, with_images
from countryreward.scoring.verdicts import delivery_of
from countryreward.training.checkpoints import CheckpointStore, random_state, set_random_state
from countryreward.training.data_order import microbatches
from countryreward.training.distributed import ProcessGroup
from countryreward.training.divergence import Diverged, weights_are_finite
from countryreward.training.engine import DeepSpeedEngine, Engine, TorchEngine, cosine_with_warmup
from countryreward.training.reward_loop import Progress, total_steps, train_reward
from countryreward.training.run_folder import STARTED, RunFolder, Tell, taken_up
from countryreward.training.run_identity import RunIdentity
from countryreward.training.trackers import open_trackers
from countryreward.training.training_config import LoopConfig, RewardTraining
from countryreward.training.validation import Validation, some_items, validate


def run_training(
    job: RewardTraining,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    tell: Tell,
    identity: RunIdentity | None = None,
    workers: int = 0,
    warned: Callable[[], bool] | None = None,
) -> bool:
    """Train on this process's share, from the run's newest whole checkpoint where there is one. Call it on every rank;
    `torch.distributed` is set up by the caller. Returns whether the end was reached: False when the run was asked to stop.

    workers: how many the run is planned for (0: those that are here); any number of them, also another one at each start, makes
    the same steps on the same data. warned: whether a node is about to be taken away, as `train_reward` asks it.

    Raises `UserError` where the run was started from other inputs or options, and where the disk is full.
    """
    ranks = ProcessGroup.current()
    identity = identity or RunIdentity(inputs={}, options=job.options())
    with taken_up(folder, identity, ranks, tell) as run:
        return run is None or _train(job, run, ranks, device, identity, workers or ranks.world, warned)


def _train(
    job: RewardTraining,
    run: RunFolder,
    ranks: ProcessGroup,
    device: torch.device | str,
    identity: RunIdentity,
    workers: int,
    warned: Callable[[], bool] | None,
) -> bool:
    folder, made_from = run.folder, identity.made_from
    before = ranks.first_of(read_json(folder / STARTED).get("precision", "") if ranks.first else "")
    loop = settled(job.loop.resolved(preset(job.preset)), ranks, device, before)
    quarantine = Quarantine("training")
    model, processor = load_model(job, loop, device)
    train, validation = load_examples(job, model, processor, quarantine, loop, run.tell)
    steps = total_steps(len(train.examples.prompts), loop, workers)
    facts = {"run": folder.name, "precision": loop.precision, "workers": workers, "steps": steps}
    facts |= {"delivery": delivery_of(train.examples.records), "copy": train.examples.copy}
    store = CheckpointStore(
        folder / "checkpoints",
        {**made_from, "precision": loop.precision, "workers": workers, "steps": steps},
        ranks,
        keep=loop.keep_checkpoints,
    )
    newest = store.newest(run.say)
    resized = newest is not None and len(newest[1]) != ranks.world
    each = len(microbatches(workers, loop.value("accumulation"), ranks))
    engine = make_engine(model, job, loop, steps, accumulation=each, resized=resized)
    torch.manual_seed(loop.seed * ranks.world + ranks.rank)  # dropout: every rank its own
    start = Progress()
    if newest:
        path, states = newest
        engine.load(path)
        if resized:  # generators belong to ranks that are no more: new ones, other than any before
            start = Progress.shared([state["progress"] for state in states], ranks.world)
            torch.manual_seed((loop.seed + start.step) * ranks.world + ranks.rank)
        else:
            start = Progress(**states[ranks.rank]["progress"])
            set_random_state(states[ranks.rank]["random"])
    best: list[float] = []
    if ranks.first:
        run.begin(made_from, ranks.world, str(loop.precision))
        quarantine.write(folder)
        run.trackers = open_trackers(job.trackers, folder, identity.options, start.step)
        run.go_on(start.step, steps, ranks.world)
        score = run.best_score() if start.step else None
        best += [score] if score is not None else []

    def validated(step: int) -> None:
        started = time.monotonic()
        with engine.precision():
            measured = validate(engine.bare, validation, ranks, batch_size=4 * loop.value("batch_size"))
        weights = engine.state_dict()  # every rank: gathering shards is done together
        if ranks.any(ranks.first and not weights_are_finite(weights), device):
            raise Diverged(
                f"training: it has diverged: after step {step:,} of {steps:,} there are weights that are not finite"
            )
        if not ranks.first:
            return
        names = ["last"] + (["best"] if not best or measured.score > max(best) else [])
        best.append(measured.score)
        seconds = round(time.monotonic() - started, 3)
        records, more = validation.examples.records, facts | {"step": step, "score": measured.score}

        def write(place: Path) -> None:
            save_weights(place, model, processor, merged(model, weights), measured, records, more)
            if job.lora.rank:
                save_adapter(model, weights, place / "adapter", job.lora, job.source())

        run.save(names, write)
        # told last: who hears of a validation, such as a sweep that may end the run there and then, finds its weights
        run.line({"kind": "validation", "step": step, **measured.metrics, "seconds": seconds})

    def checkpoint(progress: Progress) -> None:
        state = {"progress": dataclasses.asdict(progress), "random": random_state()}
        store.save(progress.step, state, engine.save, size=engine.state_bytes())

    reached = train_reward(
        engine,
        model,
        train,
        loop,
        steps=steps,
        log=lambda line: run.line({"kind": "step", **line}) if ranks.first else None,
        validate=validated,
        ranks=ranks,
        workers=workers,
        progress=lambda done, total: run.tell({"stage": "training steps", "done": done, "total": total}),
        start=start,
        checkpoint=checkpoint,
        stop=run.stop_asked if ranks.first else lambda: False,
        warned=warned,
    )
    if ranks.first:
        run.close()
        if reached == steps:
            run.finish(made_from, facts)
        else:
            run.say(
                f"stopped at step {reached:,} of {steps:,}; a checkpoint was written, the same command goes on from it"
            )
    if reached == steps:
        store.remove()
    return reached == steps


def settled(loop: LoopConfig, ranks: ProcessGroup, device: torch.device | str, before: str = "") -> LoopConfig:
    """`precision: auto` decided, the same on all ranks. before: what this run was begun with; it goes on so on any processor."""
    if loop.precision != "auto":
        return loop
    if before:
        return dataclasses.replace(loop, precision=before)
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
            source,
            job.reward.resolved(),
            dtype=dtype,
            attn_implementation=attention_implementation(device, compute),
            **loading_options(job.lora, compute),
        )
        if job.lora.rank:
            add_lora(model, job.lora)
        # Merged weights are published, whole and not in 4 bits: their config must not say otherwise.
        model.config.backbone.__dict__.pop("quantization_config", None)
    if loop.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.image_px = job.px()
    torch.nn.Module.to(model, device)
    return model, PairProcessor.from_pretrained(source)


def make_engine(
    model: CountryRewardModel,
    job: RewardTraining,
    loop: LoopConfig,
    steps: int,
    *,
    accumulation: int = 0,
    resized: bool = False,
) -> Engine:
    """accumulation: passes per step (0: the loop's); resized: it will load what another number of ranks saved."""
    groups = parameter_groups(model, job.all_learning_rates(), weight_decay=loop.weight_decay)
    factor = functools.partial(cosine_with_warmup, total=steps, warmup_share=loop.warmup)
    shared: dict[str, Any] = {
        "accumulation": accumulation or loop.value("accumulation"),
        "max_grad_norm": loop.max_grad_norm,
        "optimizer": loop.optimizer,
        "autocast": loop.precision == "bf16" and model.dtype == torch.float32,
    }
    if loop.engine == "torch":
        return TorchEngine(model, groups, factor, **shared)
    size = loop.value("batch_size")
    return DeepSpeedEngine(
        model, groups, factor, **shared, batch_size=size, zero_stage=loop.zero_stage, resized=resized
    )


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
    tables = Dataset.read(dataset.path)
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
            tables.products,
            priors,
            builder,
            grid=(1, side, side),
            quarantine=quarantine,
            creatives=tables.creatives,
            progress=lambda done, total, split=split: tell({"stage": f"{split} prompts", "done": done, "total": total}),
        )
        if not examples.prompts:
            raise UserError(f"records: every {split} record was refused; {_first_reason(quarantine)}")
        loaders.append(Loader(examples, images, processor.tokenizer.pad_token_id))
    return loaders[0], loaders[1]


def _first_reason(quarantine: Quarantine) -> str:
    first = quarantine.refusals[0]
    return f"the first because of {first.field}: {first.value}"


def save_weights(
    place: Path,
    model: CountryRewardModel,
    processor: PairProcessor,
    weights: dict[str, torch.Tensor],
    measured: Validation,
    records: pd.DataFrame,
    facts: dict[str, Any],
) -> None:
    """A model folder without its surroundings."""
    model.save_pretrained(place, state_dict=weights)  # it empties the dict it is given
    processor.save_pretrained(place)
    frame = records[["record_id", "market", "label"]].assign(logit=measured.logits)
    frame.to_parquet(place / "validation.parquet", index=False)
    metrics = {metric: None if value != value else value for metric, value in measured.metrics.items()}
    facts = facts | {"validation": metrics, "temperature": measured.temperature, "records": len(records)}
    (place / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
