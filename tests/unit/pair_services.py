"""The reward and the generator over HTTP with literal models, in threads of this process; and a way to them that can be cut."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from countryreward.serving.durable_jobs.generation.generation_routes import create_generator_app
from countryreward.serving.durable_jobs.generation.generation_runner import GenerationJobs
from countryreward.serving.http.apps import create_app
from countryreward.serving.http.keys import FILE, KeyStore
from countryreward.serving.http.rates import Rates
from countryreward.serving.service_config import ServiceConfig
from tests.unit.in_threads import ThreadedScorer
from tests.unit.literal_renderer import LiteralRenderer
from tests.unit.literal_writer import LiteralScorer

MARKETS = ("BR", "KR")


@dataclass
class Services:
    """Both, each on a port of its own."""

    reward: int
    generator: int
    key: str
    renderer: LiteralRenderer

    @property
    def urls(self) -> tuple[str, str]:
        return f"http://127.0.0.1:{self.reward}", f"http://127.0.0.1:{self.generator}"


@contextlib.contextmanager
def services(folder: Path, *, pause_s: float = 0.0, px: int = 32) -> Iterator[Services]:
    """pause_s: of an ad, and of a verdict."""
    config = ServiceConfig(state=str(folder / "state"), poll_s=0.05, max_generations=32)
    keys = KeyStore(folder / "state" / FILE, 1.0)
    key = keys.create("tests", ("score", "generate"), "10000000/minute")
    rates = Rates("memory://")
    renderer = LiteralRenderer(px=px, pause_s=pause_s)
    asked = ThreadedScorer(LiteralScorer(pause_s=pause_s), MARKETS, {"model": "judge-1", "knowledge_base": "kb-1"})
    reward = create_app(asked, config, keys=keys, rates=rates)
    generator = create_generator_app(GenerationJobs(renderer, config), config, keys=keys, rates=rates)
    with _served(reward) as first, _served(generator) as second:
        yield Services(first, second, key, renderer)


@contextlib.contextmanager
def _served(app: Any) -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@dataclass
class Wire:
    """A TCP proxy on loopback, in a thread. `cut` closes what is open and refuses what comes; `hold` lets nothing through and
    says nothing; `mend` ends both."""

    to: int
    port: int = 0
    state: str = "whole"
    cuts: int = 0
    """Connections that were broken."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: Any = None
    _stop: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        self.state = "cut"
        self._loop.call_soon_threadsafe(self._break)

    def hold(self) -> None:
        self.state = "held"

    def mend(self) -> None:
        if self.state == "held":  # what was held is lost, as after a partition
            self._loop.call_soon_threadsafe(self._break)
        self.state = "whole"

    def _break(self) -> None:
        self.cuts += len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()

    @contextlib.contextmanager
    def running(self) -> Iterator["Wire"]:
        started = threading.Event()

        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await self._stop.wait()
            server.close()
            self._break()
            await asyncio.sleep(0.1)  # connections end before their loop does

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.state == "cut":
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            for one in (writer, back):
                self._writers.discard(one)
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                while self.state == "held" and not writer.is_closing():
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
            if not writer.is_closing():
                writer.write_eof()
