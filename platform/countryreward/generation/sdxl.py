"""The real renderer: SDXL with a ControlNet that is shown the canny image of the product, Eq. 13."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from torch import Tensor

from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Rendered, RenderJob
from countryreward.generation.diffusion_inputs import canny_image, prompt_of, prompt_parts, token_ids
from countryreward.generation.fidelity import fidelity
from countryreward.generation.generation_config import RendererConfig
from countryreward.generation.sdxl_pipeline import load_pipeline, scheduler_of
from countryreward.generation.subject import Subjects

_PX = (16, 2048)
_STEPS = (1, 200)
_GUIDED = ["prompt_embeds", "add_text_embeds", "add_time_ids", "image"]


class DiffusionRenderer:
    """A `Renderer` around diffusers' StableDiffusionXLControlNetPipeline.

    Every job has its own generator, on the CPU, so its noise depends neither on the device nor on the rest of its batch. Bytes
    are the same on the same machine; in another batch rounding may differ in the last bits.
    """

    def __init__(self, pipeline: StableDiffusionXLControlNetPipeline, config: RendererConfig) -> None:
        """Takes over a pipeline that is on its device."""
        self._config = config
        self._pipeline = pipeline
        self._device, self._dtype = pipeline.device, pipeline.unet.dtype
        self._version = version_of(pipeline, config)
        self._published = dict(pipeline.scheduler.config)
        pipeline.scheduler = scheduler_of(config.scheduler, self._published)
        pipeline.set_progress_bar_config(disable=True)
        self._subjects = Subjects()
        self._negative: tuple[Tensor, Tensor] | None = None
        _prepare(pipeline, config)

    @classmethod
    def load(cls, config: RendererConfig) -> "DiffusionRenderer":
        """Raises `UserError` where the model is not found or the device is not there."""
        device, dtype = _device(config), _dtype(config)
        return cls(load_pipeline(config, device, dtype), config)

    def save(self, folder: Path) -> None:
        """As a folder that `RendererConfig.model` can name: safetensors, with the model's own scheduler."""
        used = self._pipeline.scheduler
        self._pipeline.scheduler = scheduler_of("euler", self._published)
        try:
            self._pipeline.save_pretrained(folder, safe_serialization=True)
        finally:
            self._pipeline.scheduler = used

    @property
    def name(self) -> str:
        """sdxl or tiny."""
        return self._config.kind

    @property
    def version(self) -> str:
        """Of the weights, the options and the libraries."""
        return self._version

    @property
    def px(self) -> int:
        """Side of an ad where a job names none."""
        return self._config.own_px()

    def check(self, job: RenderJob) -> None:
        """Raises `UserError` for a side or a number of steps that cannot be, or a picture of the wrong kind."""
        job.check()
        px, steps = self._asked(job)
        if px % 8 or not _PX[0] <= px <= _PX[1]:
            raise UserError(f"px: {px}; write a multiple of 8 from {_PX[0]} to {_PX[1]}")
        most = 50 if self._config.scheduler == "lcm" else _STEPS[1]
        if not _STEPS[0] <= steps <= most:
            raise UserError(f"steps: {steps}; write {_STEPS[0]} to {most}")

    def render(self, jobs: Sequence[RenderJob]) -> list[Rendered]:
        """In order; jobs of equal px and steps share batches."""
        for job in jobs:
            self.check(job)
        alike: dict[tuple[int, int], list[int]] = {}
        for place, job in enumerate(jobs):
            alike.setdefault(self._asked(job), []).append(place)
        found: dict[int, Rendered] = {}
        for (px, steps), places in alike.items():
            for start in range(0, len(places), self._config.batch):
                part = places[start : start + self._config.batch]
                found |= zip(part, self._batch([jobs[place] for place in part], px, steps), strict=True)
        return [found[place] for place in range(len(jobs))]

    def prompt_embeddings(self, prompts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Of the parts of each prompt: [B, 77, width of both encoders], and the second's pooled [B, its width]."""
        pipe = self._pipeline
        states = []
        pooled: Tensor | None = None
        with torch.inference_mode():
            for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
                ids = torch.tensor([token_ids(tokenizer, parts) for parts in prompts], device=self._device)
                output = encoder(ids, output_hidden_states=True)
                states.append(output.hidden_states[-2])
                pooled = output[0]
        assert pooled is not None
        return torch.cat(states, dim=-1).to(self._dtype), pooled.to(self._dtype)

    def _batch(self, jobs: list[RenderJob], px: int, steps: int) -> list[Rendered]:
        config = self._config
        subjects = [self._subjects.of(job) for job in jobs]
        # a compiled model has one batch size; what fills it up is thrown away
        filled = jobs + jobs[-1:] * (config.batch - len(jobs) if config.compile else 0)
        outlines = [canny_image(job.image, subject, px) for job, subject in zip(jobs, subjects, strict=True)]
        outlines += outlines[-1:] * (len(filled) - len(jobs))
        pixels = self._denoise(filled, outlines, px, steps)
        rendered = []
        for job, subject, ad in zip(jobs, subjects, pixels[: len(jobs)], strict=True):
            made = job.made_by(self, product_seen=subject.seen, px=px, steps=steps) | {
                "prompt": prompt_of(job.design, job.product),
                "negative_prompt": config.negative_prompt if config.own_guidance() > 1 else None,
                "scheduler": config.scheduler,
                "guidance": config.own_guidance(),
                "guidance_until": config.guidance_until,
                "conditioning_scale": config.conditioning_scale,
                "dtype": str(self._dtype).removeprefix("torch."),
            }
            rendered.append(Rendered(pixels=ad, fidelity=fidelity(subject.view, ad), made=made))
        return rendered

    def _denoise(self, jobs: list[RenderJob], outlines: list[np.ndarray], px: int, steps: int) -> np.ndarray:
        """Eq. 13 from noise to pixels: uint8 [B, px, px, 3]."""
        config = self._config
        guidance = config.own_guidance()
        embeds, pooled = self.prompt_embeddings([prompt_parts(job.design, job.product) for job in jobs])
        options: dict[str, Any] = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        if guidance > 1:
            if self._negative is None:
                self._negative = self.prompt_embeddings([[config.negative_prompt]])
            options["negative_prompt_embeds"], options["negative_pooled_prompt_embeds"] = (
                part.expand(len(jobs), *part.shape[1:]) for part in self._negative
            )
            if config.guidance_until < 1:
                last = max(1, round(config.guidance_until * steps))
                options |= {"callback_on_step_end": _unguide_after(last), "callback_on_step_end_tensor_inputs": _GUIDED}
        images = self._pipeline(
            **options,
            image=torch.from_numpy(np.stack(outlines)).permute(0, 3, 1, 2).float() / 255,
            height=px,
            width=px,
            num_inference_steps=steps,
            guidance_scale=guidance,
            controlnet_conditioning_scale=float(config.conditioning_scale),
            generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            output_type="pt",
            return_dict=False,
        )[0]
        if not torch.isfinite(images).all():
            raise RuntimeError(f"{self._dtype} overflowed in the decoder; set dtype to bfloat16 or float32")
        return (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _asked(self, job: RenderJob) -> tuple[int, int]:
        px = self.px if job.px is None else job.px
        return px, self._config.own_steps() if job.steps is None else job.steps


def _unguide_after(last: int) -> Any:
    """A callback that takes the negative half out of the batch once `last` steps are done."""

    def callback(pipeline: Any, step: int, _: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step + 1 != last:
            return {}
        pipeline._guidance_scale = 0.0
        return {name: tensor.chunk(2)[1] for name, tensor in tensors.items()}

    return callback


def _prepare(pipeline: StableDiffusionXLControlNetPipeline, config: RendererConfig) -> None:
    parts = pipeline.unet, pipeline.controlnet, pipeline.vae
    for part in parts:
        part.requires_grad_(False).eval()
        if config.channels_last:
            part.to(memory_format=torch.channels_last)
    if config.fuse_qkv:
        pipeline.fuse_qkv_projections(vae=False)
    if config.compile:  # in place, so that the pipeline still finds its own classes
        for part in (pipeline.unet, pipeline.controlnet, pipeline.vae.decoder):
            part.compile(mode="max-autotune-no-cudagraphs", dynamic=False)


def _device(config: RendererConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise UserError(f"device: {config.device!r} is unknown; write cpu, cuda, cuda:1 or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {config.device}, but there is no CUDA device here; write cpu or auto")
    return device


def _dtype(config: RendererConfig) -> torch.dtype:
    if config.dtype == "auto":
        return torch.bfloat16 if _device(config).type == "cuda" else torch.float32
    return getattr(torch, config.dtype)


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
