"""Configs of the Ray pieces. Standard library only."""

from dataclasses import dataclass, field
from typing import Literal

from countryreward.errors import UserError
from countryreward.generation.generation_config import RendererConfig


@dataclass(kw_only=True)
class RayConfig:
    """How a job meets Ray."""

    address: str = ""
    """local starts a private Ray on this machine; HOST:PORT or ray://HOST:PORT joins that one; auto joins the one that
    RAY_ADDRESS names, or that runs on this machine. Empty: the one that RAY_ADDRESS names; where it is not set, local."""
    cpus: int = 0
    """Processors of a local Ray; 0: all."""
    object_store_mib: int = 512
    """Object store of a local Ray, in MiB."""
    dashboard: bool = False
    """Start the dashboard of a local Ray (on loopback)."""
    log_mib: int = 32
    """A local Ray cuts each of its log files at this size, in MiB, and keeps one older part."""
    disk_limit: float = 0.95
    """A local Ray spills no object to a disk that is used beyond this share: the job ends with Ray's OutOfDiskError instead."""

    def __post_init__(self) -> None:
        if self.log_mib < 1 or not 0 < self.disk_limit <= 1:
            raise UserError(
                f"ray.log_mib, disk_limit: {self.log_mib}, {self.disk_limit}; MiB are at least 1, the share is in (0, 1]"
            )


@dataclass(kw_only=True)
class WorkersConfig:
    """The processes of a training."""

    workers: int = 2
    """How many; each holds the model and takes its share of every batch."""
    cpus_per_worker: float = 1.0
    """Processors of each; also its threads."""
    gpus_per_worker: float = 0.0
    """GPUs of each: 0 (processors only) or 1."""
    retries: int = 3
    """How often workers that died are started again, from the newest checkpoint; -1: without end."""

    def __post_init__(self) -> None:
        if self.retries < -1:
            raise UserError(f"workers.retries: {self.retries} must be at least 0, or -1 for no end")
        if self.workers < 1 or self.cpus_per_worker <= 0 or self.gpus_per_worker < 0:
            raise UserError(
                f"workers: {self.workers} workers with {self.cpus_per_worker} CPUs and {self.gpus_per_worker} GPUs each; "
                "write at least 1 worker, CPUs above 0, GPUs 0 or more"
            )


@dataclass(kw_only=True)
class ElasticWorkersConfig(WorkersConfig):
    """The processes of a training that goes on with fewer of them."""

    min_workers: int = 0
    """Go on with so many when nodes are lost or not there yet, and with more again when they come; 0: only with all of them.
    The steps, their data and losses are those of `workers` workers."""
    grow_after_s: float = 60.0
    """How often to look whether more workers have room, in seconds; the run then goes on with them from its newest checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_workers <= self.workers or self.grow_after_s < 0:
            raise UserError(
                f"workers.min_workers, grow_after_s: {self.min_workers}, {self.grow_after_s}; the first is 0 to "
                f"{self.workers} (workers.workers), seconds are at least 0"
            )


@dataclass(kw_only=True)
class PairLoopConfig:
    """How pairs are made: items of a call, and calls at a time, of each stage."""

    write_batch: int = 8
    """Tasks a writer is given at once, each with all its designs."""
    write_in_flight: int = 2
    """Calls of the writers at a time; twice their number keeps all of them busy."""
    render_batch: int = 4
    """Tasks the renderer is given at once."""
    render_in_flight: int = 2
    """Calls of the renderer at a time; twice its replicas keeps all of them busy."""
    score_batch: int = 8
    """Tasks the reward is given at once."""
    score_in_flight: int = 4
    """Calls of the reward at a time."""
    timeout_s: float = 300.0
    """For one call; then it is made again."""
    retry_s: float = 600.0
    """How long a call is made again while nobody answers; then the run ends, and goes on when it is started again."""

    def __post_init__(self) -> None:
        for stage in ("write", "render", "score"):
            if min(self.of(stage)) < 1:
                raise UserError(f"loop: {stage}_batch, {stage}_in_flight: {self.of(stage)}; write at least 1")
        if self.timeout_s <= 0 or self.retry_s <= 0:
            raise UserError(f"loop: timeout_s {self.timeout_s}, retry_s {self.retry_s}; write seconds above 0")

    def of(self, stage: str) -> tuple[int, int]:
        """(items of a call, calls at a time) of write, render or score."""
        return getattr(self, f"{stage}_batch"), getattr(self, f"{stage}_in_flight")


@dataclass(kw_only=True)
class ServicesConfig:
    """Who renders ads and who judges them. Replicas that a job starts end with it and answer nobody else."""

    reward: str = "runs/demo/model"
    """A model folder, of which replicas are started; app:NAME for an application on this Ray; or the address of a service."""
    generator: str = ""
    """Empty: replicas with `renderer` are started; app:NAME; or the address of a service."""
    renderer: RendererConfig = field(default_factory=RendererConfig)
    """What the started replicas of the generator render with."""
    key_file: str = ""
    """File with the API key for addresses; empty: the environment variable COUNTRYREWARD_KEY."""
    reward_replicas: int = 1
    """Replicas of the reward to start."""
    reward_cpus: float = 1.0
    """Processors of each."""
    reward_gpus: float = 0.0
    """GPUs of each, fractions allowed."""
    generator_replicas: int = 1
    """Replicas of the generator to start."""
    generator_cpus: float = 1.0
    """Processors of each."""
    generator_gpus: float = 0.0
    """GPUs of each, fractions allowed."""

    def __post_init__(self) -> None:
        if self.reward_replicas < 1 or self.generator_replicas < 1:
            raise UserError(
                f"services: {self.reward_replicas} and {self.generator_replicas} replicas; write at least 1 of each"
            )


@dataclass(kw_only=True)
class SweepConfig:
    """How a space of trainings is searched."""

    samples: int = 1
    """Times that grids are gone through; for spaces without grids, the number of trials."""
    concurrent: int = 0
    """Trials at a time; 0: as many as the cluster's processors and GPUs hold."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: after a validation go on only with the best of those that came as far. none: train every trial to its end."""
    grace: int = 1
    """ASHA: validations that every trial gets."""
    reduction: int = 2
    """ASHA: one of so many goes on at each level; levels are grace, grace * reduction, ... validations."""
    searcher: Literal["random", "optuna"] = "random"
    """random: grids in their order and independent draws. optuna: draws where it went well (extra `optuna`)."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.concurrent < 0 or self.grace < 1 or self.reduction < 2:
            raise UserError(
                f"sweep.samples, concurrent, grace, reduction: {self.samples}, {self.concurrent}, {self.grace}, "
                f"{self.reduction}; at least 1, 0, 1 and 2"
            )


@dataclass(kw_only=True)
class WritersConfig:
    """The actors that write designs."""

    actors: int = 1
    """How many; each holds the model."""
    cpus: float = 1.0
    """Processors of each."""
    gpus: float = 0.0
    """GPUs of each, fractions allowed; 0: processors only."""

    def __post_init__(self) -> None:
        if self.actors < 1 or self.cpus < 0 or self.gpus < 0:
            raise UserError(
                f"writers: {self.actors} actors, {self.cpus} CPUs, {self.gpus} GPUs; write at least 1 actor"
            )


@dataclass(kw_only=True)
class AdMakingConfig:
    """Who writes, renders and judges ads on Ray, and how much at a time."""

    writers: WritersConfig = field(default_factory=WritersConfig)
    """The actors that write."""
    services: ServicesConfig = field(default_factory=ServicesConfig)
    """Who renders and who judges: the reward."""
    loop: PairLoopConfig = field(default_factory=PairLoopConfig)
    """How much at a time."""
