"""Who asks the service, in a process of its own: so many requests a second at fixed times, whatever the answers do.

    python tests/cluster/service_load.py < plan.json > answers.jsonl      # as `service_harness.py` starts it

Times count from when a request was due, so that a generator that falls behind cannot hide a slow answer.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import aiohttp

from countryreward.client import AsyncClient, BadAnswer, Unavailable
from countryreward.errors import UserError
from countryreward.scoring.contracts import Product, ScoreRequest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to ask, and how."""

    url: str
    key: str
    rate: float
    """Requests a second."""
    seconds: float
    """For so long."""
    retries: bool
    """Through our client with its retries; False: plain HTTP, each request once."""
    closed: int = 0
    """Ask so many at a time, one after another, instead of at fixed times; 0: at fixed times."""
    pairs: tuple[tuple[str, str, str], ...]
    """(title, file of image A, file of image B), asked in turns."""
    market: str
    timeout_s: float = 30.0
    """Our client's, for one attempt."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a request ended."""

    due: float
    """When it was to be sent, seconds from the start."""
    seconds: float
    """From then to the end of the answer."""
    sent: float
    """Seconds from when it was due until it was sent."""
    kind: str
    """ok, or the status or error it ended with."""
    retry_after: str | None = None
    version: str | None = None
    """The model's, of the verdict."""


Call = Callable[[int], Awaitable[tuple[str, str | None, str | None]]]


async def main(plan: Plan) -> list[Answer]:
    files = {name: open(name, "rb").read() for _, *images in plan.pairs for name in images}  # noqa: SIM115
    if plan.retries:
        async with AsyncClient(plan.url, plan.key, parallel=256, timeout_s=plan.timeout_s) as client:
            return await _all(plan, _through_client(plan, files, client))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await _all(plan, _plainly(plan, files, session))


async def _all(plan: Plan, ask: Call) -> list[Answer]:
    await ask(0)  # connections, imports and the first answer are not what is measured
    print("started", file=sys.stderr, flush=True)
    start = time.perf_counter()
    answers: list[Answer] = []

    async def one(number: int, due: float) -> None:
        sent = time.perf_counter() - start
        kind, retry_after, version = await ask(number)
        answers.append(
            Answer(
                due=due,
                seconds=time.perf_counter() - start - due,
                sent=sent - due,
                kind=kind,
                retry_after=retry_after,
                version=version,
            )
        )

    async def chain(first: int) -> None:
        number = first
        while (now := time.perf_counter() - start) < plan.seconds:
            await one(number, now)
            number += plan.closed

    if plan.closed:
        await asyncio.gather(*map(chain, range(plan.closed)))
        return answers
    tasks = []
    for number in range(round(plan.rate * plan.seconds)):
        due = number / plan.rate
        if (early := due - (time.perf_counter() - start)) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return answers


def _through_client(plan: Plan, files: dict[str, bytes], client: AsyncClient) -> Call:
    async def ask(number: int) -> tuple[str, str | None, str | None]:
        title, a, b = plan.pairs[number % len(plan.pairs)]
        request = ScoreRequest.of_images(Product(title=title), (files[a], files[b]), markets=(plan.market,))
        try:
            (verdict,) = await client.score(request)
        except (BadAnswer, Unavailable, UserError) as error:
            return f"{type(error).__name__}: {error}"[:300], None, None
        return "ok", None, verdict.model_version

    return ask


def _plainly(plan: Plan, files: dict[str, bytes], session: aiohttp.ClientSession) -> Call:
    async def ask(number: int) -> tuple[str, str | None, str | None]:
        title, a, b = plan.pairs[number % len(plan.pairs)]
        form = aiohttp.FormData({"title": title, "markets": plan.market})
        form.add_field("image_a", files[a], filename="a.png")
        form.add_field("image_b", files[b], filename="b.png")
        try:
            async with session.post(
                f"{plan.url}/v1/score", data=form, headers={"Authorization": f"Bearer {plan.key}"}
            ) as response:
                if response.status == 200:
                    told = await response.json()
                    return "ok", None, told["verdicts"][0]["model_version"]
                await response.read()
                return str(response.status), response.headers.get("Retry-After"), None
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__, None, None

    return ask


if __name__ == "__main__":
    for answer in asyncio.run(main(Plan(**json.load(sys.stdin)))):
        print(json.dumps(asdict(answer)))
