"""The script of tests/gpu/test_serving_7b.py at a size that a processor can do. That it runs; no time is asserted."""

import socket
from pathlib import Path

import pytest

from countryreward.serving.service_config import ServiceConfig
from tests.gpu import serving_rates as rates


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_both_sides_are_measured(tmp_path: Path):
    folder, export = rates.small_folder(tmp_path), rates.small_export(tmp_path / "export", 28, products=4)
    config = ServiceConfig(state=str(tmp_path / "state"), max_wait_s=60.0, max_wait_passes=1e3)
    key, judge = rates.make_key(tmp_path / "state"), rates.judge_of(folder, rates.Shape())
    with rates.without_ray(judge, config, free_port()) as url:
        assert rates.http_rate(url, key, export, 2.0, 4, start=1) > 0
        assert rates.in_process_rate(judge, export, 0.1, start=1_000) > 0
