"""The load generator of benchmarks/serving.py: a process of its own that reads a JSON `Load` and writes a JSON `Measured`.

Closed: so many connections, each asking anew as soon as it is answered. Open: calls leave at a fixed rate whether or not the
earlier ones were answered, and a call's time counts from when it should have left.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
from serving_questions import CONTENT_TYPE, load_pairs, questions, shown


@dataclass(kw_only=True)
class Load:
    """What to send."""

    url: str
    key: str
    export: str
    markets: list[str]
    per_call: int = 1
    """Markets of one call."""
    fresh: bool = True
    """Images nobody has seen; else those of 50 products, again and again."""
    seconds: float = 5.0
    settle: float = 1.0
    """Seconds before anything counts."""
    connections: int = 64
    rate: float = 0.0
    """Calls per second, open loop; 0: closed loop."""
    split: bool = False
    """Ask every market of a call in a call of its own, all at once; they count as one call."""
    start: int = 0
    """First number of a fresh image."""


@dataclass(kw_only=True)
class Measured:
    """What came back within the counted time; where nothing did (so slow a machine), all of it over the whole time."""

    calls: int = 0
    verdicts: int = 0
    seconds: float = 0.0
    all_calls: int = 0
    """With those outside the counted time."""
    failed: int = 0
    """Answers other than 200, and connections that broke, at any time."""
    first_failure: str = ""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of the counted calls."""


async def send(load: Load) -> Measured:
    """Send it all."""
    pairs = load_pairs(Path(load.export), 200 if load.fresh else 50)
    calls = questions(pairs, load.markets, load.per_call, fresh=load.fresh, start=load.start)
    measured, every = Measured(seconds=load.seconds), []
    headers = {"Authorization": f"Bearer {load.key}", "Content-Type": CONTENT_TYPE}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        begun = time.perf_counter() + load.settle
        end = begun + load.seconds

        async def post(body: bytes, expected: int) -> None:
            try:
                async with session.post(load.url, data=body) as response:
                    answer, status = await response.read(), response.status
            except (aiohttp.ClientError, OSError) as error:
                answer, status = repr(error).encode(), 0
            if status != 200 or shown(answer) != expected:
                measured.failed += 1
                measured.first_failure = measured.first_failure or f"{status} {answer[:300]!r}"

        async def one(due: float | None = None) -> None:
            pair, images, markets = next(calls)
            groups = [[market] for market in markets] if load.split else [markets]
            bodies = [(pair.body(images, group), len(group)) for group in groups]
            left = time.perf_counter() if due is None else due
            await asyncio.gather(*(post(*body) for body in bodies))
            now = time.perf_counter()
            measured.all_calls += 1
            every.append(now - left)
            if left >= begun if load.rate else begun <= now <= end:
                measured.calls += 1
                measured.verdicts += load.per_call
                measured.latencies.append(now - left)

        async def again() -> None:
            while time.perf_counter() < end:
                await one()

        if load.rate:
            due, tasks = time.perf_counter(), []
            while due < end:
                await asyncio.sleep(due - time.perf_counter())
                tasks.append(asyncio.create_task(one(due)))
                due += 1 / load.rate
            await asyncio.gather(*tasks)
        else:
            await asyncio.gather(*(again() for _ in range(load.connections)))
        if not measured.calls:
            measured.seconds = time.perf_counter() - begun + load.settle
            measured.calls, measured.latencies = measured.all_calls, every
            measured.verdicts = measured.calls * load.per_call
    return measured


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(send(Load(**json.load(sys.stdin)))))))
