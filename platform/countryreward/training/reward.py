"""The reward loop: batches in, a trained CountryRewardModel out. It knows nothing of Ray."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from countryreward.data.feature_store import FeatureStore
from countryreward.equations import focus as equations
from countryreward.models.batch import Batch, collate
from countryreward.models.country_reward import CountryRewardModel
from countryreward.training.config import LoopConfig
from countryreward.training.engine import Engine
from countryreward.training.examples import Examples
from countryreward.training.sampling import epoch_batches

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Loader:
    """Collates examples and reads their stored features: nothing is decoded or encoded in a step."""

    examples: Examples
    store: FeatureStore
    pad_id: int

    def load(self, positions: NDArray[np.int64]) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        """The batch, its features [M, P, W] and targets [B]."""
        batch = collate([self.examples.prompts[position] for position in positions], self.pad_id)
        features = torch.from_numpy(self.store.read(batch.images)) if batch.images else torch.zeros(0)
        return batch, features, torch.from_numpy(self.examples.targets[positions])


def train_reward(
    engine: Engine,
    model: CountryRewardModel,
    loader: Loader,
    config: LoopConfig,
    *,
    steps: int,
    log: Log,
    validate: Callable[[int], None],
    world: int = 1,
    rank: int = 0,
) -> int:
    """Train for `steps` optimizer steps. Returns how many were made.

    Each step: BCE on the target (soft where counts exist) plus lambda times the focus penalty on wrong answers (Eq. 11). `log`
    gets a dict every `log_every` steps: loss, bce, penalty, the ratio of the penalty's gradient norm to BCE's, rates,
    pairs/s, padding share, share of time spent waiting for data. `validate` is called `validations` times with the step.
    """
    weight = model.options.focus_weight
    device = next(model.parameters()).device
    when = {round(steps * (i + 1) / config.validations) for i in range(config.validations)}
    started, waited, pairs, padded, tokens = time.monotonic(), 0.0, 0, 0, 0
    step = 0
    engine.model.train()
    positions = _endless(loader, config, world, rank)
    while step < steps:
        before = time.monotonic()
        batch, features, target = loader.load(next(positions))
        batch, features, target = batch.to(device), features.to(device), target.to(device)
        waited += time.monotonic() - before
        output = engine.model(batch, features=features if batch.images else None, focus=weight > 0)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(output.logit, target)
        penalty = bce.new_zeros(())
        if weight > 0:
            penalty = equations.penalty(output.focus, equations.wrong_predictions(output.logit.detach(), target))
        due = (step + 1) % config.log_every == 0
        ratio = gradient_ratio(model, bce, weight * penalty) if due and weight > 0 and world == 1 else None
        engine.backward(equations.objective(bce, penalty, weight))
        pairs += len(target)
        padded += int((batch.attention_mask == 0).sum())
        tokens += batch.attention_mask.numel()
        if not engine.step():
            continue
        step += 1
        if due:
            seconds = time.monotonic() - started
            log(
                {
                    "step": step,
                    "of": steps,
                    "bce": float(bce.detach()),
                    "penalty": float(penalty.detach()),
                    "penalty_to_bce_gradient": ratio,
                    "rates": engine.rates(),
                    "pairs_per_second": world * pairs / seconds,
                    "padding_share": padded / tokens,
                    "data_wait_share": waited / seconds,
                }
            )
        if step in when:
            engine.model.eval()
            validate(step)
            engine.model.train()
    return step


def gradient_ratio(model: CountryRewardModel, bce: torch.Tensor, weighted_penalty: torch.Tensor) -> float | None:
    """|grad of lambda x penalty| / |grad of BCE| over the trained weights: a penalty that does nothing must be visible."""
    if not weighted_penalty.requires_grad:
        return 0.0
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def norm(loss: torch.Tensor) -> float:
        gradients = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        return float(sum(float(g.pow(2).sum()) for g in gradients if g is not None) ** 0.5)

    whole = norm(bce)
    return norm(weighted_penalty) / whole if whole > 0 else None


@torch.inference_mode()
def judge(model: CountryRewardModel, loader: Loader, *, batch_size: int = 64) -> NDArray[np.float64]:
    """Logits of all examples in their order, batched by length; scores do not depend on the batching."""
    device = next(model.parameters()).device
    order = np.argsort(loader.examples.lengths, kind="stable")
    logits = np.zeros(len(order))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        batch, features, _ = loader.load(positions)
        output = model(batch.to(device), features=features.to(device) if batch.images else None)
        logits[positions] = output.logit.float().cpu().numpy()
    return logits


def _endless(loader: Loader, config: LoopConfig, world: int, rank: int) -> Iterator[NDArray[np.int64]]:
    lengths, epoch = loader.examples.lengths, 0
    while True:
        yield from epoch_batches(
            lengths, batch_size=config.batch_size, seed=config.seed, epoch=epoch, world=world, rank=rank
        )
        epoch += 1
