"""Who owns the weights while they are trained: plain torch (alone or under DDP), or DeepSpeed ZeRO. One small interface."""

import contextlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from countryreward.errors import UserError
from countryreward.training.resizing import universal_form

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

    def rates(self) -> list[float]:
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


class TorchEngine:
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
        self.autocast, self.whole_weights = autocast, True
        self.optimizer = make_optimizer(groups, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.accumulation, self.max_grad_norm, self.passes = accumulation, max_grad_norm, 0
        self.bare = model
        alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
        self.model = model if alone else nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.precision`."""
        return _autocast(self.bare, self.autocast)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine.state_dict`."""
        return {name: value.detach().cpu().clone() for name, value in self.bare.state_dict().items()}

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        (loss / self.accumulation).backward()

    def step(self) -> bool:
        """See `Engine.step`."""
        self.passes += 1
        if self.passes % self.accumulation:
            return False
        nn.utils.clip_grad_norm_(self.bare.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return True

    def rates(self) -> list[float]:
        """See `Engine.rates`."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def save(self, folder: Path) -> None:
        """See `Engine.save`. DDP's replicas are equal: the first one's are written."""
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return
        state = {
            "weights": {name: value for name, value in self.bare.named_parameters() if value.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        torch.save(state, folder / _STATE)

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        unknown = self.bare.load_state_dict(
            state["weights"], strict=False
        ).unexpected_keys  # frozen weights are not in it
        assert not unknown, f"{folder} has weights that the model lacks: {unknown}"
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.passes = 0

    def state_bytes(self) -> int:
        """See `Engine.state_bytes`."""
        tensors = [value for value in self.bare.parameters() if value.requires_grad]
        for states in self.optimizer.state.values():
            tensors += [value for value in states.values() if isinstance(value, Tensor)]
        return sum(value.numel() * value.element_size() for value in tensors)


class DeepSpeedEngine:
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
        self.autocast, self.whole_weights = autocast, zero_stage < 3
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

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """See `Engine.precision`."""
        return _autocast(self.bare, self.autocast)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine.state_dict`."""
        with self._gathered():
            return {name: value.detach().cpu().clone() for name, value in self.bare.state_dict().items()}

    def _gathered(self) -> contextlib.AbstractContextManager[Any]:
        if self.zero_stage < 3:
            return contextlib.nullcontext()
        return prepare_deepspeed().zero.GatheredParameters(list(self.bare.parameters()))

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        self.engine.backward(loss)

    def step(self) -> bool:
        """See `Engine.step`."""
        boundary = bool(self.engine.is_gradient_accumulation_boundary())
        self.engine.step()
        return boundary

    def rates(self) -> list[float]:
        """See `Engine.rates`."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def save(self, folder: Path) -> None:
        """See `Engine.save`. DeepSpeed's files, every rank its shard; frozen weights are the backbone's and stay out."""
        self.engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """See `Engine.load`. DeepSpeed reads them by pickle: only a run's own files, whose hashes were checked, come here."""
        with universal_form(folder, _TAG) if self.resized else contextlib.nullcontext(folder) as readable:
            found, _ = self.engine.load_checkpoint(str(readable), tag=_TAG, load_module_strict=False)
        assert found is not None, f"DeepSpeed found no state in {folder}"
        if (
            self.resized
        ):  # ZeRO-3 takes the first group's settings for all groups, and one counter of steps for all weights
            for state in self.optimizer.optimizer.state.values():
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].clone()
            for group, own, rate in zip(
                self.optimizer.param_groups, self.settings, self.schedule.get_last_lr(), strict=True
            ):
                group.update(own | {"lr": rate})

    def state_bytes(self) -> int:
        """See `Engine.state_bytes`: the weights, their float32 masters and two states each."""
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


def _autocast(model: nn.Module, enabled: bool) -> contextlib.AbstractContextManager[Any]:
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=torch.bfloat16) if enabled else contextlib.nullcontext()


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
