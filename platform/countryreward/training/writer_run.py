"""One process of a design writer's training, from published rows to weights: everything but who starts it.

The run folder is that of `training/run_folder.py`: log.jsonl, checkpoints/ (transformers' and DeepSpeed's own files, sealed by
us), last/ (what the writer becomes), finished.json. Called again for the same folder it goes on where it was.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from trl import DPOConfig  # pyright: ignore[reportPrivateImportUsage]

from countryreward.data.artifacts import Draft, open_artifact, seal
from countryreward.data.quarantine import Quarantine
from countryreward.errors import UserError
from countryreward.models.design_writer import DesignWriterModel
from countryreward.models.lora import TARGETS
from countryreward.models.tiny_backbone import SHIPPED
from countryreward.training.distributed import ProcessGroup
from countryreward.training.divergence import Diverged, weights_are_finite
from countryreward.training.engine import prepare_deepspeed
from countryreward.training.run_folder import RunFolder, Tell, taken_up
from countryreward.training.run_identity import RunIdentity, differences
from countryreward.training.training_config import STOP, WriterLoop, WriterTraining
from countryreward.training.writer_rows import Pictures, WriterRow, design_rows, pair_rows
from countryreward.training.writer_trainers import (
    HEAD,
    DesignCollator,
    DesignTrainer,
    PairCollator,
    PreferenceTrainer,
    mean_log_prob,
    with_market_head,
)

KIND = "writer_checkpoint"
ABOUT = "writer.json"
_LOG_NAMES = {"grad_norm": "gradient_norm"}
"""transformers' names of numbers -> those of the log, which are the same for both trainings."""


def run_writer_training(
    job: WriterTraining,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    tell: Tell,
    identity: RunIdentity,
) -> bool:
    """Train on this process's share, from the run's newest whole checkpoint where there is one. Call it on every rank;
    `torch.distributed` is set up by the caller. Returns whether the end was reached: False when the run was asked to stop.

    Raises `UserError` for rows that are all refused, a run that was started from other inputs or options.
    """
    ranks = ProcessGroup.current()
    with taken_up(folder, identity, ranks, tell, best="last") as run:
        return run is None or _train(job, run, ranks, torch.device(device), identity.made_from)


def _train(
    job: WriterTraining, run: RunFolder, ranks: ProcessGroup, device: torch.device, made_from: dict[str, Any]
) -> bool:
    folder = run.folder
    loop = job.settled()
    if loop.engine == "deepspeed":
        prepare_deepspeed()
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    writer = _open(job, device, torch.bfloat16 if bf16 else torch.float32)
    quarantine = Quarantine(f"{job.stage} training")
    # a pair keeps its product's picture itself
    place, kind = (job.pairs, "pairs") if job.stage == "preference" else (job.dataset, "dataset")
    pictures = Pictures(open_artifact(place, kind=kind).path, writer.px)
    rows, held_out = _rows(job, writer, pictures, quarantine)
    if not rows:
        first = quarantine.refusals[0] if quarantine.refusals else None
        why = f"the first because of {first.field}: {first.value}" if first else "the table has none for training"
        raise UserError(f"rows: there is nothing to train on in {job.rows}; {why}")
    if ranks.first:
        run.begin(made_from, ranks.world)
        quarantine.write(folder)
    arguments = _arguments(job, loop, folder, device, bf16)
    shared = loop.shared_prefix and writer.model.config._attn_implementation != "flash_attention_2"
    make = PairCollator if job.stage == "preference" else DesignCollator
    collator = make(rows, pictures, writer.processor, shared_prefix=shared)
    callbacks: list[TrainerCallback] = [_Log(run, ranks), _Stop(folder, ranks), _Seal(ranks, made_from)]
    trainer = _trainer(job, writer, arguments, collator, len(rows), folder, ranks, callbacks)
    newest = _newest(folder, ranks, made_from, run)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if trainer.state.global_step < trainer.state.max_steps:
        run.say(
            f"stopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,}; a checkpoint was written"
        )
        return False
    weights = _weights(trainer)
    if ranks.any(ranks.first and not weights_are_finite(weights), device):
        raise Diverged("training: it has diverged: at its end there are weights that are not finite")
    facts: dict[str, Any] = {"stage": job.stage, "rows": len(rows), "steps": trainer.state.global_step}
    if ranks.first:
        _finish(job, writer, trainer, weights, held_out, pictures, run, facts, made_from)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return True


def _open(job: WriterTraining, device: torch.device, dtype: torch.dtype) -> DesignWriterModel:
    from countryreward.models.tower import backbone_folder

    source = job.source()
    if job.writer:
        source = str(open_artifact(job.writer, kind="design_writer").path)
    writer = DesignWriterModel.load(backbone_folder(source), px=job.px(), device=device, dtype=dtype)
    if not job.writer and backbone_folder(source) == str(SHIPPED):
        writer.widen(job.loop.seed)
    for name, parameter in writer.model.named_parameters():
        if name.startswith("model.visual.") and not name.startswith("model.visual.merger."):
            parameter.requires_grad_(False)  # the vision tower; as in Appendix G
    if job.loop.gradient_checkpointing:
        writer.model.gradient_checkpointing_enable({"use_reentrant": False})
    return writer


def _rows(
    job: WriterTraining, writer: DesignWriterModel, pictures: Pictures, quarantine: Quarantine
) -> tuple[list[WriterRow], list[WriterRow]]:
    """To train on, and held out."""
    if job.stage == "preference":
        return pair_rows(job.pairs, pictures, writer.prompt, writer.grid, quarantine), []
    rows = design_rows(job.designs, job.dataset, pictures, writer.prompt, writer.grid, quarantine)
    return rows["train"], rows["validation"]


def _arguments(
    job: WriterTraining, loop: WriterLoop, folder: Path, device: torch.device, bf16: bool
) -> TrainingArguments:
    deepspeed = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": loop.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bf16},
        "steps_per_print": 10**9,
    }
    shared: dict[str, Any] = {
        "output_dir": str(folder / "checkpoints"),
        "num_train_epochs": loop.value("epochs"),
        "per_device_train_batch_size": loop.value("batch_size"),
        "gradient_accumulation_steps": loop.value("accumulation"),
        "learning_rate": loop.value("learning_rate"),
        "lr_scheduler_type": "cosine",
        "warmup_steps": loop.warmup,  # below 1: a share of the steps
        "weight_decay": loop.weight_decay,
        "max_grad_norm": loop.max_grad_norm,
        "logging_steps": loop.log_every,
        "save_strategy": "steps" if loop.checkpoint_every else "no",
        "save_steps": loop.checkpoint_every or 500,
        "save_total_limit": loop.keep_checkpoints,
        "seed": loop.seed,
        "data_seed": loop.seed,
        "use_cpu": device.type == "cpu",
        "bf16": bf16,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "gradient_checkpointing": loop.gradient_checkpointing,
        "dataloader_num_workers": 0,
        "deepspeed": deepspeed if loop.engine == "deepspeed" else None,
        "ddp_find_unused_parameters": False,
    }
    if job.stage == "preference":
        weight = loop.value("example_loss")
        return DPOConfig(
            **shared,
            loss_type=["sigmoid", "sft"] if weight else ["sigmoid"],
            loss_weights=[1.0, weight] if weight else None,
            beta=loop.beta,
            precompute_ref_log_probs=True,
            max_length=None,
            precompute_ref_batch_size=4 * loop.value("batch_size"),
        )
    return TrainingArguments(**shared)


def _trainer(
    job: WriterTraining,
    writer: DesignWriterModel,
    arguments: TrainingArguments,
    collator: Any,
    count: int,
    folder: Path,
    ranks: ProcessGroup,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    set_seed(arguments.seed)
    peft = None
    if job.lora.rank:
        from peft import LoraConfig

        peft = LoraConfig(
            r=job.lora.rank,
            lora_alpha=job.lora.alpha or 2 * job.lora.rank,  # pyright: ignore[reportArgumentType]
            lora_dropout=job.lora.dropout,
            target_modules=r".*language_model\.layers\..*\.(?:" + "|".join(TARGETS) + ")",
        )
    options: dict[str, Any] = {
        "args": arguments,
        "data_collator": collator,
        "train_dataset": _numbers(count, folder, ranks),
        "callbacks": list(callbacks),
    }
    if job.stage == "preference":
        trainer = PreferenceTrainer(model=writer.model, processing_class=writer.processor, peft_config=peft, **options)
    else:
        if peft:
            from peft import get_peft_model

            writer.model = get_peft_model(writer.model, peft)  # pyright: ignore[reportAttributeAccessIssue]
        market_loss = job.settled().value("market_loss")
        if market_loss:
            with_market_head(writer.model, len(collator.markets))
        trainer = DesignTrainer(
            model=writer.model, processing_class=writer.processor, market_loss=market_loss, **options
        )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def _numbers(count: int, folder: Path, ranks: ProcessGroup) -> datasets.Dataset:
    """The rows by number. On disk, beside which TRL keeps the reference log-probabilities: once, for all ranks and restarts."""
    place = folder / "rows"
    if ranks.first and not (place / "state.json").exists():
        shutil.rmtree(place, ignore_errors=True)
        partial = folder / ".tmp-rows"
        datasets.Dataset.from_dict({"row": list(range(count))}).save_to_disk(str(partial))
        os.rename(partial, place)
    ranks.agree(None)
    numbers = datasets.load_from_disk(str(place))
    assert isinstance(numbers, datasets.Dataset)
    return numbers


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Whole weights on the processor, LoRA merged; under ZeRO-3 every rank must call it and only the first gets them."""
    from peft import PeftModel

    weights: Any = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if isinstance(model, PeftModel):
        merged: Any = model.merge_and_unload()
        weights = merged.state_dict()
    return {name: value.detach().cpu() for name, value in (weights or {}).items() if not name.startswith(f"{HEAD}.")}


def _finish(
    job: WriterTraining,
    writer: DesignWriterModel,
    trainer: Trainer,
    weights: dict[str, torch.Tensor],
    held_out: Sequence[WriterRow],
    pictures: Pictures,
    run: RunFolder,
    facts: dict[str, Any],
    made_from: dict[str, Any],
) -> None:
    if held_out and job.loop.zero_stage < 3:
        from peft import PeftModel

        model: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        model.eval()
        collator = DesignCollator(held_out, pictures, writer.processor, shared_prefix=False)
        facts["validation_log_prob"] = mean_log_prob(model, held_out, collator, batch_size=32)
    facts["log"] = {name: value for name, value in _last(trainer).items() if isinstance(value, int | float)}

    def write(place: Path) -> None:
        base: Any = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        with contextlib.suppress(AttributeError):
            del base.forward  # TRL's head hangs on the instance; what is saved is the class
        base.save_pretrained(place, state_dict=weights)
        writer.processor.save_pretrained(place)
        about = {"image_px": writer.px, "preset": job.preset, **facts}
        (place / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    run.save(["last"], write)
    run.finish(made_from, facts)


def _last(trainer: Trainer) -> dict[str, Any]:
    logged = [line for line in trainer.state.log_history if "loss" in line]
    return logged[-1] if logged else {}


class _Log(TrainerCallback):
    """The log's lines and how far the training is."""

    def __init__(self, run: RunFolder, ranks: ProcessGroup) -> None:
        self.run, self.ranks = run, ranks

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.ranks.first:
            self.run.go_on(state.global_step, state.max_steps, self.ranks.world)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.run.tell({"stage": "training steps", "done": state.global_step, "total": state.max_steps})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.ranks.first and logs and "loss" in logs:
            numbers = {_LOG_NAMES.get(name, name.replace("/", "_")): float(value) for name, value in logs.items()}
            self.run.line({"kind": "writer", "step": state.global_step, "of": state.max_steps, **numbers})


class _Stop(TrainerCallback):
    """Somebody wants the run to write a checkpoint and end."""

    def __init__(self, folder: Path, ranks: ProcessGroup) -> None:
        self.stop, self.ranks = folder / STOP, ranks

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.ranks.any(self.ranks.first and self.stop.exists(), args.device):
            control.should_save = control.should_training_stop = True


class _Seal(TrainerCallback):
    """A checkpoint counts from when every rank has written its part and the first has hashed all of it."""

    def __init__(self, ranks: ProcessGroup, identity: dict[str, Any]) -> None:
        self.ranks, self.identity = ranks, identity

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ranks.agree(None)
        if self.ranks.first:
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seal(Draft(place, {"step": state.global_step}), kind=KIND, config=self.identity)
        self.ranks.agree(None)


def _newest(folder: Path, ranks: ProcessGroup, identity: dict[str, Any], run: RunFolder) -> Path | None:
    """The newest whole checkpoint; others are removed. Raises `UserError` for one of another identity."""
    newest, refusal = None, None
    if ranks.first:
        places = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        for place in reversed(places):
            try:
                unlike = differences(identity, open_artifact(place, kind=KIND).manifest.config)
            except UserError as error:
                run.say(f"{place.name} is refused ({error}); the one before is tried")
                shutil.rmtree(place)
                continue
            if unlike:
                refusal = f"run_name: {place} was written with {unlike}; set these back, or give the run another name"
            newest = place
            break
    ranks.agree(refusal)
    return ranks.first_of(newest)
