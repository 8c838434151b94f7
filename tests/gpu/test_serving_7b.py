"""Does HTTP cost a 7B model anything? Its real shape with random weights in BF16: pairs/s over HTTP / in process.

    python -m pytest tests/gpu/test_serving_7b.py -q -s          # COUNTRYREWARD_LAYERS=28 for the whole depth

Needs about 25 GB of GPU memory with 7 layers, 35 GB with 28, and that again with Ray Serve; uvicorn and aiohttp. Skips, with
that reason, where there is no GPU; the part with Ray Serve also where Ray is not installed.
"""

import importlib.util
import os
import statistics
from pathlib import Path

import pytest
import torch

from countryreward.models.attention import attention_implementation
from countryreward.models.reward_config import RewardOptions
from countryreward.models.reward_model import CountryRewardModel, preset_config
from countryreward.serving.service_config import ServiceConfig
from tests.gpu import serving_rates as rates

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
LAYERS, PX = int(os.environ.get("COUNTRYREWARD_LAYERS", "7")), 448
SECONDS, ROUNDS, CONNECTIONS = 10.0, 3, 128


def random_7b() -> CountryRewardModel:
    config = preset_config("qwen2-vl-7b", RewardOptions(max_length=2_048), num_hidden_layers=LAYERS)
    implementation = attention_implementation("cuda", torch.bfloat16)
    with torch.device("cuda"):
        model = CountryRewardModel._from_config(config, dtype=torch.bfloat16, attn_implementation=implementation)
    model.config.image_px = PX
    return model.eval()


@pytest.mark.parametrize("server", ["uvicorn", "serve"])
def test_http_reaches_nine_tenths_of_in_process(server: str, tmp_path: Path) -> None:
    if server == "serve" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    folder, export = rates.small_folder(tmp_path), rates.small_export(tmp_path / "export", PX)
    config = ServiceConfig(
        state=str(tmp_path / "state"), max_wait_s=60.0, max_wait_passes=1e3, decoders=4, batch_tokens=65_536
    )
    key, shape = rates.make_key(tmp_path / "state"), rates.Shape(make=random_7b, px=PX, device="cuda")
    judge = rates.judge_of(folder, shape)
    serving = (
        rates.without_ray(judge, config, 18_110)
        if server == "uvicorn"
        else rates.on_serve(folder, shape, config, 18_110, gpus=0.5)
    )
    with serving as url:
        rates.http_rate(url, key, export, 3.0, CONNECTIONS, start=1)  # warm up both
        rates.in_process_rate(judge, export, 3.0, start=10**6)
        rounds = [
            (
                rates.http_rate(url, key, export, SECONDS, CONNECTIONS, start=(2 * n + 2) * 10**6),
                rates.in_process_rate(judge, export, SECONDS, start=(2 * n + 3) * 10**6),
            )
            for n in range(ROUNDS)
        ]
    ratio = statistics.median(http / inside for http, inside in rounds)
    print(
        f"\n{LAYERS} layers, {server}: HTTP / in process {[(round(a, 1), round(b, 1)) for a, b in rounds]} pairs/s, "
        f"median ratio {ratio:.3f}"
    )
    assert ratio >= 0.9
