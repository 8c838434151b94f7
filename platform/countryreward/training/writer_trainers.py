"""Two trainers of a design writer: designs (maximum likelihood) and pairs of designs (Eq. 14), on transformers' and TRL's loops.

Legend: B rows or pairs, T tokens of a row, C tokens of the longest design.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer
from trl import DPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from countryreward.models.design_batch import IGNORED, Row, answer_row, pictures_of, shared_row, stack
from countryreward.models.design_writer import token_log_probs
from countryreward.models.processor import PairProcessor
from countryreward.training.distributed import ProcessGroup
from countryreward.training.divergence import check_finite
from countryreward.training.writer_rows import Pictures, WriterRow

NAMES = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What TRL asks of a forward pass, token by token."""
HEAD = "market_head"
"""Name of the module that tells the market from a state."""


class Collator:
    """Row numbers -> tensors: what both collators share. Each batch also has its row numbers, under `numbers`."""

    def __init__(
        self,
        rows: Sequence[WriterRow],
        pictures: Pictures,
        processor: PairProcessor,
        *,
        shared_prefix: bool,
    ) -> None:
        self.rows, self.pictures, self.processor, self.shared = rows, pictures, processor, shared_prefix
        self.pad_id: int = processor.tokenizer.pad_token_id
        self.markets = sorted({row.market for row in rows})

    def _batch(self, rows: Sequence[Row], sources: Sequence[WriterRow]) -> dict[str, Tensor]:
        batch = stack(rows, self.pad_id, self.processor.image_token_id)
        pictures = {row.prompt.image: self.pictures[row.prompt.image] for row in sources}
        return batch | pictures_of([row.prompt for row in sources], pictures, self.processor, self.pictures.px)


class DesignCollator(Collator):
    """For `DesignTrainer`."""

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        rows = [self.rows[example["row"]] for example in examples]
        batch = self._batch([answer_row(row.prompt, row.answers[0]) for row in rows], rows)
        market = torch.tensor([self.markets.index(row.market) for row in rows])
        return batch | {"market": market, "numbers": torch.tensor([example["row"] for example in examples])}


class PairCollator(Collator):
    """For `PreferenceTrainer`: what TRL reads of a batch of pairs, and under `packed` what the model reads.

    To TRL a pair is two rows (first all chosen, then all rejected), each the prompt's last token and a design.
    """

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pairs = [self.rows[example["row"]] for example in examples]
        answers = [row.answers[side] for side in (0, 1) for row in pairs]
        width = max(map(len, answers))
        ids_2BC = np.full((len(answers), width + 1), self.pad_id, np.int64)
        mask_2BC = np.zeros((len(answers), width + 1), np.int64)
        at_2BC = np.zeros((len(answers), width), np.int64)  # where in its row of `packed` a token is said
        row_2B = np.zeros(len(answers), np.int64)
        if self.shared:
            rows = [shared_row(row.prompt, *row.answers) for row in pairs]
        else:
            rows = [answer_row(row.prompt, row.answers[side]) for side in (0, 1) for row in pairs]
        for n, answer in enumerate(answers):
            side, b = divmod(n, len(pairs))
            row_2B[n] = b if self.shared else n
            first = len(pairs[b].prompt.ids) - 1
            if self.shared and side:
                first += len(pairs[b].answers[0])
            at_2BC[n, : len(answer)] = first + np.arange(len(answer))
            ids_2BC[n, 0], ids_2BC[n, 1 : len(answer) + 1] = pairs[b].prompt.ids[-1], answer
            mask_2BC[n, 1 : len(answer) + 1] = 1
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids_2BC),
            "attention_mask": torch.from_numpy(np.maximum(mask_2BC, np.arange(width + 1) == 0)),
            "completion_mask": torch.from_numpy(mask_2BC),
            "row": torch.from_numpy(row_2B),
            "at": torch.from_numpy(at_2BC),
            "numbers": torch.tensor([example["row"] for example in examples]),
            "packed": self._batch(rows, pairs if self.shared else [*pairs, *pairs]),
        }
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples])
        return batch


class DivergenceGuard(Trainer):
    """A trainer of transformers that ends at the step whose loss or gradient norm is not finite, before its weights are saved.

    transformers itself leaves such losses out of the log's mean, and trains on.
    """

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        """One forward and backward pass; keeps its loss, and the rows, until the optimizer's step."""
        loss = super().training_step(model, inputs, *args, **options)
        self._passes = [*getattr(self, "_passes", []), (float(loss), inputs["numbers"].tolist())]
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """What transformers logs, once for every optimizer step and before it: the norm before clipping."""
        norm: Any = super()._get_grad_norm(model, grad_norm=grad_norm)
        passes, self._passes = self._passes, []
        collator: Any = self.data_collator
        check_finite(
            [loss for loss, _ in passes],
            float(norm),
            ranks=ProcessGroup.current(),
            device=self.args.device,
            step=self.state.global_step + 1,
            steps=self.state.max_steps,
            records=lambda: [[collator.rows[number].key for number in numbers] for _, numbers in passes],
            learning_rates={"all": self._get_learning_rate()},
        )
        return norm


class DesignTrainer(DivergenceGuard):
    """Maximum likelihood of designs: the mean of -log p over the tokens of a batch.

    Where `with_market_head` gave the model one, `market_loss` times the mean of -log p(market | state) over the same tokens comes
    on top (ours; docs/method.md). The head is thrown away after the training.
    """

    def __init__(self, *args: Any, market_loss: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.market_loss = market_loss

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """The loss of a batch, as `transformers.Trainer` asks for it."""
        read = {name: value for name, value in inputs.items() if name not in ("next_ids", "part", "market", "numbers")}
        output = model(**read, use_cache=False, output_hidden_states=self.market_loss > 0)
        asked_BT = inputs["next_ids"] != IGNORED
        loss = cross_entropy(output.logits[asked_BT].float(), inputs["next_ids"][asked_BT])
        if self.market_loss > 0:
            whole: Any = self.accelerator.unwrap_model(model)
            head = whole.get_submodule(HEAD)
            named = head(output.hidden_states[-1][asked_BT]).float()
            market = inputs["market"][:, None].expand(asked_BT.shape)[asked_BT]
            loss = loss + self.market_loss * cross_entropy(named, market)
        return (loss, {}) if return_outputs else loss


def with_market_head(model: Any, markets: int) -> None:
    """Give a writer the linear head of the market loss, as a part that trains, is checkpointed and is not published."""
    width = model.config.get_text_config().hidden_size
    model.add_module(HEAD, nn.Linear(width, markets, device=model.device, dtype=model.dtype))


class PreferenceTrainer(DivergenceGuard, DPOTrainer):
    """TRL's DPOTrainer, with two things that it refuses or lacks for pictures: reference log-probabilities computed once, and a
    prompt that is read once for both designs. Loss and metrics are TRL's own.
    """

    def _send_telemetry(self) -> None:
        return  # nobody is told of a training

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # rows are tokenised by us: a user's words never become control tokens

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Log-probabilities of both designs under the reference, as TRL asks for them."""
        return super().compute_ref_log_probs(TwoRows(model), inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        assert self.precompute_ref_logps or isinstance(self.ref_model, TwoRows), "TRL asks ref_model as it is"
        return super()._compute_loss(TwoRows(model), inputs, return_outputs)


class TwoRows:
    """A model that is called as TRL calls it and reads `packed`; what it says comes back as two rows a pair."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *, packed: dict[str, Tensor], row: Tensor, at: Tensor, labels: Tensor, **_: Any) -> Any:
        read = {name: value for name, value in packed.items() if name not in ("next_ids", "part")}
        output = self.model(**read, shift_labels=packed["next_ids"], fused_lm_head=True)
        answered = (labels[:, 1:] != IGNORED).to(at.device)
        for name in NAMES:
            value_BT = getattr(output, name)
            if value_BT is not None:
                setattr(output, name, value_BT[row[:, None], at] * answered)
        return output


def mean_log_prob(model: Any, rows: Sequence[WriterRow], collator: DesignCollator, *, batch_size: int) -> float:
    """Mean log p per token of held-out designs, natural log."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            batch = collator._batch([answer_row(row.prompt, row.answers[0]) for row in chunk], chunk)
            total += float(token_log_probs(model, batch).sum())
            count += int((batch["next_ids"] != IGNORED).sum())
    return total / max(1, count)
