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
    calls: int = 0
    """End after so many calls, all sent at once; 0: after `seconds`."""
    start: int = 0
    """First number of a fresh image."""


@dataclass(kw_only=True)
class Measured:
    """What came back within the counted time."""

    calls: int = 0
    verdicts: int = 0
    seconds: float = 0.0
    failed: int = 0
    """Answers other than 200, and connections that broke; also those outside the counted time."""
    first_failure: str = ""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of the counted calls."""
    processor_s: float = 0.0
    """This process's own processor time."""


async def send(load: Load) -> Measured:
    """Send it all."""
    pairs = load_pairs(Path(load.export), 200 if load.fresh else 50)
    calls = questions(pairs, load.markets, load.per_call, fresh=load.fresh, start=load.start)
    measured = Measured()
    headers = {"Authorization": f"Bearer {load.key}", "Content-Type": CONTENT_TYPE}
    settle = 0.0 if load.calls else load.settle
    connector = aiohttp.TCPConnector(limit=load.connections if not load.rate else 0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        begun = time.perf_counter() + settle
        end = begun + load.seconds

        async def one(due: float | None = None) -> None:
            pair, images, markets = next(calls)
            body = pair.body(images, markets)
            left = time.perf_counter() if due is None else due
            try:
                async with session.post(load.url, data=body) as response:
                    answer, status = await response.read(), response.status
            except (aiohttp.ClientError, OSError) as error:
                answer, status = repr(error).encode(), 0
            now = time.perf_counter()
            if status != 200 or shown(answer) != load.per_call:
                measured.failed += 1
                measured.first_failure = measured.first_failure or f"{status} {answer[:300]!r}"
            elif load.calls or (left >= begun if load.rate else begun <= now <= end):
                measured.calls += 1
                measured.verdicts += load.per_call
                measured.latencies.append(now - left)

        async def again() -> None:
            while time.perf_counter() < end:
                await one()

        started = time.process_time()
        if load.calls:
            await asyncio.gather(*(one() for _ in range(load.calls)))
            measured.seconds = time.perf_counter() - begun
        elif load.rate:
            due, tasks = time.perf_counter(), []
            while due < end:
                await asyncio.sleep(due - time.perf_counter())
                tasks.append(asyncio.create_task(one(due)))
                due += 1 / load.rate
            await asyncio.gather(*tasks)
            measured.seconds = load.seconds
        else:
            await asyncio.gather(*(again() for _ in range(load.connections)))
            measured.seconds = load.seconds
        measured.processor_s = time.process_time() - started
    return measured


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(send(Load(**json.load(sys.stdin)))))))
