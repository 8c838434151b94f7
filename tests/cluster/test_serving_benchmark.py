"""benchmarks/serving.py at its shortest: every server starts and answers 200, ratios are printed. No time is asserted."""

import json
import os
import subprocess
import sys

import pytest

from tests.cluster.demo_run import ROOT, Run
from tests.unit.test_serving_rates import free_port

RATIOS = {
    "HTTP / in process, one market",
    "HTTP / in process, all markets",
    "HTTP / in process, repeating images",
    "ours / unbatched",
    "ours / litserve (1 workers), model of 20 ms a batch",
}


@pytest.mark.long
def test_it_prints_every_ratio(demo: Run):
    command = [sys.executable, "benchmarks/serving.py", f"--run={demo.folder}", "--quick=true", f"--port={free_port()}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COUNTRYREWARD_"))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout[done.stdout.index("\n{") :])
    assert {
        name for name in report if "ratio_median" in (report[name] if isinstance(report[name], dict) else {})
    } == RATIOS
    for name in RATIOS:
        assert report[name]["ratio_range"][0] <= report[name]["ratio_median"] <= report[name]["ratio_range"][1]
    assert report["p99 at half load / alone"]["ratio"] > 0
    for askers in (1, 6):
        together = report[f"a call per market / one call, {askers} askers"]
        assert together["images_encoded_for_one_call"] == 2.0  # the two images, whatever the number of markets
        assert 2.0 <= together["images_encoded_for_a_call_per_market"] <= 4.0  # by each of two replicas at most
