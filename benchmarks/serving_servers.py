"""The servers that benchmarks/serving.py compares, each started as a process: ours, LitServe, FastAPI without batching.

All answer /v1/score with the same form, the same model and the same five positions of evidence. Emulated, the model is a sleep
of so many milliseconds for a batch of at most 64.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("ours", "litserve", "unbatched"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1, help="replicas of ours, workers of LitServe")
    parser.add_argument("--threads", type=int, default=2, help="processor threads of all together")
    parser.add_argument("--state", default="", help="ours: state folder")
    parser.add_argument("--fast-queue", action="store_true", help="LitServe: ZeroMQ between its processes")
    parser.add_argument("--emulated-ms", type=float, default=0.0)
    options = parser.parse_args()
    if options.kind == "litserve":
        from serving_litserve import serve
    else:
        serve = ours if options.kind == "ours" else unbatched
    serve(options)


def ours(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
    import serve
    from countryreward.on_ray.ray_config import RayConfig
    from countryreward.serving.service_config import ServiceConfig

    config = serve.Config(
        model=options.model,
        port=options.port,
        replicas=options.workers,
        max_replicas=options.workers,
        cpus_per_replica=options.threads / options.workers,
        generators=0,
        studio=False,
        # nothing is refused: saturation is what is measured
        service=ServiceConfig(state=options.state, max_wait_s=60.0, max_wait_passes=1e3),
        ray=RayConfig(cpus=options.threads),
    )
    load: Any = partial(Emulated, seconds=options.emulated_ms / 1e3) if options.emulated_ms else None
    serve.main(config, load)


MARKETS = ("AU", "BR", "CL", "ES", "FR", "JP", "KR", "MX", "SA", "US")


class Emulated:
    """A InferenceEngine of ours that sleeps: the service around it is the real one, its batching too."""

    def __init__(self, published: Any, config: Any, device: str, watching: Any, seconds: float) -> None:
        from countryreward.serving.inference.batching import TokenBatcher

        self.markets, self.seconds = MARKETS, seconds
        self.batcher = TokenBatcher(self.run, BATCH)
        self.batcher.seen = watching.forward_pass

    def run(self, items: list[Any]) -> list[float]:
        time.sleep(self.seconds)
        return [0.0] * len(items)

    async def about(self) -> dict[str, Any]:
        return {"model": None, "knowledge_base": None}

    def ready(self) -> bool:
        return True

    def busy(self, tenant: str = "") -> float | None:
        return None

    async def score(self, request: Any, /) -> list[Any]:
        verdicts = [_no_opinion(market) for market, _, _ in request.questions()]
        await self.batcher.ask([(verdict, 1) for verdict in verdicts], tenant=request.tenant)
        return verdicts

    async def close(self) -> None:
        await self.batcher.close()


class Model:
    """What both baselines ask: ScoreRequests in, verdicts out, one batch after the other."""

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        self.seconds = options.emulated_ms / 1e3
        if self.seconds:
            return
        import torch

        from countryreward.scoring.country_reward import CountryReward

        torch.set_num_threads(threads)
        self.judge = CountryReward.from_pretrained(options.model)

    def score(self, requests: Sequence[Any]) -> list[list[Any]]:
        if self.seconds:
            time.sleep(self.seconds)
            return [[_no_opinion(market) for market in request.markets] for request in requests]
        return self.judge.score(requests)


def _no_opinion(market: str) -> Any:
    from countryreward.scoring.contracts import Verdict

    return Verdict(
        market=market,
        probability=0.5,
        calibrated_probability=0.5,
        choice=None,
        log_odds=0.0,
        evidence=(),
        past_ads=0,
        model_version=None,
        knowledge_base_version=None,
    )


def asked(form: Any, images: tuple[bytes, bytes]) -> Any:
    """A form as a ScoreRequest."""
    from countryreward.scoring.contracts import Product, ScoreRequest

    product = Product(title=form["title"], category=form["category"])
    return ScoreRequest.of_images(product, images, markets=tuple(form.getlist("markets")), evidence=5)


def unbatched(options: argparse.Namespace) -> None:
    import uvicorn
    from fastapi import FastAPI, Request

    model, app = Model(options, options.threads), FastAPI()
    one = ThreadPoolExecutor(1)  # a lock around many threads would give each its own pool of OpenMP threads

    def answer(request: Any) -> list[dict[str, Any]]:
        return [verdict.as_dict() for verdict in model.score([request])[0]]

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/v1/score")
    async def score(request: Request) -> dict[str, Any]:
        form = await request.form()
        images = (await form["image_a"].read(), await form["image_b"].read())  # type: ignore
        return {"verdicts": await asyncio.get_running_loop().run_in_executor(one, answer, asked(form, images))}

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
