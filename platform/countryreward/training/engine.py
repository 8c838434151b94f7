"""Who owns the weights while they are trained: plain torch (alone or under DDP), or DeepSpeed ZeRO. One small interface."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

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
        autocast: bool = False,
    ) -> None:
        self.autocast, self.whole_weights = autocast, True
        self.optimizer = torch.optim.AdamW(groups)
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
        autocast: bool = False,
    ) -> None:
        self.autocast, self.whole_weights = autocast, zero_stage < 3
        deepspeed = _deepspeed()
        optimizer = torch.optim.AdamW(groups)
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
        }
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
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
        return _deepspeed().zero.GatheredParameters(list(self.bare.parameters()))

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


def _autocast(model: nn.Module, enabled: bool) -> contextlib.AbstractContextManager[Any]:
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=torch.bfloat16) if enabled else contextlib.nullcontext()


def _deepspeed() -> Any:
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
