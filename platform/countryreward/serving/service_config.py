"""Configs of the three services, each with the fields it reads and no others. Standard library only.

A field that several services read stands in the part that they share, and is written under the same key in each of them.
`ServiceConfig` is all three at once, for one machine.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from countryreward.errors import UserError

_AT_LEAST_1 = {
    *("max_image_bytes", "max_pixels", "max_images", "max_verdicts", "max_text", "max_jobs", "decoders"),
    *("max_generations", "max_designs", "max_px", "max_steps", "designs_per_pass"),
}
_ABOVE_0 = {"max_pause_s", "max_wait_passes", "max_wait_s", "poll_s", "retention_hours", "cache_s"}


@dataclass(kw_only=True)
class SharedServiceConfig:
    """What every service reads: where its state is, and what one replica takes. A reverse proxy with TLS belongs in front."""

    state: str = "runs/service"
    """Folder of keys, batch jobs and rate counters, shared by all replicas."""
    rates: str = ""
    """Where rate counters live: a URI of the `limits` library such as redis://HOST:6379; empty: a file in `state`."""
    max_image_bytes: int = 20 * 2**20
    """Largest accepted image file."""
    max_pixels: int = 25_000_000
    """Largest accepted width x height, read from the header before anything is decoded."""
    max_verdicts: int = 2_000
    """Pairs x markets in one call."""
    max_text: int = 4_000
    """Characters of a title, a category, or all attributes or tags together."""
    max_body_memory: int = 256 * 2**20
    """Bytes of request bodies that a replica holds at a time; beyond it answers 503."""
    max_pause_s: float = 20.0
    """Longest wait for the next piece of a request's body, in seconds; then it is answered 408 and its memory is free."""
    retention_hours: float = 24.0
    """Uploaded tables and images, and results, are deleted this long after their job ended."""
    poll_s: float = 2.0
    """How often a replica looks for new keys, a newer model and waiting jobs, in seconds."""

    def __post_init__(self) -> None:
        for name in (option.name for option in fields(self)):
            value = getattr(self, name)
            if name in _AT_LEAST_1 and value < 1:
                raise UserError(f"{name}: {value} must be at least 1")
            if name in _ABOVE_0 and not value > 0:
                raise UserError(f"{name}: {value} must be above 0")


@dataclass(kw_only=True)
class RewardLimits(SharedServiceConfig):
    """What may be asked of the reward: by callers of its API, and by guests of the studio, which asks in their name."""

    max_evidence: int = 40
    """Positions of evidence that a caller may ask for, per verdict."""
    max_table_bytes: int = 512 * 2**20
    """Largest upload to /v1/batch, table and images together."""
    max_table_rows: int = 1_000_000
    """Rows of a table sent to /v1/batch."""
    max_jobs: int = 4
    """Batch jobs of one tenant that wait or run; finished ones do not count."""


@dataclass(kw_only=True)
class GenerationLimits(SharedServiceConfig):
    """What may be asked of the generator: by callers of its API, and by guests of the studio."""

    max_generations: int = 8
    """Generation jobs of one tenant that wait or run; finished ones do not count."""
    max_designs: int = 16
    """Designs of one generation job."""
    max_px: int = 1_024
    """Largest side of a generated image, in pixels."""
    max_steps: int = 50
    """Most denoising steps that a generation job may ask for."""


@dataclass(kw_only=True)
class RewardServiceConfig(RewardLimits):
    """Limits and lifetimes of one replica of the reward."""

    max_images: int = 20
    """Images in one call of /v1/rank."""
    image_hosts: list[str] = field(default_factory=list)
    """Hosts from which images named by URL may be fetched (https only); empty: no URL is ever fetched."""
    batch_tokens: int = 16_384
    """Tokens of one forward pass, padding included; a single larger pair still passes alone."""
    max_wait_passes: float = 2.0
    """A call that would wait for more full passes of the model is answered 503 with Retry-After at once."""
    max_wait_s: float = 5.0
    """The same in seconds, for models whose passes are long."""
    decoders: int = 2
    """Threads that decode images and look up past ads."""
    cache_mib: int = 256
    """Memory for encoded images, each by tenant and content hash; 0: none."""
    cache_s: float = 3_600.0
    """How long an encoded image is kept after its last use, in seconds."""
    follow: bool = True
    """Take in a newer model or knowledge base when it is published under the same path."""
    abstain_below: float = 0.0
    """Abstain when the calibrated probability is less than this far from .5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.abstain_below < 0.5:
            raise UserError(f"abstain_below: {self.abstain_below} must be in [0, 0.5)")


@dataclass(kw_only=True)
class GeneratorServiceConfig(GenerationLimits):
    """Limits and lifetimes of one replica of the generator."""

    designs_per_pass: int = 1
    """Images that a renderer makes at a time; a cancelled job stops between passes."""


@dataclass(kw_only=True)
class StudioServiceConfig(RewardLimits, GenerationLimits):
    """Limits and lifetimes of one replica of the studio, whose guests ask both the reward and the generator."""


@dataclass(kw_only=True)
class ServiceConfig(RewardServiceConfig, GeneratorServiceConfig, StudioServiceConfig):
    """All three services on one machine: what `service.NAME` of jobs/serve.py means for each of them."""


@dataclass(kw_only=True)
class StudioConfig:
    """What the studio's page adds to the limits of `StudioServiceConfig`."""

    max_pictures: int = 8
    """Pictures compared at a time."""
    kept_px: int = 640
    """Longest side of a picture as it is kept with a result, in pixels."""
    max_results: int = 200
    """Results kept per tenant; the oldest give way."""
    past_ads: int = 3
    """Places of past ads that are shown per market, the most telling first."""
    variants: int = 4
    """Pictures made for a market at a time."""

    def __post_init__(self) -> None:
        for name in ("max_pictures", "kept_px", "max_results", "past_ads", "variants"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.max_pictures < 2:
            raise UserError(f"max_pictures: {self.max_pictures} must be at least 2")


SERVICES = {"reward": RewardServiceConfig, "generator": GeneratorServiceConfig, "studio": StudioServiceConfig}


def services_with(option: str) -> list[str]:
    """Names of the services that have this option under `service:`."""
    return [name for name, config in SERVICES.items() if option in {one.name for one in fields(config)}]


def own_options(service: str, options: Any) -> Any:
    """`service:` of a YAML file, without the options that only other services have: one config once served all three.

    options: as YAML gives them, a mapping; anything else is returned as it is. Each option that is left out is named in a
    FutureWarning with the service it belongs to. An option that no service has stays, to be refused.
    """
    if not isinstance(options, Mapping):
        return options
    kept = {}
    for name, value in options.items():
        owners = services_with(str(name))
        if owners and service not in owners:
            warnings.warn(
                f"service.{name}: the {service} does not have it any more; write it under service: of the"
                f" {' and the '.join(owners)}. From the next release on it is refused here",
                FutureWarning,
                stacklevel=2,
            )
        else:
            kept[name] = value
    return kept
