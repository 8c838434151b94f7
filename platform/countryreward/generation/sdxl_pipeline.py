"""SDXL with a canny ControlNet as diffusers' pipeline: loaded from safetensors, or built from its shape alone with random
weights, small for tests and full for measurements.
"""

import json
from dataclasses import dataclass
from functools import partial
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
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from countryreward.data.marketplace.vocabulary import AXES
from countryreward.errors import UserError
from countryreward.generation.generation_config import RendererConfig, Scheduler
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


NOISE: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "timestep_spacing": "leading", "prediction_type": "epsilon",
}  # fmt: skip
"""The noise of SDXL as published."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Options of the parts' own config classes."""

    unet: dict[str, Any]
    """What UNet and ControlNet share."""
    vae: dict[str, Any]
    text: dict[str, Any]
    text_2: dict[str, Any]
    sample_size: int
    """Side of the latents."""


_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
_COMMON = {"in_channels": 4, "use_linear_projection": True, "addition_embed_type": "text_time"}
TINY = Shape(
    sample_size=8,
    unet=_COMMON | {
        "block_out_channels": (32, 64), "layers_per_block": 2, "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4), "cross_attention_dim": 64, "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80, "norm_num_groups": 8, "down_block_types": _BLOCKS[:2],
    },
    vae={"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8, "sample_size": 64},
    text={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 32},
    text_2={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 32},
)  # fmt: skip
"""3.7 million parameters, 64 pixels."""
SDXL = Shape(
    sample_size=128,
    unet=_COMMON | {
        "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816, "down_block_types": _BLOCKS,
    },
    vae={
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 1024, "scaling_factor": 0.13025,
    },
    text={
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "projection_dim": 768, "hidden_act": "quick_gelu",
    },
    text_2={
        "vocab_size": 49408, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
        "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
    },
)  # fmt: skip
"""SDXL base 1.0 with the ControlNet of its size: 4.7 billion parameters, 1024 pixels."""


def random_pipeline(
    shape: Shape = TINY, seed: int = 0, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusionXLControlNetPipeline:
    """The real classes with weights that the seed fixes; other draws of the process are not disturbed.

    A fresh ControlNet's outputs are zero, so the canny image would have exactly no effect: here they are not.
    """
    tokenizer = small_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ends["pad_token_id"] = tokenizer.pad_token_id
    text, text_2 = (
        CLIPTextConfig(**{"vocab_size": len(tokenizer), **ends, **options}) for options in (shape.text, shape.text_2)
    )
    down = shape.unet["down_block_types"]
    up = tuple(name.replace("Down", "Up") for name in reversed(down))
    of_vae = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    makers = {
        "vae": partial(AutoencoderKL, latent_channels=4, **of_vae, **shape.vae),
        "text_encoder": partial(CLIPTextModel, text),
        "text_encoder_2": partial(CLIPTextModelWithProjection, text_2),
        "unet": partial(UNet2DConditionModel, sample_size=shape.sample_size, up_block_types=up, **shape.unet),
        "controlnet": partial(ControlNetModel, **shape.unet),
    }
    parts: dict[str, Any] = {"scheduler": EulerDiscreteScheduler(**NOISE)}
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        for name, make in makers.items():
            made: Any = make()
            if name == "controlnet":
                _unzero(made)
            parts[name] = (made if dtype == torch.float32 else made.to(dtype=dtype)).eval()
    return StableDiffusionXLControlNetPipeline(
        **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, add_watermarker=False
    )


def _unzero(controlnet: ControlNetModel) -> None:
    """Weights that carry on what comes in, as trained ones do; torch's own lose nearly all of it over eight convolutions."""
    embedding = [part for part in controlnet.controlnet_cond_embedding.modules() if isinstance(part, torch.nn.Conv2d)]
    outputs = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
    for part in [*embedding, *outputs]:
        torch.nn.init.kaiming_normal_(part.weight)  # type: ignore[union-attr, arg-type]


def small_tokenizer() -> CLIPTokenizer:
    """CLIP's way of splitting, learned from the design vocabulary: any text has ids, known words have few."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learning = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learning.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    by_byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learning.pre_tokenizer = pre_tokenizers.Sequence([words, by_byte])  # type: ignore[assignment]
    learning.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, end_of_word_suffix="</w>", special_tokens=known)
    text = [" ".join([word.phrase, *word.keywords]) for axis in AXES.values() for word in axis.values()]
    learning.train_from_iterator(text, trainer)
    learned = json.loads(learning.to_str())["model"]
    vocabulary = dict(learned["vocab"])
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
