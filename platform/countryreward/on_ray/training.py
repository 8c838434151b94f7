"""A training as a Ray Train job, of a reward model or of a design writer: one process per worker.

Workers that die are started again and go on from the newest checkpoint; so does the next command of the same run when this
process dies. Ctrl-C and SIGTERM make the workers write a checkpoint and end.
"""

import contextlib
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from countryreward.errors import Stopped, UserError
from countryreward.on_ray.ray_config import ElasticWorkersConfig, WorkersConfig
from countryreward.training.run_folder import RunFolder
from countryreward.training.run_identity import RunIdentity
from countryreward.training.training_config import STOP, RewardTraining, Training, WriterTraining

T = TypeVar("T")
Watch = Callable[[dict[str, Any]], None]
CUT_OFF_S = 30.0
"""A worker that cannot reach the job's process for so long ends."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What one worker of a training is given."""

    folder: Path
    """The run's, on a disk that every worker reaches."""
    device: Any
    """Its torch device."""
    identity: RunIdentity
    """What the run is made from."""
    planned: int
    """Workers that the training is planned for."""
    tell: Callable[[dict[str, Any]], None]
    """To whoever watches, in the job's process."""
    warned: Callable[[], bool] | None
    """Whether a node of the training is about to be taken away; yes once for each warning. All workers must ask together. None:
    on a Ray of this job alone, whose node nobody takes away."""


Work = Callable[[Any, Worker], None]
"""What every worker runs on the training that it is given. A function of a module."""


def train_on_ray(
    job: RewardTraining | WriterTraining,
    folder: Path,
    workers: WorkersConfig,
    identity: RunIdentity,
    *,
    watch: Watch,
) -> None:
    """Train and leave in `folder` a reward model's best/ and last/, or a design writer's last/.

    Raises what `train_workers` raises.
    """
    if isinstance(job, RewardTraining):
        train_workers(_train_reward, job, folder, workers, identity, watch=watch)
    else:
        train_workers(_train_writer, job, folder, workers, identity, watch=watch, best="last")


def _train_reward(job: RewardTraining, worker: Worker) -> None:
    from countryreward.training.reward_run import run_training

    run_training(
        job,
        worker.folder,
        device=worker.device,
        tell=worker.tell,
        identity=worker.identity,
        workers=worker.planned,
        warned=worker.warned,
    )


def _train_writer(job: WriterTraining, worker: Worker) -> None:
    from countryreward.training.writer_run import run_writer_training

    run_writer_training(job, worker.folder, device=worker.device, tell=worker.tell, identity=worker.identity)


def train_workers(
    work: Work,
    job: Training,
    folder: Path,
    workers: WorkersConfig,
    identity: RunIdentity,
    *,
    watch: Watch,
    best: str = "best",
) -> None:
    """Train, and leave what `work` leaves in `folder`, which every worker must be able to reach (a shared disk on a cluster).

    watch: gets what the first worker tells, in the caller's process. best: the folder that a finished run has. Raises `UserError`
    where a worker met a user's error, `Stopped` after a signal, once the workers have written a checkpoint.
    """
    # read by Ray Train's controller: how soon it sees that a worker died, or that all have ended
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    if "elastic_resize_monitor_interval_s" in _size(workers):
        # after a loss it first tries with as many workers as before, for so long
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if RunFolder(folder, watch).finished(identity.made_from, best=best):
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).unlink(missing_ok=True)
    # on this process's node: on another one the messages would end with it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    refusals: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if "refused" in message:
            refusals.append(message["refused"])
        else:
            watch(message)

    listener = threading.Thread(target=_watch, args=(messages, hear), daemon=True)
    listener.start()
    use_gpu = workers.gpus_per_worker > 0
    each = {"CPU": workers.cpus_per_worker} | ({"GPU": workers.gpus_per_worker} if use_gpu else {})
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "work": work,
            "job": job.with_absolute_paths(),
            "folder": str(folder.absolute()),
            "identity": identity,
            "planned": workers.workers,
            "messages": messages,
            "threads": max(1, int(workers.cpus_per_worker)),
        },
        scaling_config=ScalingConfig(use_gpu=use_gpu, resources_per_worker=each, **_size(workers)),
        run_config=RunConfig(
            # A name of its own for every start: checkpoints are ours (training/checkpoints.py), Ray has nothing to restore.
            name=f"{folder.name}-{secrets.token_hex(4)}",
            storage_path=str((folder / ".ray").absolute()),
            failure_config=FailureConfig(max_failures=workers.retries),
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
    )
    failed: TrainingFailedError | None = None
    try:
        with stopping(folder) as signals:
            in_a_thread(trainer.fit)
    except TrainingFailedError as error:
        failed = error  # a worker's own words, if it had some, are still on their way
    finally:
        messages.put(None)
        listener.join(timeout=30)
        messages.shutdown()
        shutil.rmtree(folder / ".ray", ignore_errors=True)
    if refusals:
        raise UserError(refusals[0]) from failed
    if failed:
        raise failed
    if signals and not (folder / "finished.json").exists():
        raise Stopped("the run's checkpoint is written; the same command goes on from it", signals[0])


def _size(workers: WorkersConfig) -> dict[str, Any]:
    if not isinstance(workers, ElasticWorkersConfig) or workers.min_workers in (0, workers.workers):
        return {"num_workers": workers.workers}
    return {
        "num_workers": (workers.min_workers, workers.workers),
        "elastic_resize_monitor_interval_s": workers.grow_after_s,
    }


class _Warned:
    """Ray's word that nodes of this training are to be taken away (a drain: spot instances, `ray drain-node`)."""

    def __init__(self) -> None:
        self.warned_of: set[str] = set()

    def __call__(self) -> bool:
        from ray import train

        info = train.get_preemption_info()
        nodes = set(info.preempted_node_ids) if info else set()
        new = bool(nodes - self.warned_of)
        self.warned_of |= nodes
        return new


def in_a_thread(fit: Callable[[], T]) -> T:
    """`fit` in a thread of its own: Ray takes Ctrl-C for itself in the main one, and would end the workers at once."""
    results: list[T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            results.append(fit())
        except BaseException as error:  # all of them, to be raised again in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)  # signals are handled between two waits
    if failed:
        raise failed[0]
    return results[0]


@contextlib.contextmanager
def stopping(folder: Path) -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM asks the workers to stop (its number is in the list given), the second ends all at once."""
    signals: list[int] = []

    def ask(number: int, _: Any) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        (folder / STOP).touch()
        print("stopping after this step; a checkpoint is written. Once more stops at once")

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield signals
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker(config: dict[str, Any]) -> None:
    os.environ["OMP_NUM_THREADS"] = str(config["threads"])
    import ray
    import torch
    from ray import train
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    messages, last_sent, sent = config["messages"], 0.0, None
    threading.Thread(target=_end_when_cut_off, args=(messages,), daemon=True).start()

    def tell(message: dict[str, Any]) -> None:
        nonlocal last_sent, sent
        now = time.monotonic()
        if "stage" not in message or now - last_sent > 0.5 or message["done"] == message["total"]:
            last_sent = now
            sent = messages.actor.put_nowait.remote(message)  # not waited for: all workers would wait with this one

    try:
        watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") != "0"
        worker = Worker(
            folder=Path(config["folder"]),
            device=get_device(),
            identity=config["identity"],
            planned=config["planned"],
            tell=tell,
            warned=_Warned() if watched else None,
        )
        config["work"](config["job"], worker)
    except UserError as error:
        # Told and not raised: Ray would start the workers again, to meet the same error. Leaving the group ends whoever waits.
        messages.put({"refused": str(error)})
        with contextlib.suppress(Exception):
            torch.distributed.destroy_process_group()
        return
    if sent is not None:
        ray.get(sent)  # messages arrive in their order, so all have
    train.report({"done": 1})


def _end_when_cut_off(messages: Any) -> None:
    """End this worker once its node is cut off: the others go on without it and wait for the run folder that it holds.

    It would not notice: it waits for the others in a collective operation, and its raylet waits for the network to come back.
    """
    import ray
    from ray.exceptions import RayError

    heard = time.monotonic()
    while time.monotonic() - heard < CUT_OFF_S:
        time.sleep(CUT_OFF_S / 6)
        with contextlib.suppress(RayError):  # whatever the reason is for no answer
            ray.get(messages.actor.qsize.remote(), timeout=CUT_OFF_S / 3)
            heard = time.monotonic()
    os._exit(1)


def _watch(messages: Any, watch: Callable[[dict[str, Any]], None]) -> None:
    while (message := messages.get()) is not None:
        watch(message)
