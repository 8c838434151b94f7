"""Loading SDXL with its ControlNet: safetensors only, each part by its own class, nothing fetched unless the config says so."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from countryreward.errors import UserError
from countryreward.generation.generation_config import RendererConfig, Scheduler
from countryreward.generation.sdxl_shapes import TINY, random_pipeline
from countryreward.progress import quiet_loading

MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
CONTROLNET = "diffusers/controlnet-canny-sdxl-1.0"


def load_pipeline(
    config: RendererConfig, device: torch.device, dtype: torch.dtype
) -> StableDiffusionXLControlNetPipeline:
    """The pipeline of a config, on its device. Raises `UserError` where a part is missing, damaged or not safetensors.

    `model_index.json`, which names classes to import, is not read: the classes are those of SDXL, whatever it says.
    """
    if config.kind == "tiny" and not config.model:
        return random_pipeline(TINY, config.seed, dtype=dtype).to(device)
    model, controlnet = config.model or MODEL, config.controlnet
    inside = not controlnet and (Path(model) / "controlnet").is_dir()
    common: dict[str, Any] = {"local_files_only": not config.download}
    of_model = common | {"revision": config.revision or None}
    of_controlnet = of_model if inside else common | {"revision": config.controlnet_revision or None}
    weights: dict[str, Any] = {"use_safetensors": True, "variant": config.variant or None}

    def part(name: str, load: Any, **options: Any) -> Any:
        try:
            with quiet_loading():
                return load(model, subfolder=name, **of_model, **options)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise _missing("model", model, name, error, config) from error

    vae = part("vae", AutoencoderKL.from_pretrained, torch_dtype=dtype, **weights)
    text_encoder = part("text_encoder", CLIPTextModel.from_pretrained, dtype=dtype, **weights)
    text_encoder_2 = part("text_encoder_2", CLIPTextModelWithProjection.from_pretrained, dtype=dtype, **weights)
    unet = part("unet", UNet2DConditionModel.from_pretrained, torch_dtype=dtype, **weights)
    tokenizer = part("tokenizer", CLIPTokenizer.from_pretrained)
    tokenizer_2 = part("tokenizer_2", CLIPTokenizer.from_pretrained)
    scheduler = part("scheduler", EulerDiscreteScheduler.from_pretrained)
    place = {"subfolder": "controlnet"} if inside else {}
    name = model if inside else controlnet or CONTROLNET
    try:
        control = ControlNetModel.from_pretrained(name, torch_dtype=dtype, **place, **of_controlnet, **weights)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise _missing("controlnet", name, "controlnet", error, config) from error
    pipeline = StableDiffusionXLControlNetPipeline(
        vae=vae, text_encoder=text_encoder, text_encoder_2=text_encoder_2, tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        unet=unet, controlnet=control, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip
    if device.type == "cpu":
        # tensors mapped from a file begin anywhere; processors add up in another order then, and bytes would differ
        for network in (vae, text_encoder, text_encoder_2, unet, control):
            for parameter in network.parameters():
                parameter.data = parameter.data.clone()
    return pipeline.to(device)


def scheduler_of(name: Scheduler, published: Any) -> Any:
    """A scheduler with the noise that the model was trained with (`published`: the config of its own scheduler)."""
    if name == "ddpm":  # Eq. 13; latents are not confined to [-1, 1], so nothing is clipped
        return DDPMScheduler.from_config(published, clip_sample=False, variance_type="fixed_small")
    if name == "dpm++":
        return DPMSolverMultistepScheduler.from_config(published, algorithm_type="dpmsolver++", use_karras_sigmas=True)
    if name == "lcm":
        return LCMScheduler.from_config(published, clip_sample=False)
    if name == "euler-trailing":
        return EulerDiscreteScheduler.from_config(published, timestep_spacing="trailing")
    return EulerDiscreteScheduler.from_config(published)


def _missing(field: str, name: str, part: str, error: Exception, config: RendererConfig) -> UserError:
    way = (
        "give the folder of a pipeline that was saved as safetensors"
        if Path(name).is_dir()
        else "check its name"
        if config.download
        else "nothing by this name is stored here; give a folder, or set download to fetch it"
    )
    return UserError(f"{field}: {part} of {name} cannot be loaded ({type(error).__name__}); {way}")
