"""What does HTTP cost: the service against the model in process, against LitServe, against FastAPI without batching.

    python benchmarks/serving.py --run=runs/demo          # about 6 minutes
    python benchmarks/serving.py --quick=true             # that it runs at all; its figures mean nothing

Everything shares the machine's cores: servers, load generator, and while one is measured the others idle. Whatever is compared
takes turns in one run (A/B/A/B); printed are the ratio of each round's pair, their median and range. A pair is one verdict;
pairs/s count only 200s; any other answer ends the run. Fresh images are new to every cache; repeating ones are those of 50
products. All use `threads` processor threads in total.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not spin on the cores that others need

from serving_processes import Servers, idle_share
from serving_questions import load_pairs, questions, service_key
from serving_servers import BATCH

from countryreward.command import run


@dataclass(kw_only=True)
class Config:
    """Measure the service."""

    run: str = "runs/demo"
    """A run folder with export and model."""
    rounds: int = 3
    """Rounds of each comparison."""
    seconds: float = 3.0
    """Length of one measurement; a little more before it does not count."""
    threads: int = 2
    """Processor threads of the model, in all."""
    replicas: int = 2
    """Replicas of the service."""
    connections: int = 64
    """Callers at saturation."""
    emulated_ms: float = 20.0
    """Time of a batch of the emulated model."""
    port: int = 18_000
    """First of a few ports on 127.0.0.1."""
    quick: bool = False
    """As short as possible."""


def main(config: Config) -> None:
    from countryreward.machine import describe_machine

    if config.quick:
        config.rounds, config.seconds, config.connections = 1, 1.0, 8
    started = time.perf_counter()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model, place = f"{config.run}/model", Path(folder)
        bench = Bench(config, place)
        with Servers(model, config.threads, config.port, place) as servers:
            report |= bench.real_model(servers)
        with Servers(model, config.threads, config.port + 10, place, config.emulated_ms) as servers:
            report |= bench.emulated_model(servers)
    report["minutes"] = round((time.perf_counter() - started) / 60, 1)
    report["threads"], report["replicas"] = config.threads, config.replicas
    report["shared"] = "servers, load generator and in-process model all run on these cores"
    print(json.dumps(report | {"machine": describe_machine()}, indent=1))


class Bench:
    """The comparisons."""

    def __init__(self, config: Config, folder: Path) -> None:
        from countryreward.scoring.model_folder import ModelFolder

        self.config, self.folder = config, folder
        self.markets = list(ModelFolder.open(f"{config.run}/model").trained_markets)[:10]
        self.started = 0
        self.judge: Any = None

    def ask(self, url: str, **load: Any) -> dict[str, Any]:
        """One run of the load generator."""
        self.started += 10**6  # of fresh images' numbers
        spec = {
            "url": f"{url}/v1/score",
            "key": service_key(self.folder / "state"),
            "export": f"{self.config.run}/export",
            "markets": self.markets,
            "seconds": self.config.seconds,
            "settle": min(1.0, self.config.seconds / 2),
            "connections": self.config.connections,
            "start": self.started,
        }
        program = [sys.executable, str(Path(__file__).with_name("serving_load.py"))]
        done = subprocess.run(program, input=json.dumps(spec | load), stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout)
        if measured["failed"]:
            raise SystemExit(f"{url}: {measured['failed']} calls failed: {measured['first_failure']}")
        return measured | {"rate": measured["verdicts"] / measured["seconds"]}

    def saturated(self, url: str, per_call: int = 1, fresh: bool = True) -> float:
        """Pairs per second with as many pairs under way, or twice as many where a call holds several."""
        connections = self.config.connections if per_call == 1 else max(2, 2 * self.config.connections // per_call)
        return self.ask(url, per_call=per_call, fresh=fresh, connections=connections)["rate"]

    def in_process(self, per_call: int, fresh: bool) -> float:
        """Pairs per second of 64 pairs as ScoreRequests (whole calls), decoding, encoding and retrieval included."""
        from countryreward.scoring.contracts import Product, ScoreRequest

        if self.judge is None:
            import torch

            from countryreward.scoring.country_reward import CountryReward

            torch.set_num_threads(self.config.threads)
            self.judge = CountryReward.from_pretrained(f"{self.config.run}/model")
        self.started += 10**6
        pairs = load_pairs(Path(self.config.run) / "export", 200 if fresh else 50)
        calls = questions(pairs, self.markets, per_call, fresh=fresh, start=self.started)
        count, spent = 0, 0.0
        while spent < self.config.seconds:
            batch = [
                ScoreRequest.of_images(
                    Product(title=pair.title, category=pair.category), (a, b), markets=tuple(asked), evidence=5
                )
                for pair, (a, b), asked in islice(calls, max(1, BATCH // per_call))
            ]
            begun = time.perf_counter()
            answers = self.judge.score(batch)
            spent += time.perf_counter() - begun
            count += sum(map(len, answers))
        return count / spent

    def real_model(self, servers: Servers) -> dict[str, Any]:
        """The run's model: saturation, latency, markets together, both baselines."""
        config = self.config
        ours = servers.start("ours", config.replicas)
        self.ask(ours, fresh=False)  # warm up
        report: dict[str, Any] = {"idle_processor_share_of_the_service": idle_share(servers.processes[0])}
        one: list[float] = []
        for name, per_call, fresh in (
            ("one market", 1, True),
            ("all markets", len(self.markets), True),
            ("repeating images", 1, False),
        ):
            rates = self.side_by_side(
                f"HTTP / in process, {name}",
                report,
                partial(self.saturated, ours, per_call, fresh),
                partial(self.in_process, per_call, fresh),
            )
            one = one or rates
        report |= self.latency(ours, statistics.median(one))
        report |= self.together(ours, 1) | self.together(ours, 6)
        self.baselines(servers, ours, report, "")
        return report

    def emulated_model(self, servers: Servers) -> dict[str, Any]:
        """The same servers around a sleep."""
        ours = servers.start("ours", self.config.replicas)
        self.ask(ours)  # warm up
        report: dict[str, Any] = {}
        self.baselines(servers, ours, report, f", model of {self.config.emulated_ms:g} ms a batch")
        return report

    def baselines(self, servers: Servers, ours: str, report: dict[str, Any], note: str) -> None:
        """Ours over each. LitServe with 1 and with 2 workers: the smaller ratio is the answer."""
        ratios: list[float] = []
        twice = not note and not self.config.quick  # two workers that sleep are two models
        others = [("litserve", 1), *([("litserve", 2)] if twice else []), ("unbatched", 1)]
        if self.config.quick:  # each of them once
            others = others[:1] if note else others[1:]
        for name, workers in others:
            url = servers.start(name, workers)
            self.ask(url, fresh=False)  # warm up
            title = f"ours / {name}{f' ({workers} workers)' if name == 'litserve' else ''}{note}"
            self.side_by_side(title, report, partial(self.saturated, ours), partial(self.saturated, url))
            servers.stop()
            if name == "litserve":
                ratios.append(report[title]["ratio_median"])
        if ratios:
            report[f"ours / litserve at its better{note}"] = min(ratios)

    def side_by_side(
        self, title: str, report: dict[str, Any], a: Callable[[], float], b: Callable[[], float]
    ) -> list[float]:
        """A/B/A/B...; the rates of A."""
        rounds = [(a(), b()) for _ in range(self.config.rounds)]
        ratios = [x / y for x, y in rounds]
        for x, y in rounds:
            print(f"{title}: {x:7.1f} / {y:7.1f} pairs/s = {x / y:.2f}")
        report[title] = {
            "ratio_median": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "pairs_per_second": [round(statistics.median(side), 1) for side in zip(*rounds, strict=True)],
        }
        return [x for x, _ in rounds]

    def latency(self, url: str, saturation: float) -> dict[str, Any]:
        """p99 at half of the saturation's rate over the time of a call that is alone."""
        alone = statistics.median(self.ask(url, connections=1)["latencies"])
        half = sorted(self.ask(url, rate=saturation / 2, seconds=4 * self.config.seconds)["latencies"])
        p99 = half[min(len(half) - 1, int(0.99 * len(half)))]
        print(f"alone {alone * 1e3:.1f} ms, at {saturation / 2:.1f} calls/s p99 {p99 * 1e3:.1f} ms: {p99 / alone:.2f}")
        told = {
            "alone_ms": alone * 1e3,
            "half_load_p50_ms": statistics.median(half) * 1e3,
            "half_load_p99_ms": p99 * 1e3,
        }
        rounded = {name: round(value, 1) for name, value in told.items()}
        return {"p99 at half load / alone": rounded | {"calls": len(half), "ratio": round(p99 / alone, 2)}}

    def together(self, url: str, askers: int) -> dict[str, Any]:
        """Ten markets in one call against ten calls at once, one market each, about the same images; encodes counted.

        With one asker it is the time of a call on an idle service, where a single call has one replica to itself and ten calls
        have all; with six the service is busy.
        """
        times: list[tuple[float, float]] = []
        encodes: list[tuple[float, float]] = []
        for _ in range(self.config.rounds):
            took, encoded = [], []
            for split in (False, True):
                before = self.encoded(url)
                measured = self.ask(url, per_call=len(self.markets), split=split, connections=askers)
                encoded.append((self.encoded(url) - before) / measured["all_calls"])
                took.append(statistics.median(measured["latencies"]))
            times.append((took[0], took[1]))
            encodes.append((encoded[0], encoded[1]))
        ratios = [split / whole for whole, split in times]
        title = f"a call per market / one call, {askers} askers"
        for (whole, split), of_images in zip(times, encodes, strict=True):
            print(
                f"{title}: {split * 1e3:.0f} / {whole * 1e3:.0f} ms = {split / whole:.2f}, images encoded {of_images}"
            )
        return {
            title: {
                "time_ratio_median": round(statistics.median(ratios), 2),
                "time_ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
                "images_encoded_for_one_call": round(statistics.mean(one for one, _ in encodes), 3),
                "images_encoded_for_a_call_per_market": round(statistics.mean(ten for _, ten in encodes), 3),
            }
        }

    def encoded(self, url: str) -> float:
        """Images through the tower of all replicas since they started."""
        import urllib.request

        key = service_key(self.folder / "state")
        request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("countryreward_images_encoded_total"))


if __name__ == "__main__":
    run(Config, main)
