"""Which SDXL renderer made an ad."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version as installed

import torch
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from torch import Tensor

from countryreward.generation.generation_config import RendererConfig

_VERSION = 1  # raised whenever the same job would give other bytes though weights and options stay
# these say where weights come from, what jobs ask for, or how they are shared out
_LEFT_OUT = {
    "px", "steps", "threads", "model", "controlnet", "revision", "controlnet_revision", "variant", "download", "batch", "seed",
}  # fmt: skip


def version_of(pipeline: StableDiffusionXLControlNetPipeline, config: RendererConfig) -> str:
    """Changes with the weights, the options, the device's kind and the libraries."""
    options = {name: value for name, value in asdict(config).items() if name not in _LEFT_OUT}
    options |= {"guidance": config.own_guidance(), "device": pipeline.device.type, "dtype": str(pipeline.unet.dtype)}
    noise = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    described = json.dumps([options, noise], sort_keys=True, default=str)
    what = hashlib.sha256((_weights_digest(pipeline) + described).encode()).hexdigest()[:12]
    return f"{config.kind}-{_VERSION}-{what}-diffusers-{installed('diffusers')}-torch-{torch.__version__}"


def _weights_digest(pipeline: StableDiffusionXLControlNetPipeline) -> str:
    """SHA-256 over all tensors, hashed several at a time."""

    def one(item: tuple[str, Tensor]) -> str:
        name, tensor = item
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return f"{name} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(data).hexdigest()}"

    parts = ("unet", "controlnet", "vae", "text_encoder", "text_encoder_2")
    tensors = [(f"{part}.{k}", v) for part in parts for k, v in getattr(pipeline, part).state_dict().items()]
    with ThreadPoolExecutor(8) as pool:
        return hashlib.sha256("\n".join(pool.map(one, tensors)).encode()).hexdigest()
