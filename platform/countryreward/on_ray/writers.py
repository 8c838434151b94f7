"""Design writers in Ray actors: one in each; an actor that dies is started again by Ray."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from countryreward.errors import UserError
from countryreward.generation.ad_contracts import AdTask, DesignWriter
from countryreward.generation.ad_maker import DesignedTask, design_tasks
from countryreward.generation.outcomes import Outcome
from countryreward.on_ray.ray_config import AdMakingConfig, WritersConfig
from countryreward.on_ray.retry import call_with_retries

if TYPE_CHECKING:
    from countryreward.on_ray.deployments.service_pool import ServicePool

RESTART_S = 600.0
"""How long a writer that died may take until it answers again."""
_AHEAD = 2  # calls an actor may have, so that it finds the next one when it is done with one


class _WriterActor:
    """One writer."""

    def __init__(self, make: Callable[[], DesignWriter]) -> None:
        self.writer = make()

    def version(self) -> str:
        return self.writer.version

    def design_tasks(self, tasks: list[AdTask], designs: int) -> list[DesignedTask | Outcome]:
        return design_tasks(self.writer, tasks, designs)


class WriterActors:
    """An `AsyncWriter`: so many actors, each with what `make` makes there.

    make: can be pickled; it is called again when an actor was killed. Calls raise what Ray raises for one that dies meanwhile.
    Until it has answered again it is asked nothing, so that no task is blamed for its absence. Use it in a `with` block: the
    actors end with it.
    """

    def __init__(
        self, make: Callable[[], DesignWriter], *, actors: int = 1, cpus: float = 1.0, gpus: float = 0.0
    ) -> None:
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": 0}
        remote: Any = ray.remote(**options)(_WriterActor)
        self.actors = [remote.remote(make) for _ in range(actors)]
        self.in_flight = actors * _AHEAD
        self._load = [0] * actors
        self._absent: dict[int, asyncio.Task[str]] = {}

    def __enter__(self) -> "WriterActors":
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self.actors:
            ray.kill(actor)

    async def version(self) -> str:
        """Of the first one; it waits until that is there. Raises `UserError` with the last line of what `make` raised."""
        return await _answer(self.actors[0].version.remote())

    async def design_tasks(self, tasks: Sequence[AdTask], designs: int) -> list[DesignedTask | Outcome]:
        """By the actor with the fewest calls, of those that are there. Raises `ConnectionError` while none is."""
        self._forget_returned()
        present = [number for number in range(len(self.actors)) if number not in self._absent]
        if not present:
            raise ConnectionError("no writer is there; they are being started again")
        number = min(present, key=self._load.__getitem__)
        self._load[number] += 1
        try:
            return await _answer(self.actors[number].design_tasks.remote(list(tasks), designs))
        except RayActorError:
            if number not in self._absent:
                self._absent[number] = asyncio.create_task(self._until_back(number))
            raise
        finally:
            self._load[number] -= 1

    async def _until_back(self, number: int) -> str:
        actor = self.actors[number]
        return await call_with_retries(lambda: _answer(actor.version.remote()), "writer", RESTART_S)

    def _forget_returned(self) -> None:
        """Raises `UserError` for one that cannot be opened any more."""
        for number, returned in list(self._absent.items()):
            if returned.done():
                del self._absent[number]
                if not returned.cancelled():
                    returned.result()


@contextlib.asynccontextmanager
async def ad_makers(
    making: AdMakingConfig, make_writer: Callable[[], DesignWriter], state: Path, **makers: Any
) -> AsyncIterator[tuple[WriterActors, "ServicePool"]]:
    """The writers and the services of a job, for the length of a block.

    make_writer: can be pickled. state: folder for what replicas of the services write down. makers: as of `ServicePool`.
    """
    from countryreward.on_ray.deployments.service_pool import ServicePool

    actors = making.writers
    async with ServicePool(making.services, state, **makers) as services:
        with WriterActors(make_writer, actors=actors.actors, cpus=actors.cpus, gpus=actors.gpus) as writer:
            yield writer, services


def writer_opener(folder: str, writers: WritersConfig) -> Callable[[], DesignWriter]:
    """Opens a published writer in an actor. The folder is that of today, also where a newer one is published meanwhile."""
    return partial(open_writer, str(Path(folder).resolve()), "cuda" if writers.gpus else "cpu")


def open_writer(folder: str, device: str) -> DesignWriter:
    """A published writer, opened where it writes: in an actor. device: cpu or cuda."""
    from countryreward.generation.model_writer import ModelWriter

    return ModelWriter.open(folder, device=device)


def measure_log_probs(
    folder: Path, rows: Sequence[dict[str, Any]], dataset: Path, writers: dict[str, str], *, gpus: float = 0.0
) -> None:
    """log_probs.parquet in `folder` (generation/model_writer.py), computed on a node that has what it takes.

    rows: of CASES. dataset: its folder. writers: folders of the `writer` and of the `reference`. gpus: that it needs.
    """
    folders = {name: str(Path(place).absolute()) for name, place in writers.items()}
    ray.get(ray.remote(num_cpus=0, num_gpus=gpus)(_log_probs).remote(folder, list(rows), dataset, folders, gpus > 0))


def _log_probs(folder: Path, rows: list[dict[str, Any]], dataset: Path, writers: dict[str, str], cuda: bool) -> None:
    from countryreward.data.dataset import Dataset
    from countryreward.data.decoding import decode, pixels_of
    from countryreward.data.images import ImageTable
    from countryreward.generation.ad_maker import MAX_BYTES, MAX_PIXELS
    from countryreward.generation.ad_tasks import product_of
    from countryreward.generation.model_writer import write_log_probs

    wanted = {row["product_id"] for row in rows}
    table: list[dict[str, Any]] = Dataset.read(dataset).products.to_dict("records")  # pyright: ignore[reportAssignmentType]
    products = {row["product_id"]: product_of(row) for row in table if row["product_id"] in wanted}
    images = ImageTable(dataset)
    pictures = {
        name: pixels_of(decode(images.bytes_of(name), max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS))
        for name in {row["image_hash"] for row in rows}
    }
    write_log_probs(folder, rows, products, pictures, **writers, device="cuda" if cuda else "cpu")


async def _answer(reference: Any) -> Any:
    try:
        return await asyncio.wrap_future(reference.future())
    except RayActorError as error:
        if error.actor_init_failed:  # it is not started again
            raise UserError(f"writer: it cannot be opened: {str(error).strip().splitlines()[-1]}") from error
        raise
