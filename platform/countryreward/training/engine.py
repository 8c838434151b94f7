"""Who owns the weights while they are trained: plain torch (alone or under DDP), or DeepSpeed ZeRO. One small interface.

Beside it the schedule that both follow, and how ZeRO's shards are read by another number of processes.
"""

import argparse
import contextlib
import importlib.util
import io
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from countryreward.errors import UserError
from countryreward.models.reward_model import RENAMED_TENSORS
from countryreward.training.distributed import ProcessGroup

_STATE, _TAG = "state.pt", "state"
Groups = list[dict[str, Any]]
Factor = Callable[[int], float]


class Engine(Protocol):
    """`engine.model(batch)`, then `engine.backward(loss)` for every forward pass and `engine.step()` after it.

    `step` returns True when it was an optimizer step (every `accumulation` calls).
    """

    model: nn.Module
    """What a training step calls."""
    bare: nn.Module
    """The module inside, for evaluation: calling it communicates only under ZeRO-3."""

    whole_weights: bool
    """Whether every rank holds whole weights between steps (not under ZeRO-3)."""
    groups: list[str]
    """Names of the parameter groups, in the order of `learning_rates`."""

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Whole weights on the processor; every rank must call it, and under ZeRO-3 only rank 0 gets values."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of one forward pass."""
        ...

    def step(self) -> bool:
        """Count the pass; step, clip and move the schedule when enough were accumulated."""
        ...

    def gradient_norm(self) -> float:
        """2-norm of the gradient of the last optimizer step, over all trained weights, before clipping; the same on every
        rank. Where it is not finite, no weight is to be used any more."""
        ...

    def learning_rates(self) -> list[float]:
        """Current learning rate of every group."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights that are trained, optimizer and schedule, between two steps. Every rank must call it."""
        ...

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote, in an engine made with the same arguments. Another number of ranks may have written
        it, of which DeepSpeed's is told when it is made (`resized`). Every rank must call it."""
        ...

    def state_bytes(self) -> int:
        """About how many bytes `save` writes, all ranks together."""
        ...


class _Engine:
    """What both engines say of themselves in the same way."""

    bare: nn.Module
    optimizer: Any

    def __init__(self, groups: Groups, *, autocast: bool, whole_weights: bool) -> None:
        self.groups = [str(group.get("name", number)) for number, group in enumerate(groups)]
        self.autocast, self.whole_weights = autocast, whole_weights
        self._norm: Tensor | float = 0.0

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        device = next(self.bare.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16) if self.autocast else contextlib.nullcontext()

    def gradient_norm(self) -> float:
        """2-norm of the last step's gradient before clipping. DeepSpeed says inf where it is NaN, too, and leaves the weights."""
        return float(self._norm)

    def learning_rates(self) -> list[float]:
        """Current learning rate of every group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]


class TorchEngine(_Engine):
    """AdamW on a module, wrapped in DDP when there is a process group of more than one."""

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        factor: Factor,
        *,
        accumulation: int,
        max_grad_norm: float,
        optimizer: str = "adamw",
        autocast: bool = False,
    ) -> None:
        super().__init__(groups, autocast=autocast, whole_weights=True)
        self.optimizer = make_optimizer(groups, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.accumulation, self.max_grad_norm, self.passes = accumulation, max_grad_norm, 0
        self.bare = model
        alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
        self.model = model if alone else nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    def state_dict(self) -> dict[str, Tensor]:
        """Whole weights on the processor; under ZeRO-3 every rank must call it, and only rank 0 gets values."""
        return {name: value.detach().cpu().clone() for name, value in self.bare.state_dict().items()}

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of one forward pass."""
        (loss / self.accumulation).backward()

    def step(self) -> bool:
        """Count the pass; step, clip and move the schedule when enough were accumulated."""
        self.passes += 1
        if self.passes % self.accumulation:
            return False
        self._norm = nn.utils.clip_grad_norm_(self.bare.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return True

    def save(self, folder: Path) -> None:
        """Write trained weights, optimizer and schedule. DDP's replicas are equal: the first one's are written."""
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return
        state = {
            "weights": {name: value for name, value in self.bare.named_parameters() if value.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        torch.save(state, folder / _STATE)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        unknown = self.bare.load_state_dict(
            state["weights"], strict=False
        ).unexpected_keys  # frozen weights are not in it
        assert not unknown, f"{folder} has weights that the model lacks: {unknown}"
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.passes = 0

    def state_bytes(self) -> int:
        """Bytes of trained weights and optimizer states: what `save` writes."""
        tensors = [value for value in self.bare.parameters() if value.requires_grad]
        for states in self.optimizer.state.values():
            tensors += [value for value in states.values() if isinstance(value, Tensor)]
        return sum(value.numel() * value.element_size() for value in tensors)


class DeepSpeedEngine(_Engine):
    """DeepSpeed ZeRO 0-3 around the same AdamW groups. bfloat16 weights get float32 master copies; autocast is for others."""

    def __init__(
        self,
        model: nn.Module,
        groups: Groups,
        factor: Factor,
        *,
        accumulation: int,
        max_grad_norm: float,
        batch_size: int,
        zero_stage: int,
        optimizer: str = "adamw",
        autocast: bool = False,
        resized: bool = False,
    ) -> None:
        super().__init__(groups, autocast=autocast, whole_weights=zero_stage < 3)
        self.resized = resized and zero_stage > 0  # without ZeRO every rank has all of the state
        self.settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        deepspeed = prepare_deepspeed()
        stepper = make_optimizer(groups, optimizer)
        config = {
            "train_micro_batch_size_per_gpu": batch_size,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": max_grad_norm,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": next(model.parameters()).dtype == torch.bfloat16},
            # no module is listed: weights and gradients travel in float32
            "torch_autocast": {"enabled": autocast, "dtype": "bfloat16", "lower_precision_safe_modules": []},
            "steps_per_print": 10**9,
            "checkpoint": {"load_universal": self.resized},
        }
        self.schedule = torch.optim.lr_scheduler.LambdaLR(stepper, factor)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=stepper,
            lr_scheduler=self.schedule,
            config=config,
            dist_init_required=not torch.distributed.is_initialized(),
        )
        self.model, self.bare, self.zero_stage = self.engine, self.engine.module, zero_stage
        # without ZeRO and bf16 DeepSpeed clips the weights' own gradients and does not keep their norm
        self.plain_gradients = zero_stage == 0 and not config["bf16"]["enabled"]

    def state_dict(self) -> dict[str, Tensor]:
        """Whole weights on the processor; under ZeRO-3 every rank must call it, and only rank 0 gets values."""
        with self._gathered():
            return {name: value.detach().cpu().clone() for name, value in self.bare.state_dict().items()}

    def _gathered(self) -> contextlib.AbstractContextManager[Any]:
        if self.zero_stage < 3:
            return contextlib.nullcontext()
        return prepare_deepspeed().zero.GatheredParameters(list(self.bare.parameters()))

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of one forward pass."""
        self.engine.backward(loss)

    def step(self) -> bool:
        """Count the pass; step, clip and move the schedule when enough were accumulated."""
        boundary = bool(self.engine.is_gradient_accumulation_boundary())
        if boundary and self.plain_gradients:
            gradients = [p.grad for p in self.bare.parameters() if p.grad is not None]
            self._norm = nn.utils.get_total_norm(gradients)
        self.engine.step()
        if boundary and not self.plain_gradients:
            norm = self.engine.get_global_grad_norm()
            assert norm is not None, "DeepSpeed measured no gradient norm"
            self._norm = norm
        return boundary

    def save(self, folder: Path) -> None:
        """Write weights, optimizer and schedule as DeepSpeed's files, every rank its shard; frozen weights are the backbone's
        and stay out."""
        self.engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote. DeepSpeed reads by pickle: only a run's own files, whose hashes were checked, come here."""
        with universal_form(folder, _TAG) if self.resized else contextlib.nullcontext(folder) as readable:
            loaded, _ = self.engine.load_checkpoint(str(readable), tag=_TAG, load_module_strict=False)
        assert loaded is not None, f"DeepSpeed found no state in {folder}"
        if self.resized:
            # ZeRO-3 takes the first group's settings for all groups, and one counter of steps for all weights
            for state in self.optimizer.optimizer.state.values():
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].clone()
            for group, own, rate in zip(
                self.optimizer.param_groups, self.settings, self.schedule.get_last_lr(), strict=True
            ):
                group.update(own | {"lr": rate})

    def state_bytes(self) -> int:
        """About how many bytes `save` writes, all ranks together: the weights, their float32 masters and two states each."""
        trained = [p for p in self.bare.parameters() if p.requires_grad]
        return sum(int(getattr(p, "ds_numel", p.numel())) * (p.element_size() + 12) for p in trained)


def make_optimizer(groups: Groups, name: str) -> torch.optim.Optimizer:
    """adamw, or adamw8bit: its states in 8 bits. Raises `UserError` where bitsandbytes is not installed."""
    if name == "adamw":
        return torch.optim.AdamW(groups)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("loop.optimizer: adamw8bit needs bitsandbytes; pip install 'countryreward[quantized]'")
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(groups)


def prepare_deepspeed() -> Any:
    """DeepSpeed, told not to compile its shared-memory communication (37 s, and a crash without a compiler, on a CPU)."""
    import os

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    compatible: Any = getattr(deepspeed.ops, "__compatible_ops__", {})
    if not torch.cuda.is_available():
        compatible["deepspeed_shm_comm"] = False
    return deepspeed


def cosine_with_warmup(step: int, *, total: int, warmup_share: float) -> float:
    """Factor on every group's learning rate at `step` of `total`: up linearly over the warm-up (ours), then half a cosine down to
    0 (Appendix G)."""
    warmup = max(1, round(warmup_share * total))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@contextlib.contextmanager
def universal_form(folder: Path, tag: str) -> Iterator[Path]:
    """A folder with the state of `folder`/`tag` that any number of ranks can load. Every rank must enter and leave it.

    The first rank converts, onto the run's disk beside the checkpoint: about the checkpoint's size is needed there while the load
    takes. Raises `UserError` on every rank where that fails. It reads by pickle: give it a run's own, verified files.
    """
    ranks, universal = ProcessGroup.current(), folder.parent / ".tmp-universal"
    refusal = None
    if ranks.first:
        try:
            shutil.rmtree(universal, ignore_errors=True)
            _convert(folder / tag, universal / tag)
        except (OSError, RuntimeError) as error:  # the second is what torch raises where a write comes short
            refusal = (
                f"checkpoint: {folder} cannot be converted for {ranks.world} workers ({error}); mend it and run the same "
                "command again"
            )
    ranks.agree(refusal)
    yield universal
    ranks.agree(None)  # every rank has read it
    if ranks.first:
        shutil.rmtree(universal, ignore_errors=True)


def _convert(shards: Path, into: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    into.mkdir(parents=True)
    options = argparse.Namespace(
        input_folder=str(shards), output_folder=str(into), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)
    for old, new in RENAMED_TENSORS.items():  # DeepSpeed finds the states of a weight by its name: in zero/NAME/
        if (into / "zero" / old).is_dir():
            (into / "zero" / old).rename(into / "zero" / new)
