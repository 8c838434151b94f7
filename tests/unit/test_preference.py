"""Eq. 14: as a function, as TRL computes it, and as our trainer does with one row for two designs."""

import json
import math
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainingArguments
from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from countryreward.data.artifacts import publish
from countryreward.data.decoding import inspect
from countryreward.data.images import ImageWriter
from countryreward.data.tables import PREFERENCE_PAIRS
from countryreward.equations.ad_generation import dpo_loss
from countryreward.errors import UserError
from countryreward.models.design_prompt import words_of
from countryreward.models.design_writer import DesignWriterModel
from countryreward.training.run_identity import RunIdentity
from countryreward.training.training_config import WriterLoop, WriterTraining
from countryreward.training.writer_rows import WriterRow
from countryreward.training.writer_run import run_writer_training
from countryreward.training.writer_trainers import (
    DesignCollator,
    DesignTrainer,
    PairCollator,
    PreferenceTrainer,
    with_market_head,
)
from tests.unit.micro_writer import BEACH, CITY, PICTURES, PX, micro_writer

pytestmark = pytest.mark.slow  # `make check` has 90 seconds for everything


def test_eq_14_to_the_letter() -> None:
    same = torch.tensor([-3.0])
    assert dpo_loss(same, same, same, same, beta=0.1).item() == pytest.approx(math.log(2))
    # the policy gained 2 nats on the chosen one and lost 3 on the rejected: -log sigmoid(0.1 * 5)
    found = dpo_loss(torch.tensor([-1.0]), torch.tensor([-6.0]), same, same, beta=0.1)
    assert found.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.5))))


def pair_fields(writer: DesignWriterModel) -> list[Any]:
    told = [("Red bag", "KR", "one"), ("A longer title of a bag", "BR", "two"), ("Bag", "US", "one")]
    return [writer.fields(title, "Bags", {"Material": "leather"}, market, image) for title, market, image in told]


def config(folder: Path, **options: Any) -> DPOConfig:
    return DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, max_length=None, report_to=[], beta=0.3, seed=0, **options
    )  # fmt: skip


def test_eq_14_is_trls_loss(tmp_path: Path) -> None:
    """TRL's own trainer, collator and chat template, on rows in TRL's vision format."""
    policy, reference = micro_writer(1), micro_writer(2)
    words = [words_of(one.title, one.category, one.attributes, one.market) for one in pair_fields(policy)]
    rows = {
        "images": [[Image.fromarray(cv2.resize(PICTURES[name], (PX, PX)))] for name in ("one", "two", "one")],
        "prompt": [[{"role": "user", "content": text}] for text in words],
        "chosen": [[{"role": "assistant", "content": BEACH.as_text()}]] * 3,
        "rejected": [[{"role": "assistant", "content": CITY.as_text()}]] * 3,
    }
    trainer = DPOTrainer(
        model=policy.model,
        ref_model=reference.model,
        args=config(tmp_path),
        train_dataset=Dataset.from_dict(rows),
        processing_class=policy.processor,
    )
    batch = trainer.data_collator([{name: rows[name][i] for name in rows} for i in range(3)])
    with torch.no_grad():
        theirs = float(trainer.compute_loss(policy.model, dict(batch)))
        sums = []
        for model in (policy.model, reference.model):
            told = {name: value for name, value in batch.items() if name != "completion_mask"}
            logits = model(**told).logits[:, :-1].log_softmax(-1)
            each = logits.gather(2, batch["input_ids"][:, 1:, None]).squeeze(2) * batch["completion_mask"][:, 1:]
            sums.append(each.sum(1))
    ours = dpo_loss(sums[0][:3], sums[0][3:], sums[1][:3], sums[1][3:], beta=0.3).mean()
    assert float(ours) == pytest.approx(theirs, abs=1e-5)


class Small(dict):
    """Pictures at the micro writer's size."""

    px = PX


@pytest.mark.parametrize(("shared", "example_loss"), [(True, 0.0), (False, 0.0), (True, 0.5)])
def test_our_trainer_computes_eq_14_and_the_reference_once(tmp_path: Path, shared: bool, example_loss: float) -> None:
    policy, reference = micro_writer(1), micro_writer(2)
    fields = pair_fields(policy)
    prompts = [policy.prompt.splice(one) for one in fields]
    answers = policy.prompt.answer(BEACH), policy.prompt.answer(CITY)
    rows = [WriterRow(one, answers, told.market) for one, told in zip(prompts, fields, strict=True)]
    pictures: Any = Small(PICTURES)
    numbers = Dataset.from_dict({"row": [0, 1, 2]})
    numbers.save_to_disk(str(tmp_path / "rows"))
    trainer = PreferenceTrainer(
        model=policy.model,
        ref_model=reference.model,
        args=config(
            tmp_path,
            precompute_ref_log_probs=True,
            remove_unused_columns=False,
            precompute_ref_batch_size=2,
            loss_type=["sigmoid", "sft"] if example_loss else ["sigmoid"],
            loss_weights=[1.0, example_loss] if example_loss else None,
        ),
        train_dataset=Dataset.load_from_disk(str(tmp_path / "rows")),
        data_collator=PairCollator(rows, pictures, policy.processor, shared_prefix=shared),
        processing_class=policy.processor,
    )
    told: Any = trainer.train_dataset
    expected = {
        (name, side): torch.from_numpy(writer.log_probs(prompts, [design] * 3, PICTURES)[0])
        for name, writer in (("policy", policy), ("reference", reference))
        for side, design in (("chosen", BEACH), ("rejected", CITY))
    }
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(told[f"ref_{side}_logps"], expected["reference", side], atol=2e-3)
    with torch.no_grad():
        found = trainer.compute_loss(policy.model, trainer.data_collator([told[i] for i in range(3)]))
    sides = [expected[name, side] for name in ("policy", "reference") for side in ("chosen", "rejected")]
    examples = -expected["policy", "chosen"].sum() / (3 * len(answers[0]))  # per token
    right = float(dpo_loss(*sides, beta=0.3).mean()) + example_loss * float(examples)
    assert float(found) == pytest.approx(right, abs=1e-4 * max(1, right))


@pytest.mark.parametrize("market_loss", [0.0, 0.5])
def test_the_loss_of_examples_and_the_market_they_name(tmp_path: Path, market_loss: float) -> None:
    writer = micro_writer(1)
    fields = pair_fields(writer)
    prompts = [writer.prompt.splice(one) for one in fields]
    designs = [BEACH, CITY, BEACH]
    rows = [
        WriterRow(prompt, (writer.prompt.answer(design),), told.market)
        for prompt, design, told in zip(prompts, designs, fields, strict=True)
    ]
    sums, counts = writer.log_probs(prompts, designs, PICTURES)
    pictures: Any = Small(PICTURES)
    collator = DesignCollator(rows, pictures, writer.processor, shared_prefix=False)
    assert collator.markets == ["BR", "KR", "US"]
    expected = -sums.sum() / counts.sum()
    if market_loss:
        with_market_head(writer.model, 3)
        head: Any = writer.model.get_submodule("market_head")
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor([0.0, 2.0, 1.0])
        named = torch.tensor([0.0, 2.0, 1.0]).log_softmax(0)[[1, 0, 2]]  # KR, BR, US
        expected -= market_loss * float((named * torch.from_numpy(counts)).sum() / counts.sum())
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], remove_unused_columns=False)
    trainer = DesignTrainer(model=writer.model, args=arguments, data_collator=collator, market_loss=market_loss)
    found = trainer.compute_loss(writer.model, collator([{"row": n} for n in range(3)]))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    if market_loss:
        assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("stage", "name"), [("supervised", "example_loss"), ("preference", "market_loss")])
def test_a_loss_of_the_other_stage_is_refused(stage: Any, name: str) -> None:
    some: dict[str, Any] = {name: 0.5}
    less: dict[str, Any] = {name: -1.0}
    with pytest.raises(UserError, match=f"loop.{name}: 0.5"):
        WriterTraining(designs="d", pairs="p" if stage == "preference" else "", loop=WriterLoop(**some))
    with pytest.raises(UserError, match=f"loop.{name}: -1.0 must be at least 0"):
        WriterLoop(**less)


def write_pairs(folder: Path, count: int) -> Path:
    """Preference pairs as jobs/generate_pairs.py publishes them."""
    with publish(folder, kind="pairs") as draft:
        pictures = [cv2.imencode(".png", np.full((60, 60, 3), shade, np.uint8))[1].tobytes() for shade in (30, 200)]
        with ImageWriter(draft.path, embed=True) as images:
            names = []
            for data in pictures:
                facts = inspect(data, max_bytes=10**6, max_pixels=10**6)
                images.add(facts, data=data, uri=None)
                names.append(facts.content_hash)
        rows = [
            {
                "key": f"k{n}", "product_id": f"p{n}", "title": f"Bag {n}", "category": "Bags", "attributes": {}, "tags": [],
                "market": ("KR", "BR")[n % 2], "images": [names[n % 2]], "prompt": "-", "chosen": BEACH.as_text(),
                "rejected": CITY.as_text(), "seed_chosen": 1, "seed_rejected": 2, "seed_render": 0, "ad_chosen": "a",
                "ad_rejected": "b", "fidelity_chosen": 1.0, "fidelity_rejected": 1.0, "probability": 0.9,
                "swapped_probability": None, "writer": "w", "renderer": "r", "model": "m", "knowledge_base": "k",
            }
            for n in range(count)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows, schema=PREFERENCE_PAIRS), draft.path / "pairs.parquet")
    return folder


@pytest.mark.parametrize(("rank", "example_loss"), [(0, 0.0), (2, 0.0), (0, 0.5)])
def test_a_writer_learns_what_was_preferred_and_goes_on_where_it_stopped(
    tmp_path: Path, rank: int, example_loss: float
) -> None:
    from countryreward.models.reward_config import LoraOptions

    pairs = write_pairs(tmp_path / "pairs", 12)
    loop = WriterLoop(
        engine="torch",
        batch_size=4,
        epochs=2,
        log_every=1,
        checkpoint_every=2,
        learning_rate=1e-3,
        example_loss=example_loss,
    )
    job = WriterTraining(pairs=str(pairs), loop=loop, lora=LoraOptions(rank=rank), image_px=56)
    run, lines = tmp_path / "run", []

    def tell(message: dict[str, Any]) -> None:
        if message.get("kind") == "writer":
            lines.append(message)
            if message["step"] == 3 and len(lines) == 3:
                (run / "stop").touch()

    identity = RunIdentity(inputs={"pairs": "1"}, options={"rank": rank})
    run.mkdir()
    assert not run_writer_training(job, run, tell=tell, identity=identity)
    (run / "stop").unlink()
    with pytest.raises(UserError, match=r"was written with options.rank|rank"):
        run_writer_training(job, run, tell=tell, identity=RunIdentity(inputs={"pairs": "1"}, options={"rank": 99}))
    assert run_writer_training(job, run, tell=tell, identity=identity)
    assert run_writer_training(job, run, tell=tell, identity=identity)  # finished: nothing is done
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    if example_loss:  # some 4 nats per token before it has learned anything
        assert lines[0]["loss"] > math.log(2) + 2 * example_loss
    else:
        assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.02
    assert lines[-1]["rewards_accuracies"] == 1
    assert json.loads((run / "last" / "writer.json").read_text())["steps"] == 6
    after = DesignWriterModel.load(run / "last", px=56)
    before = DesignWriterModel.load("tiny", px=56)
    before.widen(loop.seed)
    told = [after.prompt.splice(after.fields("Bag 0", "Bags", {}, "KR", "one"))] * 2
    gain = [w.log_probs(told, [BEACH, CITY], PICTURES)[0] for w in (after, before)]
    assert gain[0][0] - gain[1][0] > gain[0][1] - gain[1][1]


@pytest.mark.parametrize("engine", ["torch"])
def test_a_writer_that_diverges_ends_at_that_step_and_names_the_pairs_and_the_checkpoint(
    tmp_path: Path, engine: Any
) -> None:
    loop = WriterLoop(
        engine=engine, batch_size=4, epochs=2, log_every=1, checkpoint_every=1, learning_rate=1e30, warmup=0.0
    )
    job = WriterTraining(pairs=str(write_pairs(tmp_path / "pairs", 12)), loop=loop, image_px=56)
    run, lines = tmp_path / "run", []
    with pytest.raises(UserError) as error:
        run_writer_training(job, run, tell=lines.append, identity=RunIdentity(inputs={"pairs": "1"}, options={}))
    said = re.search(r"it has diverged: at step (\d+) of 6 .* 4 records (k\d+(?:, k\d+){3});", str(error.value))
    assert said, str(error.value)
    step = int(said[1])
    assert f"the last good checkpoint is {run / 'checkpoints' / f'checkpoint-{step - 1}'}" in str(error.value)
    logged = [line for line in lines if line.get("kind") == "writer"]
    assert [line["step"] for line in logged] == list(range(1, step))
    assert all(line["gradient_norm"] > 0 for line in logged)
    assert not (run / "last").exists()
