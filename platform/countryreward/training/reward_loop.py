"""The reward loop: batches in, a trained CountryRewardModel out. It knows nothing of Ray."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from countryreward.equations import focus as equations
from countryreward.models.pair_batch import Batch
from countryreward.models.reward_model import CountryRewardModel, RewardOutput
from countryreward.scoring.predict import Loader
from countryreward.training.data_order import DataOrder, Swaps, microbatches
from countryreward.training.distributed import ProcessGroup
from countryreward.training.divergence import check_finite
from countryreward.training.engine import Engine
from countryreward.training.training_config import LoopConfig

Log = Callable[[dict[str, Any]], None]
WARNING_S = 5.0
"""How often a training asks whether a node is about to be taken away. To ask, all workers wait for each other."""


@dataclass
class Progress:
    """How far a training is: with weights, optimizer and random generators, all that its next step depends on."""

    step: int = 0
    """Optimizer steps made."""
    window: dict[str, Any] = field(default_factory=dict)
    """What the log has gathered since its last line."""

    @classmethod
    def shared(cls, saved: list[dict[str, Any]], workers: int) -> "Progress":
        """What so many workers go on from, when the plain forms of others' progress were saved: each gets an equal share."""
        windows = [progress["window"] for progress in saved if progress["window"]]
        window: dict[str, Any] = {}
        for name in ("pairs", "padded", "tokens", "sums", "parts") if windows else ():
            window[name] = sum(values[name] for values in windows) / workers
        for name in ("waited", "seconds", "gradient_norms", "steps") if windows else ():
            # a checkpoint of an earlier version knows no gradient norms
            window[name] = sum(values.get(name, 0) for values in windows) / len(windows)
        return cls(saved[0]["step"], window)


def total_steps(records: int, config: LoopConfig, workers: int) -> int:
    """Optimizer steps of a whole training with so many planned workers."""
    per_step = workers * config.value("batch_size") * config.value("accumulation")
    return max(1, round(records * config.value("epochs") / per_step))


def train_reward(
    engine: Engine,
    model: CountryRewardModel,
    loader: Loader,
    config: LoopConfig,
    *,
    steps: int,
    log: Log,
    validate: Callable[[int], None],
    ranks: ProcessGroup | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    start: Progress | None = None,
    checkpoint: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    warned: Callable[[], bool] | None = None,
) -> int:
    """Train from `start` (default: the beginning) to `steps` optimizer steps. Returns the step reached: less when stopped.

    workers: how many the training was planned for (0: those that are here); fewer do the same steps in more `microbatches` each,
    whose number must be the engine's accumulation.

    Each step: BCE on the target (soft where counts exist) plus lambda times the focus penalty on wrong answers (Eq. 11).
    `log` gets a dict every `log_every` steps: means over those steps and over all ranks of loss, bce, penalty, the share of wrong
    answers and the gradient norm before clipping; the ratio of the penalty's gradient norm to BCE's at the last of them; learning
    rates, pairs/s, padding share, share of time spent waiting for data. `validate` is called `validations` times with the step,
    on every rank. `checkpoint` is called on every rank after each `checkpoint_every` steps, after a validation, when stopped and
    when warned, but not at the last step; `stop` is asked after every step, and one rank's yes stops all. `warned`, whether a
    node is about to be taken away, is asked on all ranks together, every `WARNING_S`; it says yes once for each warning.

    Raises `Diverged` on every rank at a step whose loss or gradient norm is not finite, before it is logged, validated or saved.
    """
    ranks = ranks or ProcessGroup()
    workers = workers or ranks.world
    weight, accumulation = model.options.focus_weight, config.value("accumulation")
    device = next(model.parameters()).device
    when = {round(steps * (i + 1) / config.validations) for i in range(config.validations)}
    start = start or Progress()
    window = _Window.of(start.window)
    order = DataOrder(loader.examples.lengths, config.value("batch_size"), config.seed, workers)
    swaps = Swaps(config.seed, len(loader.examples.lengths)) if config.value("orders") == "one" else None
    mine = microbatches(workers, accumulation, ranks)
    asked_for_warning = time.monotonic()
    engine.model.train()
    for step in range(start.step + 1, steps + 1):
        due, ratio = step % config.log_every == 0 or step == steps, None
        learning_rates = dict(zip(engine.groups, engine.learning_rates(), strict=True))
        losses: list[float] = []
        batches: list[NDArray[np.int64]] = []
        for number, microbatch in enumerate(mine, 1):
            before = time.monotonic()
            epoch, chosen = order.batch((step - 1) * accumulation + microbatch.part, microbatch.planned)
            batch, images, target = loader.load(chosen, device, swap=swaps.of(epoch, chosen) if swaps else None)
            window.waited += time.monotonic() - before
            with engine.precision():
                output = engine.model(batch, **images, focus=weight > 0)
                bce, penalty, wrong = _losses(output, target, weight)
                loss = equations.objective(bce, penalty, weight)
            engine.backward(loss * microbatch.weight)
            if due and number == len(mine) and weight > 0 and microbatch.weight and engine.whole_weights:
                with engine.precision():  # after the backward pass: two passes' activations at once would not fit
                    ratio = gradient_ratio(model, batch, images, target)
            if microbatch.weight:
                window.add(batch, loss, bce, penalty, wrong)
            losses.append(float(loss.detach()))
            batches.append(chosen)
            stepped = engine.step()
            assert stepped == (number == len(mine)), "engine and loop disagree on accumulation"
        gradient_norm = engine.gradient_norm()
        check_finite(
            losses,
            gradient_norm,
            ranks=ranks,
            device=device,
            step=step,
            steps=steps,
            records=lambda taken=batches: [
                loader.examples.records["record_id"].iloc[chosen].tolist() for chosen in taken
            ],
            learning_rates=learning_rates,
        )
        window.gradient_norms += gradient_norm
        window.steps += 1
        if progress:
            progress(step, steps)
        if due:
            log(
                {"step": step, "of": steps}
                | window.line(ranks, device, ratio)
                | {"learning_rates": engine.learning_rates()}
            )
            window = _Window()
        paused = time.monotonic()
        if step in when:
            engine.model.eval()
            validate(step)
            engine.model.train()
        warning_due = warned is not None and time.monotonic() - asked_for_warning > WARNING_S
        stops, warnings_due = ranks.mean(
            [float(stop is not None and stop()), float(warning_due and ranks.first)], device
        )
        stopping, leaving = stops > 0, False
        if warned and warnings_due > 0:
            leaving, asked_for_warning = warned(), time.monotonic()
        every = config.checkpoint_every
        if checkpoint and step < steps and (stopping or leaving or (every and (step % every == 0 or step in when))):
            checkpoint(Progress(step, window.plain()))
        window.started += time.monotonic() - paused  # validations and checkpoints are no training time
        if stopping:
            return step
    return steps


@dataclass
class _Window:
    """What happened since the last log line."""

    started: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    seconds: float = 0.0
    pairs: float = 0
    padded: float = 0
    tokens: float = 0
    sums: Tensor | float = 0.0
    parts: float = 0
    gradient_norms: float = 0.0
    steps: float = 0

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "_Window":
        """What `plain` gave, going on from now."""
        return cls(**plain | {"started": time.monotonic() - plain.get("seconds", 0.0)})

    def plain(self) -> dict[str, Any]:
        """As values that a checkpoint keeps."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return values | {"sums": self.sums.cpu() if isinstance(self.sums, Tensor) else self.sums}

    def add(self, batch: Batch, loss: Tensor, bce: Tensor, penalty: Tensor, wrong: Tensor) -> None:
        self.pairs += len(wrong)
        self.padded += int((batch.attention_mask == 0).sum())
        self.tokens += batch.attention_mask.numel()
        sums = self.sums.to(loss.device) if isinstance(self.sums, Tensor) else self.sums
        self.sums = sums + torch.stack([loss.detach(), bce.detach(), penalty.detach(), wrong.mean()]).float()
        self.parts += 1
        self.seconds = time.monotonic() - self.started

    def line(self, ranks: ProcessGroup, device: torch.device, ratio: float | None) -> dict[str, Any]:
        sums = self.sums.tolist() if isinstance(self.sums, Tensor) else [0.0] * 4
        has_ratio = float(ratio is not None)
        seconds = max(self.seconds, 1e-9)
        shares = [
            self.padded,
            self.tokens,
            self.waited / seconds,
            has_ratio,
            ratio or 0.0,
            self.pairs / seconds,
            self.parts,
        ]
        *sums, padded, tokens, waiting, ratios, summed, pairs, parts = ranks.mean([*sums, *shares], device)
        loss, bce, penalty, wrong = (value / parts for value in sums)
        return {
            "loss": loss,
            "bce": bce,
            "penalty": penalty,
            "wrong_share": wrong,
            "gradient_norm": self.gradient_norms / max(self.steps, 1),  # the same on all ranks
            "penalty_to_bce_gradient": summed / ratios if ratios else None,
            "pairs_per_second": ranks.world * pairs,
            "padding_share": padded / tokens,
            "data_wait_share": waiting,
        }


def gradient_ratio(model: CountryRewardModel, batch: Batch, images: dict[str, Tensor], target: Tensor) -> float | None:
    """|grad of lambda x penalty| / |grad of BCE| over the trained weights: a penalty that does nothing must be visible.

    A pass of its own, on aliases of the weights: engines hang their communication on the gradients of the weights themselves.
    """
    aliases = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    weight = model.options.focus_weight
    with torch.enable_grad():
        output = torch.func.functional_call(model, aliases, (batch,), images | {"focus": True})
        bce, penalty, _ = _losses(output, target, weight)
        if not penalty.requires_grad or not penalty.detach():
            return 0.0

        def norm(loss: Tensor) -> float:
            gradients = torch.autograd.grad(loss, list(aliases.values()), retain_graph=True, allow_unused=True)
            return float(sum(float(g.float().pow(2).sum()) for g in gradients if g is not None) ** 0.5)

        whole = norm(bce)
        return norm(weight * penalty) / whole if whole > 0 else None


def _losses(output: RewardOutput, target: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """BCE (Eq. 11), the penalty before lambda (Eq. 10; 0 without one), and which answers are wrong [B] (Eq. 9)."""
    assert output.logit is not None
    bce = binary_cross_entropy_with_logits(output.logit.float(), target)
    wrong = equations.wrong_predictions(output.logit.detach(), target)
    if weight == 0:
        return bce, bce.new_zeros(()), wrong
    assert output.focus is not None
    return bce, equations.penalty(output.focus, wrong), wrong
