"""Trials of a sweep: parameters to a training, logs to a table, a table to a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from countryreward.errors import UserError
from countryreward.evaluation.sweep_report import Trial, findings, headline, sweep_table, varied, write_sweep_report
from countryreward.training.sweep_plan import (
    Priors,
    SweepPlan,
    current_names,
    drop_weights,
    score_of,
    stored_names,
    validations_of,
    with_params,
)
from countryreward.training.training_config import RewardTraining

JOB = RewardTraining(dataset="d", records="r", priors="-", features="")
PLAN = SweepPlan(
    job=JOB,
    inputs={"dataset": "1", "records": "2", "knowledge_base": "3"},
    priors={(32, 10): Priors(path="/p/a", version="4"), (127, 39): Priors(path="/p/b", version="5")},
    ks=(127, 39),
    workers=2,
)


def test_parameters_become_the_training_that_train_reward_would_make() -> None:
    job, identity = PLAN.trial(
        {"reward.focus_weight": 0.3, "search.text_k": 32, "search.image_k": 10, "learning_rates.llm": 1e-4}
    )
    assert (job.reward.focus_weight, job.priors, job.learning_rates) == (0.3, "/p/a", {"llm": 1e-4})
    assert identity == job.identity({**PLAN.inputs, "priors": "4"}, 2)
    assert identity.options["rates"]["llm"] == 1e-4
    assert PLAN.trial({})[0].priors == "/p/b"
    assert JOB.reward.focus_weight == 0.1


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"focus_weight": 1}, "space: focus_weight is no option of a training; a name begins with preset, backbone"),
        ({"reward.focus": 1}, "space: reward.focus: there is no focus; there are reading, strategy"),
        ({"reward.focus_weight": -1.0}, "reward.focus_weight: -1.0 must be at least 0"),
        ({"learning_rates.lm": 1.0}, "learning_rates: lm is no group"),
        ({"dataset": "x"}, "space: dataset is no option"),
        ({"search.text_k": 50}, r"there are no priors for text_k, image_k = \(50, 39\); there are those of \(32, 10\)"),
    ],
)
def test_parameters_that_no_training_has(params: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        PLAN.trial(params)


def test_a_sweep_of_the_release_before_goes_on_with_the_names_that_it_stored() -> None:
    assert PLAN.trial({"rates.llm": 1e-4}) == PLAN.trial({"learning_rates.llm": 1e-4})
    space = {"learning_rates.llm": 1, "reward.focus_weight": 2}
    assert stored_names(space) == {"rates.llm": 1, "reward.focus_weight": 2}
    assert current_names(stored_names(space)) == space


def test_whole_options_and_nested_ones() -> None:
    changed = with_params(JOB, {"preset": "qwen2-vl-2b", "loop.epochs": 2.0, "lora.rank": 8})
    assert (changed.preset, changed.loop.epochs, changed.lora.rank) == ("qwen2-vl-2b", 2.0, 8)


def test_validations_are_read_from_a_log_that_was_torn(tmp_path: Path) -> None:
    lines = [
        {"kind": "step", "step": 5},
        {"kind": "validation", "step": 10, "discordant_ordering": 0.7, "accuracy": 0.6},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "valida')
    assert validations_of(tmp_path) == [lines[1]]
    assert validations_of(tmp_path / "none") == []
    assert score_of(lines[1]) == 0.7
    assert score_of({"discordant_ordering": None, "accuracy": 0.6}) == 0.6


def test_weights_go_and_what_was_measured_stays(tmp_path: Path) -> None:
    for name in (
        "checkpoints/step-1/state.pt",
        "last/model.safetensors",
        "best/model.safetensors",
        "best/adapter/a",
        "log.jsonl",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("finished.json", "best/validation.parquet", "best/training.json"):
        (tmp_path / name).touch()
    drop_weights([tmp_path])
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["best/training.json", "best/validation.parquet", "dropped.json", "log.jsonl"]
    drop_weights([tmp_path])  # again, or after a kill in the middle
    assert json.loads((tmp_path / "dropped.json").read_text()) == {"ended": True}
    (tmp_path / "stopped").mkdir()
    drop_weights([tmp_path / "stopped"])
    assert json.loads((tmp_path / "stopped" / "dropped.json").read_text()) == {"ended": False}


def records(products: int) -> pd.DataFrame:
    """Two pairs a product, in two markets that disagree."""
    rows = [(p, pair, market) for p in range(products) for pair in range(2) for market in ("KR", "BR")]
    frame = pd.DataFrame(rows, columns=["product", "pair", "market"])
    return pd.DataFrame(
        {
            "record_id": [f"{p}-{q}-{m}" for p, q, m in rows],
            "pair_id": [f"{p}-{q}" for p, q, _ in rows],
            "product_id": [f"p{p}" for p, _, _ in rows],
            "as_of": None,
            "market": frame["market"],
            "label": (frame["market"] == "KR").astype(int),
        }
    )


def trial(name: str, params: dict[str, Any], right: float, *, status: str = "finished", count: int = 40) -> Trial:
    """One whose first `right` of the pairs are in order."""
    told = records(count)
    pair = np.arange(len(told)) // 2
    known = pair < right * (pair.max() + 1)
    told["logit"] = np.where(known, np.where(told["label"] == 1, 1.0, -1.0), np.where(told["label"] == 1, -1.0, 1.0))
    lines = [{"step": 10, "discordant_ordering": right / 2, "accuracy": right}]
    lines.append({"step": 20, "discordant_ordering": right, "accuracy": right})
    return Trial(
        name=name, params=params, status=status, why="", validations=lines, seconds=12.34,
        verdicts=told[["record_id", "label", "logit"]],
    )  # fmt: skip


def swept() -> list[Trial]:
    return [
        trial("a", {"reward.focus_weight": 0.0, "search.text_k": 32}, 0.5, status="stopped"),
        trial("b", {"reward.focus_weight": 0.0, "search.text_k": 127}, 0.75),
        trial("c", {"reward.focus_weight": 0.1, "search.text_k": 32}, 0.9),
        trial("d", {"reward.focus_weight": 0.1, "search.text_k": 127}, 0.9),
        Trial(
            name="", params={"reward.focus_weight": 9.0, "search.text_k": 32}, status="failed", why="no room",
            validations=[], seconds=0, verdicts=None,
        ),
    ]  # fmt: skip


def test_the_table_of_a_sweep() -> None:
    table = sweep_table(swept(), records(40), draws=200)
    assert table["metric"] == "discordant_ordering"
    assert table["best"] == "c"  # the first of two equals
    assert table["n"] == {"trials": 5, "finished": 3, "stopped": 1, "failed": 1, "products": 40, "pairs": 80}
    rows = {row["name"]: row for row in table["trials"]}
    assert rows["b"]["discordant_ordering"]["value"] == 0.75
    assert rows["b"]["to_best"]["value"] == pytest.approx(-0.15)
    assert rows["b"]["to_best"]["high"] < 0
    assert rows["d"]["to_best"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "to_best" not in rows[""]
    curve = table["curves"]["reward.focus_weight"]
    assert [(point["value"], point["trials"], point["mean"]["value"]) for point in curve] == [
        (0.0, ["a", "b"], 0.625),
        (0.1, ["c", "d"], 0.9),
    ]
    assert varied(swept()) == ["reward.focus_weight", "search.text_k"]
    json.dumps(table, allow_nan=False)


def test_trials_of_other_records_are_compared_on_those_they_share_or_not_at_all() -> None:
    one, other = trial("a", {"x": 1}, 0.5), trial("b", {"x": 2}, 0.9, count=30)
    assert sweep_table([one, other], records(40), draws=50)["n"]["products"] == 30
    assert other.verdicts is not None
    strange = Trial(**{**vars(other), "verdicts": other.verdicts.assign(record_id="z" + other.verdicts["record_id"])})
    with pytest.raises(UserError, match=r"share no validation record; leave loop\.seed"):
        sweep_table([one, strange], records(40))


def test_one_that_failed_after_it_was_measured_is_not_the_best() -> None:
    trials = [trial("a", {"x": 1}, 0.9, status="failed"), trial("b", {"x": 2}, 0.5, status="stopped")]
    assert sweep_table(trials, records(40), draws=50)["best"] == "b"
    assert sweep_table(trials[:1], records(40), draws=50)["best"] == "a"


def test_whole_options_have_a_curve_too() -> None:
    trials = [trial(name, {"rates": {"llm": rate}}, 0.5) for name, rate in (("a", 1e-3), ("b", 1e-4), ("c", 1e-3))]
    curve = sweep_table(trials, records(40), draws=50)["curves"]["rates"]
    assert [(point["value"], point["trials"]) for point in curve] == [
        ({"llm": 0.0001}, ["b"]),
        ({"llm": 0.001}, ["a", "c"]),
    ]


def test_a_sweep_of_failures_says_why() -> None:
    with pytest.raises(UserError, match="the first failed with: no room"):
        sweep_table(swept()[-1:], records(10))


@pytest.mark.slow
def test_the_page_says_what_can_be_told_apart(tmp_path: Path) -> None:
    table = sweep_table(swept(), records(40), draws=200)
    assert headline(table) == "Best of 5: focus_weight = 0.1, text_k = 32"
    said = findings(table)
    assert said[1] == "1 of the 3 other trials cannot be told from it: the interval of their difference holds 0."
    write_sweep_report(table, tmp_path, simulated=True, command="python <x>", best_yaml="out: <here>\n")
    page = (tmp_path / "report.html").read_text()
    assert "out: &lt;here&gt;" in page
    assert "simulated" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png") == 3
    assert "the command only publishes the model" in page
    assert "no room" in page
    assert json.loads((tmp_path / "report.json").read_text())["best"] == "c"


@pytest.mark.slow
def test_one_trial_has_a_page_too(tmp_path: Path) -> None:
    write_sweep_report(sweep_table([trial("a", {"x": 1}, 0.5)], records(40), draws=50), tmp_path, simulated=False)
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 1
