"""Options of jobs: those of contained configs, old names on the line and in files, one reading for a whole chain."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import align_designs
import demo
import generate_ads
import generate_pairs
import import_data
import judge_designs
import prior_chain
import reward_chain
import score
import train_designer
import train_reward
import tune_reward
from countryreward.equations.readings import READINGS
from countryreward.errors import UserError
from countryreward.generation.generation_config import TasksConfig
from countryreward.job_options import options_of, parse_options, with_underscores
from countryreward.renamed_options import current_arguments
from countryreward.training.training_config import RewardTraining


def parsed(job: Any, *arguments: str, reading: bool = False) -> Any:
    return parse_options(job.Config, current_arguments(arguments, job.Config), reading=reading)


def in_force(config: Any) -> dict[str, str]:
    """Option of the two readings -> its value in force."""
    prior, records = config.retrieval.prior, config.records
    values = {f"prior.{name}": prior.option(name) for name in ("weights", "evidence", "ties", "vote")}
    if hasattr(config, "training"):
        reward = config.training.reward
        values |= {f"reward.{name}": reward.option(name) for name in ("strategy", "antisymmetric")}
        values |= {f"focus.{name}": reward.option(f"focus_{name}") for name in ("measure", "layer", "reduce")}
    own = {"label.kind": records.label_kind, "orientation": records.orientation}
    of_reading = 0 if records.reading == "paper" else 1
    return values | {name: value or READINGS[name][of_reading] for name, value in own.items()}


def test_options_of_a_contained_config_stand_among_the_jobs_own() -> None:
    config = parsed(train_reward, "--preset=qwen2-vl-2b", "--loop.epochs=2", "--dataset=d", "--out=o")
    assert (config.training.preset, config.training.loop.epochs, config.training.dataset) == ("qwen2-vl-2b", 2, "d")
    assert (config.training.records, config.out) == ("runs/demo/records", "o")
    config = parsed(train_designer, "--pairs=p", "--loop.example_loss=0.5")
    assert (config.training.stage, config.training.loop.example_loss) == ("preference", 0.5)


def test_a_job_keeps_its_own_defaults_and_hides_what_it_fills_in(capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(demo, "--loop.seed=1", reading=True)
    assert (config.chain.training.loop.epochs, config.chain.training.loop.seed) == (0.9, 1)
    assert config.chain.records.split.validation == 0.06
    for job, hidden in ((demo, "--truth=x"), (reward_chain, "--features=x"), (tune_reward, "--priors=x")):
        with pytest.raises(SystemExit):
            parsed(job, hidden)
    assert "--priors" in capsys.readouterr().err


def test_a_config_in_its_plain_form_is_read_again(tmp_path: Path) -> None:
    config = train_reward.Config(
        training=RewardTraining(dataset="d", records="r", priors="", features="", learning_rates={"llm": 1e-4}), out="o"
    )
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(options_of(config)))
    assert parsed(train_reward, f"--config={tmp_path}/best.yaml") == config


@pytest.mark.parametrize("joined", [False, True])
def test_an_old_name_is_read_on_the_line_and_in_a_file_with_a_line_that_says_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], joined: bool
) -> None:
    path = tmp_path / "best.yaml"
    path.write_text("rates: {llm: 0.001}\nout: there\n")
    config = parsed(train_reward, *([f"--config={path}"] if joined else ["--config", str(path)]))
    assert (config.training.learning_rates, config.out) == ({"llm": 0.001}, "there")
    assert "note: rates is learning_rates now" in capsys.readouterr().err
    assert parsed(train_reward, '--rates={"llm": 0.002}').training.learning_rates == {"llm": 0.002}
    assert parsed(train_reward, "--rates.llm=0.002").training.learning_rates == {"llm": 0.002}
    assert capsys.readouterr().err.count("note: rates is learning_rates now") == 2
    assert path.read_text().startswith("rates:")


@pytest.mark.slow
@pytest.mark.parametrize("job", [prior_chain, reward_chain, demo])
def test_one_switch_sets_every_option_of_the_table_to_the_papers_value(job: Any) -> None:
    config = parsed(job, "--reading=paper", reading=True)
    values = in_force(getattr(config, "chain", config))
    assert values == {name: READINGS[name][0] for name in values}
    if job is not prior_chain:
        assert set(values) == set(READINGS) - {"renderer.scheduler"}
    values = in_force(getattr(plain := parsed(job, reading=True), "chain", plain))
    assert values == {name: READINGS[name][1] for name in values}


def test_what_is_given_explicitly_overrides_the_switch(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("reading: paper\nrecords: {label_kind: soft}\n")
    config = parsed(
        reward_chain,
        f"--config={tmp_path}/mine.yaml",
        "--reward.reading=repaired",
        "--retrieval.prior.ties=half",
        reading=True,
    )
    values = in_force(config)
    repaired = {"label.kind", "prior.ties", *(name for name in READINGS if name.startswith(("reward.", "focus.")))}
    assert values == {name: READINGS[name][int(name in repaired)] for name in values}


def test_a_sweep_has_the_switch_too() -> None:
    config = parsed(tune_reward, "--reading", "paper", reading=True)
    assert (config.training.reward.reading, config.retrieval.prior.reading) == ("paper", "paper")


def test_print_config_shows_the_reading_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(demo, "--reading=paper", "--print_config", reading=True)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert [printed["reading"], printed["records"]["reading"], printed["reward"]["reading"]] == ["paper"] * 3
    assert printed["retrieval"]["prior"]["reading"] == "paper"


@pytest.mark.slow
def test_jobs_that_make_ads_share_their_configs_and_keep_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = parsed(
        generate_pairs, "--products=3", "--first=6", "--markets=[KR]", "--loop.patience_s=5", "--writers.actors=2"
    )
    assert pairs.tasks == TasksConfig(products=3, first=6, markets=["KR"])
    assert (pairs.making.loop.retry_s, pairs.making.writers.actors) == (5, 2)
    assert "note: loop.patience_s is loop.retry_s now" in capsys.readouterr().err
    cases = parsed(judge_designs, "--services.reward=m")
    assert (cases.tasks, cases.making.services.reward) == (TasksConfig(split="test", draws=2), "m")
    assert parsed(align_designs, "--seed=1").tasks == TasksConfig(products=200, draws=2, seed=1)
    for job, hidden in ((generate_pairs, "--draws=2"), (judge_designs, "--first=1"), (align_designs, "--split=test")):
        with pytest.raises(SystemExit):
            parsed(job, hidden)


@pytest.mark.parametrize(
    ("job", "argument", "expected"),
    [
        (import_data, "--source.market_aliases.korea-mall=KR", "--source.market_aliases.korea-mall=KR"),
        (import_data, "--source.market-aliases.korea-mall=KR", "--source.market_aliases.korea-mall=KR"),
        (import_data, "--source.observations.skip-lines=2", "--source.observations.skip_lines=2"),
        (import_data, "--source.creatives.constants.my-key", "--source.creatives.constants.my-key"),
        (score, "--market-aliases.korea-mall", "--market_aliases.korea-mall"),
        (train_reward, "--learning-rates.llm=1e-4", "--learning_rates.llm=1e-4"),
        (train_reward, "--run-name=my-run", "--run_name=my-run"),
        (generate_ads, "--attributes.brand-name=Muru-Kai", "--attributes.brand-name=Muru-Kai"),
        (import_data, "--no-such.option-at-all=1", "--no_such.option_at_all=1"),
        (import_data, "a-value", "a-value"),
    ],
)
def test_dashes_of_options_are_underscores_and_those_of_keys_stay(job: Any, argument: str, expected: str) -> None:
    assert with_underscores(argument, job.Config) == expected


def test_a_key_with_a_dash_arrives() -> None:
    config = parsed(import_data, "--source.market_aliases.korea-mall=KR", "--source.market_aliases.us-store", "US")
    assert config.source.market_aliases == {"korea-mall": "KR", "us-store": "US"}


def test_spellings_of_markets_are_texts_and_what_yaml_lost_is_refused() -> None:
    config = parsed(import_data, "--source.market_aliases={5: KR, '7': JP, 'NO': DE, NA: N-AMERICA}")
    assert config.source.market_aliases == {"5": "KR", "7": "JP", "NO": "DE", "NA": "N-AMERICA"}
    with pytest.raises(UserError, match=r"market_aliases: a spelling is False, as YAML reads NO.*in quotes"):
        parsed(import_data, "--source.market_aliases={NO: DE}")
