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
from countryreward.training.writer_rows import Pictures, WriterRow

NAMES = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What TRL asks of a forward pass, token by token."""
HEAD = "market_head"
"""Name of the module that tells the market from a state."""


class Collator:
    """Row numbers -> tensors. `two`: rows hold two answers."""

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

    def _batch(self, rows: Sequence[Row], told: Sequence[WriterRow]) -> dict[str, Tensor]:
        batch = stack(rows, self.pad_id, self.processor.image_token_id)
        names = {row.prompt.image: self.pictures[row.prompt.image] for row in told}
        return batch | pictures_of([row.prompt for row in told], names, self.processor, self.pictures.px)


class DesignCollator(Collator):
    """For `DesignTrainer`."""

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        told = [self.rows[example["row"]] for example in examples]
        batch = self._batch([answer_row(row.prompt, row.answers[0]) for row in told], told)
        return batch | {"market": torch.tensor([self.markets.index(row.market) for row in told])}


class PairCollator(Collator):
    """For `PreferenceTrainer`: what TRL reads of a batch of pairs, and under `packed` what the model reads.

    To TRL a pair is two rows (first all chosen, then all rejected), each the prompt's last token and a design.
    """

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        told = [self.rows[example["row"]] for example in examples]
        answers = [row.answers[side] for side in (0, 1) for row in told]
        width = max(map(len, answers))
        ids_2BC = np.full((len(answers), width + 1), self.pad_id, np.int64)
        mask_2BC = np.zeros((len(answers), width + 1), np.int64)
        at_2BC = np.zeros((len(answers), width), np.int64)  # where in its row of `packed` a token is said
        row_2B = np.zeros(len(answers), np.int64)
        if self.shared:
            rows = [shared_row(row.prompt, *row.answers) for row in told]
        else:
            rows = [answer_row(row.prompt, row.answers[side]) for side in (0, 1) for row in told]
        for n, answer in enumerate(answers):
            side, b = divmod(n, len(told))
            row_2B[n] = b if self.shared else n
            first = len(told[b].prompt.ids) - 1
            if self.shared and side:
                first += len(told[b].answers[0])
            at_2BC[n, : len(answer)] = first + np.arange(len(answer))
            ids_2BC[n, 0], ids_2BC[n, 1 : len(answer) + 1] = told[b].prompt.ids[-1], answer
            mask_2BC[n, 1 : len(answer) + 1] = 1
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids_2BC),
            "attention_mask": torch.from_numpy(np.maximum(mask_2BC, np.arange(width + 1) == 0)),
            "completion_mask": torch.from_numpy(mask_2BC),
            "row": torch.from_numpy(row_2B),
            "at": torch.from_numpy(at_2BC),
            "packed": self._batch(rows, told if self.shared else [*told, *told]),
        }
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples])
        return batch


class DesignTrainer(Trainer):
    """Maximum likelihood of designs: the mean of -log p over the tokens of a batch.

    Where `with_market_head` gave the model one, `market_loss` times the mean of -log p(market | state) over the same tokens comes
    on top (ours; docs/method.md). The head is thrown away after the training.
    """

    def __init__(self, *args: Any, market_loss: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.market_loss = market_loss

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """See `transformers.Trainer.compute_loss`."""
        told = {name: value for name, value in inputs.items() if name not in ("next_ids", "part", "market")}
        output = model(**told, use_cache=False, output_hidden_states=self.market_loss > 0)
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


class PreferenceTrainer(DPOTrainer):
    """TRL's DPOTrainer, with two things that it refuses or lacks for pictures: reference log-probabilities computed once, and a
    prompt that is read once for both designs. Loss and metrics are TRL's own.
    """

    def _send_telemetry(self) -> None:
        return  # nobody is told of a training

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # rows are tokenised by us: a user's words never become control tokens

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """See TRL."""
        return super().compute_ref_log_probs(TwoRows(model), inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        assert self.precompute_ref_logps or isinstance(self.ref_model, TwoRows), "TRL asks ref_model as it is"
        return super()._compute_loss(TwoRows(model), inputs, return_outputs)


class TwoRows:
    """A model that is called as TRL calls it and reads `packed`; what it says comes back as two rows a pair."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *, packed: dict[str, Tensor], row: Tensor, at: Tensor, labels: Tensor, **_: Any) -> Any:
        told = {name: value for name, value in packed.items() if name not in ("next_ids", "part")}
        output = self.model(**told, shift_labels=packed["next_ids"], fused_lm_head=True)
        said = (labels[:, 1:] != IGNORED).to(at.device)
        for name in NAMES:
            value_BT = getattr(output, name)
            if value_BT is not None:
                setattr(output, name, value_BT[row[:, None], at] * said)
        return output


def mean_log_prob(model: Any, rows: Sequence[WriterRow], collator: DesignCollator, *, batch_size: int) -> float:
    """Mean log p per token of held-out designs, natural log."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            told = rows[start : start + batch_size]
            batch = collator._batch([answer_row(row.prompt, row.answers[0]) for row in told], told)
            total += float(token_log_probs(model, batch).sum())
            count += int((batch["next_ids"] != IGNORED).sum())
    return total / max(1, count)
