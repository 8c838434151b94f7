"""The studio as its users meet it, in this process: under its prefix, over the demo's model, with those who work jobs off."""

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from countryreward.generation.generation_config import RendererConfig
from countryreward.generation.renderers import renderer_of
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.durable_jobs.batch.batch_store import JobStore
from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs
from countryreward.serving.durable_jobs.generation.generation_store import GenerationStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.inference.served_scorer import ServedScorer
from countryreward.serving.service_config import ServiceConfig
from countryreward.serving.studio.guests import FILE, GuestStore
from countryreward.serving.studio.sample import Campaign
from countryreward.serving.studio.studio_app import create_studio_app
from tests.unit.literal_designs import LiteralWriter


@dataclass
class Studio:
    """Where it is, and who may come in."""

    url: str
    guests: GuestStore
    state: Path

    def link(self, name: str = "Ana", tenant: str = "shop") -> str:
        """An invitation."""
        return f"{self.url}/studio/#invite={self.guests.invite(tenant, name)}"


@contextlib.contextmanager
def studio(asked: ServedScorer, sample: Campaign, state: Path, port: int = 0) -> Iterator[Studio]:
    """Serve until the end of the block."""
    config = ServiceConfig(state=str(state), poll_s=0.2)
    guests = GuestStore(state / FILE, config.poll_s)
    app = create_studio_app(
        asked,
        config,
        sessions=guests,
        batch_store=JobStore(config),
        sample=sample,
        rates=Rates("memory://"),
        generations=GenerationStore(config),
    )
    workers = (
        BatchJobs(asked, config),
        GenerationJobs(renderer_of(RendererConfig(kind="drawer")), config, writer=LiteralWriter(), scorer=asked),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for jobs in workers:
            await jobs.start()
        async with app.router.lifespan_context(app):
            yield
        for jobs in workers:
            await jobs.stop()

    outer = FastAPI(lifespan=lifespan, openapi_url=None)
    outer.mount("/studio", app)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(outer, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    try:
        yield Studio(f"http://127.0.0.1:{port}", guests, state)
    finally:
        server.should_exit = True
        thread.join(10)
