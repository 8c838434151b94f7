"""One process of a reward training, from opened artifacts to best and last weights: everything but who starts it.

What it writes: training/run_folder.py. Called again for the same folder it goes on where it was.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import countryreward
from countryreward.command import run_id
from countryreward.data.artifacts import as_plain as plain_values
from countryreward.data.artifacts import open_artifact
from countryreward.data.dataset import Dataset
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
from countryreward.renamed_options import names_before
from countryreward.scoring.examples import build_examples
from countryreward.scoring.image_inputs import image_inputs, with_images
from countryreward.scoring.predict import Loader
from countryreward.training.checkpoints import CheckpointStore, random_state, set_random_state
from countryreward.training.data_order import microbatches
from countryreward.training.distributed import ProcessGroup
from countryreward.training.divergence import Diverged, last_checkpoint, weights_are_finite
from countryreward.training.engine import DeepSpeedEngine, Engine, TorchEngine, cosine_with_warmup
from countryreward.training.reward_loop import Progress, total_steps, train_reward
from countryreward.training.run_folder import STARTED, RunFolder, Tell, held, read_json
from countryreward.training.trackers import open_trackers
from countryreward.training.training_config import PATHS, LoopConfig, RewardTraining
from countryreward.training.validation import Validation, some_items, validate


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """What a run is made from: the same name goes on only with the same."""

    inputs: dict[str, str]
    """Name of each input artifact -> its version."""
    options: dict[str, Any]
    """Every option in force (`as_plain`)."""


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
    the same steps on the same data. warned: see `train_reward`.

    Raises `UserError` where the run was started from other inputs or options, and where the disk is full.
    """
    ranks = ProcessGroup.current()
    tell = tell if ranks.first else _silent
    with ExitStack() as stack:
        refusal = None
        if ranks.first:
            try:
                stack.enter_context(held(folder))
            except UserError as error:
                refusal = str(error)
        ranks.agree(refusal)
        identity = identity or RunIdentity(inputs={}, options=as_plain(job))
        try:
            return _train(job, folder, ranks, device, tell, identity, workers or ranks.world, warned)
        except Diverged as error:
            raise Diverged(f"{error}; {last_checkpoint(folder / 'checkpoints')}") from None


def _train(
    job: RewardTraining,
    folder: Path,
    ranks: ProcessGroup,
    device: torch.device | str,
    tell: Tell,
    identity: RunIdentity,
    workers: int,
    warned: Callable[[], bool] | None,
) -> bool:
    run = RunFolder(folder, tell)
    if ranks.first:
        run.recover()
    made_from = {**identity.inputs, **identity.options}
    if ranks.first_of(run.finished(made_from) if ranks.first else None):
        return True
    before = ranks.first_of(read_json(folder / STARTED).get("precision", "") if ranks.first else "")
    loop = settled(job.loop.resolved(preset(job.preset)), ranks, device, before)
    quarantine = Quarantine("training")
    model, processor = load_model(job, loop, device)
    train, validation = load_examples(job, model, processor, quarantine, loop, tell)
    steps = total_steps(len(train.examples.prompts), loop, workers)
    facts = {"run": folder.name, "precision": loop.precision, "workers": workers, "steps": steps}
    store = CheckpointStore(
        folder / "checkpoints",
        {**made_from, "precision": loop.precision, "workers": workers, "steps": steps},
        ranks,
        keep=loop.keep_checkpoints,
    )
    found = store.newest(run.say)
    resized = found is not None and len(found[1]) != ranks.world
    each = len(microbatches(workers, loop.value("accumulation"), ranks))
    engine = make_engine(model, job, loop, steps, accumulation=each, resized=resized)
    torch.manual_seed(loop.seed * ranks.world + ranks.rank)  # dropout: every rank its own
    start = Progress()
    if found:
        path, states = found
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
        run.go_back(start.step)
        run.trackers = open_trackers(job.trackers, folder, identity.options, start.step)
        if start.step:
            run.line({"kind": "resumed", "step": start.step, "of": steps, "workers": ranks.world, "run_id": run_id()})
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
        progress=lambda done, total: tell({"stage": "training steps", "done": done, "total": total}),
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


def _silent(_: dict[str, Any]) -> None:
    """Ranks other than the first tell nothing."""


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
    groups = parameter_groups(model, job.all_rates(), weight_decay=loop.weight_decay)
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


def save_weights(
    place: Path,
    model: CountryRewardModel,
    processor: PairProcessor,
    weights: dict[str, torch.Tensor],
    found: Validation,
    records: pd.DataFrame,
    facts: dict[str, Any],
) -> None:
    """A model folder without its surroundings."""
    model.save_pretrained(place, state_dict=weights)  # it empties the dict it is given
    processor.save_pretrained(place)
    frame = records[["record_id", "market", "label"]].assign(logit=found.logits)
    frame.to_parquet(place / "validation.parquet", index=False)
    measured = {metric: None if value != value else value for metric, value in found.metrics.items()}
    facts = facts | {"validation": measured, "temperature": found.temperature, "records": len(records)}
    (place / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


NO_PART_OF_THE_RESULT = ("checkpoint_every", "keep_checkpoints", "log_every")
"""Options of the loop that may change between two starts of one run."""


def as_plain(job: RewardTraining) -> dict[str, Any]:
    """For a manifest: every option in force that shapes the result; inputs are told by their versions, not by their paths.

    Options that were renamed go by their old names: a run or a model that was begun under them is the same one.
    """
    loop = asdict(job.loop.resolved(preset(job.preset)))
    options = asdict(job) | {
        "rates": asdict(job.all_rates()),
        "loop": {name: value for name, value in loop.items() if name not in NO_PART_OF_THE_RESULT},
        "reward": asdict(job.reward.resolved()),
    }
    return names_before({name: value for name, value in options.items() if name not in (*PATHS, "trackers")})


def identity_of(job: RewardTraining, versions: Mapping[str, str], workers: int) -> dict[str, Any]:
    """Fields of a `RunIdentity`. versions: input artifact -> version."""
    return {"inputs": dict(versions), "options": as_plain(job) | {"workers": workers}}


def fingerprint(identity: dict[str, Any]) -> str:
    """The name of a run that was given none: the same inputs, options and library version have the same."""
    text = json.dumps([plain_values(identity), countryreward.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
