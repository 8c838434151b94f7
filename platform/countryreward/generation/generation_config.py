"""What ads are made for, which renderer makes them, and which become a pair. Standard library only, so that `--help` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from countryreward.errors import UserError

Kind = Literal["drawer", "tiny", "sdxl"]
Scheduler = Literal["euler", "ddpm", "dpm++", "euler-trailing", "lcm"]

NEGATIVE_PROMPT = "blurry, low quality, deformed product, extra products, cropped, watermark, misspelled text"
_PX = {"drawer": 224, "tiny": 64, "sdxl": 1024}
_STEPS = {"drawer": 0, "tiny": 3, "sdxl": 30}
FEW_STEP: dict[str, int] = {"euler-trailing": 4, "lcm": 4}
"""Schedulers for weights that were distilled to few steps -> the steps they take when none are named."""


@dataclass(kw_only=True)
class RendererConfig:
    """What makes the ads. Fields from `model` on are for `tiny` and `sdxl` alone."""

    kind: Kind = "drawer"
    """drawer: the simulator's pictures, no weights. sdxl: SDXL with a canny ControlNet. tiny: the same classes with random
    weights, for tests."""
    px: int = 0
    """Side of an ad in pixels where a job names none; 0: 224 (drawer), 64 (tiny), 1024 (sdxl)."""
    threads: int = 0
    """Threads of the drawer; 0: one per core, 8 at most."""
    model: str = ""
    """Folder or name of the SDXL pipeline; empty: stabilityai/stable-diffusion-xl-base-1.0, for `tiny` built anew from `seed`."""
    controlnet: str = ""
    """Folder or name of the canny ControlNet; empty: diffusers/controlnet-canny-sdxl-1.0, or the one in the model's folder."""
    revision: str = ""
    """Commit of the model by name; empty: the newest that is stored here."""
    controlnet_revision: str = ""
    """The same of the ControlNet."""
    variant: str = ""
    """Which of a name's files, such as fp16; empty: those without one."""
    download: bool = False
    """May a model by name be fetched from the Hugging Face hub? Off: only what is stored here."""
    steps: int = 0
    """Denoising steps where a job names none; 0: 30 (sdxl), 3 (tiny), 4 with a few-step scheduler."""
    scheduler: Scheduler = "euler"
    """euler: as SDXL is published. ddpm: Eq. 13 of the paper. dpm++: second order, good from 20 steps. euler-trailing (SDXL
    Lightning, Turbo) and lcm (latent consistency): few steps, for weights that were distilled to them."""
    guidance: float = -1.0
    """Weight of the prompt (classifier-free guidance); up to 1: none, at half the price. -1: 5, with a few-step scheduler 0."""
    guidance_until: float = 1.0
    """Share of the steps that is guided; later ones cost half and change little of the composition."""
    conditioning_scale: float = 0.6
    """Weight of the product's outline: 0 ignores it, 1 follows it closely."""
    negative_prompt: str = NEGATIVE_PROMPT
    """What an ad should not show; needs guidance."""
    seed: int = 0
    """Of the weights of `tiny`."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto: cuda where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the weights; auto: bfloat16 on cuda, float32 on the CPU."""
    batch: int = 4
    """Ads denoised at once; jobs of other px or steps never share a batch."""
    channels_last: bool = False
    """Lay convolutions out as GPUs prefer."""
    fuse_qkv: bool = False
    """One product instead of three before each attention."""
    compile: bool = False
    """torch.compile the UNet, the ControlNet and the decoder: minutes at the start or a new px; batches are filled up."""

    def __post_init__(self) -> None:
        for name, least in (("px", 0), ("threads", 0), ("steps", 0), ("seed", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)}; write a whole number from {least}")
        if self.kind != "drawer" and self.px % 8:
            raise UserError(f"px: {self.px}; SDXL makes multiples of 8, such as 1024")
        if not (self.guidance == -1 or 0 <= self.guidance <= 30):
            raise UserError(f"guidance: {self.guidance}; write 0 to 30, or -1 for the scheduler's own")
        if not 0 < self.guidance_until <= 1:
            raise UserError(f"guidance_until: {self.guidance_until}; write a share above 0, at most 1")
        if not 0 <= self.conditioning_scale <= 2:
            raise UserError(f"conditioning_scale: {self.conditioning_scale}; write 0 to 2")

    def own_px(self) -> int:
        """`px` with its default."""
        return self.px or _PX[self.kind]

    def own_steps(self) -> int:
        """`steps` with its default."""
        if self.steps:
            return self.steps
        return FEW_STEP.get(self.scheduler, _STEPS[self.kind]) if self.kind == "sdxl" else _STEPS[self.kind]

    def own_guidance(self) -> float:
        """`guidance` with its default."""
        if self.guidance >= 0:
            return self.guidance
        return 0.0 if self.scheduler in FEW_STEP else 5.0


@dataclass(kw_only=True)
class PairRule:
    """Which designs of a case become a preference pair."""

    designs: int = 2
    """Designs written for each (product, market); of more than two every pair of ads is judged, and the best is paired with the
    worst."""
    margin: float = 0.6
    """Probability that the chosen ad wins, at least; in both orders where both are asked. Below, the pair is dropped."""
    both_orders: bool = True
    """Ask every pair also with A and B exchanged; when the answers contradict each other, the pair is dropped."""
    elsewhere: list[str] = field(default_factory=list)
    """ISO 3166 codes of markets in which the two ads are judged as well, for a pair in each: ads are dear, verdicts are cheap,
    and two ads whose winner changes with the country teach a writer to listen to it. Ours, not the paper's."""

    def __post_init__(self) -> None:
        if not 2 <= self.designs <= 16:
            raise UserError(f"designs: {self.designs}; write 2 to 16")
        if not 0.5 <= self.margin < 1:
            raise UserError(f"margin: {self.margin}; write a probability from 0.5, below 1")


@dataclass(kw_only=True)
class TasksConfig:
    """The (product, market) tasks of a dataset that ads are made for."""

    dataset: str = "runs/demo/dataset"
    """Products and their pictures; a product's own picture, the original creative, is its creative with the smallest id."""
    records: str = "runs/demo/records"
    """Which product is in which split."""
    split: str = "train"
    """train, validation or test; a writer is judged on what it was not trained on."""
    markets: list[str] = field(default_factory=list)
    """Codes or names of countries; empty: all that the records know."""
    products: int = 0
    """Products at most, in a random order that the seed fixes; 0: all. Of an alignment: of each round, other ones in every round
    while there are enough."""
    first: int = 0
    """Products of that order to leave out first: rounds of an alignment take others each."""
    draws: int = 1
    """Designs of every product and market; two tell how much designs differ."""
    seed: int = 0
    """Of the products' order, the designs and the ads."""
