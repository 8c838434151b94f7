"""Every job as a command: `--help` without anything heavy, `--print_config`, unknown keys, one line for a user's error.

Each job is run by its path, as `python jobs/x.py` does, several times in one fresh process.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow  # left to `make test`: `make check` has 90 s

ROOT = Path(__file__).parents[2]
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
CONFIGS = sorted(path.name for path in (ROOT / "jobs" / "configs").glob("*.yaml"))
HEAVY = ("numpy", "pandas", "torch", "ray", "pyarrow", "cv2", "sklearn", "matplotlib", "transformers", "faiss")
JOB_OF = {"retail_draw.yaml": "draw_variants.py", "few_records.yaml": "reward_chain.py"}
"""Config -> the job it is for, where that is not prior_chain.py, and with it reward_chain.py."""

CALLS = """
import contextlib, io, json, os, runpy, sys

sys.path.insert(0, os.path.dirname(sys.argv[1]))  # as for `python jobs/x.py`

def call(*arguments):
    sys.argv[1:] = arguments
    sys.argv[0] = job
    out, err, code = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(job, run_name="__main__")
        except SystemExit as left:
            code = left.code
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    return {"code": code, "out": out.buffer.getvalue().decode(), "err": err.getvalue()}

job, calls = sys.argv[1], json.load(sys.stdin)
done = {}
for name, arguments in calls.items():
    done[name] = call(*arguments)
    if name == "print_config":
        done["modules"] = sorted(sys.modules)
        with open("printed.yaml", "w") as file:
            file.write(done[name]["out"])
print(json.dumps(done), file=sys.__stdout__)
"""


def run_calls(job: str, calls: dict[str, list[str]], folder: Path, **environment: str) -> dict[str, Any]:
    """Name -> exit code, stdout and stderr of each call of a job, in order, in one process whose folder is `folder`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("COUNTRYREWARD_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, str(ROOT / "jobs" / job)],
        input=json.dumps(calls),
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT / "platform"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@functools.cache
def behaviour(job: str) -> dict[str, Any]:
    """What a job does in a folder with nothing in it but a plain folder where the demo would publish its export."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runs" / "demo" / "export").mkdir(parents=True)
        (folder / "runs" / "backbone").mkdir()  # likewise: a bare pretraining takes minutes
        (folder / "wrong.yaml").write_text("nonsense: 1\n")
        calls = {
            "help": ["--help"],
            "print_config": ["--print_config"],
            "fed_back": ["--config", "printed.yaml", "--print_config"],
            "unknown_on_line": ["--nonsense=1"],
            "unknown_in_file": ["--config", "wrong.yaml"],
            "missing_config": ["--config", "absent.yaml"],
            "bare": [],
        }
        return run_calls(job, calls, folder)


def test_jobs_and_configs_were_found():
    assert {"demo.py", "prior_chain.py", "embed.py"} <= set(JOBS)
    assert {"bass.yaml", "retail.yaml", "retail_draw.yaml"} <= set(CONFIGS)


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("job", JOBS)
def test_help_and_print_config_import_nothing_heavy(job: str):
    done = behaviour(job)
    assert done["help"]["code"] in (0, None)
    assert f"usage: {job}" in done["help"]["out"]
    assert "--print_config" in done["help"]["out"]
    assert [name for name in HEAVY if name in done["modules"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_help_explains_every_option(job: str):
    lines = behaviour(job)["help"]["out"].splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("  --")]
    bare = []
    for number, following in zip(options, [*options[1:], len(lines)], strict=True):
        text = " ".join(lines[number:following])
        name = text.split()[0]
        explained = text.partition("(type:")[0].partition("(default:")[0].split()
        words = [word for word in explained[1:] if not word.isupper() and not word.startswith(("{", "-"))]
        if len(words) < 2:
            bare.append(name)
    assert bare == []


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_printed_config_feeds_back(job: str):
    done = behaviour(job)
    assert done["print_config"]["code"] in (0, None)
    assert done["fed_back"]["code"] in (0, None), done["fed_back"]["err"]
    options = yaml.safe_load(done["print_config"]["out"])
    assert ("out" in options) != (job == "serve.py")  # which publishes nothing
    assert yaml.safe_load(done["fed_back"]["out"]) == options


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("where", ["unknown_on_line", "unknown_in_file"])
def test_an_unknown_key_is_named(job: str, where: str):
    done = behaviour(job)[where]
    assert done["code"] == 2
    assert "nonsense" in done["err"]
    assert "Traceback" not in done["err"]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_missing_config_file_is_named(job: str):
    done = behaviour(job)["missing_config"]
    assert done["code"] == 2
    assert "absent.yaml" in done["err"]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_users_error_is_one_line(job: str):
    """Bare, where the demo has not run: the input is missing, or where the demo would write lies a folder of the user's."""
    done = behaviour(job)["bare"]
    assert done["code"] == 2, done
    assert len(done["err"].splitlines()) == 1, done["err"]
    assert done["err"].startswith("error: ")
    assert "Traceback" not in done["out"] + done["err"]


def test_a_shortened_option_is_unknown(tmp_path: Path):
    """`--ray.cpu` must not quietly mean `--ray.cpus`, as the same key in a file does not."""
    calls = {"line": ["--ray.cpu=3", "--print_config"], "short": ["--data=runs", "--print_config"]}
    done = run_calls("embed.py", calls, tmp_path)
    assert done["line"]["code"] == 2
    assert "ray.cpu" in done["line"]["err"]
    assert done["short"]["code"] == 2


def test_a_submitted_job_does_not_write_into_rays_copy_of_the_code(tmp_path: Path):
    calls = {"relative": ["--out=runs/x"], "absolute": [f"--out={tmp_path}/x"]}
    done = run_calls("train_reward.py", calls, tmp_path, RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert "out: 'runs/x' would lie in Ray's copy of the code" in done["relative"]["err"]
    assert "set COUNTRYREWARD_HOME on the nodes" in done["relative"]["err"]
    assert done["absolute"]["err"].startswith("error: dataset: no manifest.json in runs/demo/dataset")


def test_relative_paths_are_taken_from_the_home_folder(tmp_path: Path):
    (tmp_path / "home" / "runs" / "demo" / "export").mkdir(parents=True)  # in the way of what demo.py publishes
    (tmp_path / "elsewhere").mkdir()
    home = str(tmp_path / "home")
    done = run_calls("demo.py", {"bare": []}, tmp_path / "elsewhere", COUNTRYREWARD_HOME=home)["bare"]
    assert f"{home}/runs/demo/export exists and is not an artifact" in done["err"]
    done = run_calls("demo.py", {"bare": []}, tmp_path / "elsewhere", COUNTRYREWARD_HOME=f"{home}/gone")["bare"]
    assert "COUNTRYREWARD_HOME" in done["err"]
    assert done["code"] == 2


def test_options_may_be_written_with_dashes(tmp_path: Path):
    calls = {"dashes": ["--run-name=mine", "--loop.batch-size", "4", "--print_config"]}
    printed = yaml.safe_load(run_calls("train_reward.py", calls, tmp_path)["dashes"]["out"])
    assert (printed["run_name"], printed["loop"]["batch_size"]) == ("mine", 4)


def test_the_command_line_beats_the_file_beats_the_defaults(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("retrieval:\n  search: {text_k: 40, image_k: 20}\n")
    calls = {"mixed": ["--config", "mine.yaml", "--retrieval.search.image_k=7", "--print_config"]}
    done = run_calls("build_priors.py", calls, tmp_path)["mixed"]
    search = yaml.safe_load(done["out"])["retrieval"]["search"]
    assert (search["text_k"], search["image_k"], search["near_duplicate_bits"]) == (40, 7, 4)


@pytest.mark.parametrize(
    ("job", "arguments", "said"),
    [
        ("embed.py", ["--encoders.batch_size=0"], "encoders.batch_size: 0 must be at least 1"),
        ("build_records.py", ["--records.split.test=1.5"], "split.validation, split.test: 0.1 and 1.5 must be >= 0"),
        ("build_records.py", ["--records.split.by=time"], "split.train_until, split.validation_until: both are needed"),
        ("build_priors.py", ["--retrieval.search.text_k=0"], "search.text_k: 0 must be at least 1"),
        ("import_data.py", ["--source.pairs.path=x.csv"], "pairs.path: 'x.csv' is set beside the three tables"),
        ("score.py", ["--part_rows=0"], "part_rows: 0 must be at least 1"),
        ("score.py", ["--abstain_below=0.5"], "abstain_below: 0.5 must be in [0, 0.5)"),
        ("make_marketplace.py", ["--marketplace.products=0"], "products: 0 is too small"),
        ("make_marketplace.py", ["--marketplace.markets=[Korea]"], "must be different ISO 3166 alpha-2 codes"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_option(tmp_path: Path, job: str, arguments: list[str], said: str):
    done = run_calls(job, {"bad": arguments}, tmp_path)["bad"]
    assert done["code"] == 2
    assert said in done["err"]
    assert done["err"].startswith("error: ")
    assert len(done["err"].splitlines()) == 1


@pytest.mark.parametrize("config", CONFIGS)
def test_shipped_configs_parse(config: str, tmp_path: Path):
    job = JOB_OF.get(config, "prior_chain.py")
    path = ROOT / "jobs" / "configs" / config
    calls = {"print_config": ["--config", str(path), "--print_config"]}
    done = run_calls(job, calls, tmp_path, COUNTRYREWARD_DATA=str(tmp_path))["print_config"]
    assert done["code"] in (0, None), done["err"]
    printed, written = yaml.safe_load(done["out"]), yaml.safe_load(path.read_text())
    assert printed["out"] == written.get("out", printed["out"])


@pytest.mark.parametrize("config", ["bass.yaml", "retail.yaml"])
def test_a_config_of_data_serves_both_chains_and_one_of_training_goes_on_top(config: str, tmp_path: Path):
    configs = [str(ROOT / "jobs" / "configs" / name) for name in (config, "few_records.yaml")]
    calls = {"both": ["--config", configs[0], "--config", configs[1], "--print_config"]}
    done = run_calls("reward_chain.py", calls, tmp_path, COUNTRYREWARD_DATA=str(tmp_path))["both"]
    assert done["code"] in (0, None), done["err"]
    printed, data, training = (yaml.safe_load(text) for text in (done["out"], *(Path(c).read_text() for c in configs)))
    assert printed["out"] == data["out"]
    assert printed["records"]["split"] == printed["records"]["split"] | data["records"]["split"]
    assert printed["loop"] == printed["loop"] | training["loop"]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_missing_data_folder_is_named(config: str, tmp_path: Path):
    path = ROOT / "jobs" / "configs" / config
    if "$COUNTRYREWARD_DATA" not in path.read_text():
        pytest.skip("reads nothing from the data room")
    job = JOB_OF.get(config, "prior_chain.py")
    done = run_calls(job, {"bare": ["--config", str(path)]}, tmp_path)["bare"]
    assert done["code"] == 2
    assert done["err"].startswith("error: ")
    assert "COUNTRYREWARD_DATA" in done["err"]
    assert "not set" in done["err"]
    wrong = run_calls(job, {"bare": ["--config", str(path)]}, tmp_path, COUNTRYREWARD_DATA=str(tmp_path))["bare"]
    assert wrong["code"] == 2
    assert str(tmp_path) in wrong["err"]  # says where it looked


@pytest.mark.parametrize("name", [f"jobs/{name}" for name in JOBS] + [f"jobs/configs/{name}" for name in CONFIGS])
def test_commands_in_comments_name_files_that_exist(name: str):
    named = re.findall(r"jobs/[\w/]+\.(?:yaml|py)", (ROOT / name).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
