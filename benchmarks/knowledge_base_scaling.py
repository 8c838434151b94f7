"""How much faster is the knowledge base built on more nodes, and what does a fitted cost model say of 16?

    python benchmarks/knowledge_base_scaling.py                # 1, 2, 4, 8 nodes and 16 to check; 16 minutes on two cores
    python benchmarks/knowledge_base_scaling.py --quick=true   # that it runs at all; its figures mean nothing

Nodes are emulated: each is a Ray node of its own (raylet, agents, object store) on this machine, with one processor by name. The
image encoder sleeps instead of computing. All else is what `jobs/embed.py` and `jobs/build_knowledge_base.py` do: Ray Data with
one actor per node that reads, decodes and draws thumbnails, the published embeddings, one index per market in a task of its own,
the published knowledge base; all builds must have the same content. When the clock starts, the cluster is idle and on each node
one process of Ray has imported our modules: the nodes of a cluster do that all at once, here they would do it on two cores.

The cost model (`retrieval/scaling.py`) is T(n) = start + serial + work / n + per_node * n. start: until the first encoder is
ready, the texts included; measured. serial: what this process does alone. work: what the encoders share. per_node: a process more
to start for the indexes, and all nodes' real work on the same cores, which a cluster would not share. The node counts take turns,
every other round backwards. The fit never sees the count that it is checked on. Prints times, speed-up and efficiency, prediction
and measurement, the machine; writes report.json and scaling.png into --out. On a busy machine the figures mean nothing.
"""

import json
import logging
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from countryreward.command import run

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

MARKETS = ["BR", "CL", "ES", "FR", "KR", "JP", "US", "MX", "AU", "SA", "DE", "IT", "GB", "IN", "CA", "AR"]
NOTES = ("ready", "begin", "end")
PARTS = ("total", "embeddings", "knowledge_base", "first_ready", "last_ready")
PRELOAD = {
    "RAY_preload_python_modules": "countryreward.on_ray.encode_dataset,countryreward.on_ray.build_knowledge_base"
}
"""What Ray's processes import before there is work; as many wait as a node has processors."""
STORE_MIB = 80
"""Object store of a node; the least that Ray takes is 75."""


@dataclass(kw_only=True)
class Config:
    """Measure how the build of a knowledge base scales over emulated nodes."""

    images: int = 1024
    """Images to embed, four of each product."""
    image_ms: float = 80.0
    """Milliseconds an image takes the encoder."""
    image_px: int = 64
    """Width and height of the images: small, since decoding is real and on cores that all nodes share."""
    batch: int = 16
    """Images of an encoder call."""
    nodes: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Node counts to fit."""
    check: int = 16
    """Node count to predict and then to compare."""
    rounds: int = 2
    """Builds of each node count."""
    out: str = "runs/knowledge_base_scaling"
    """Folder of report.json and scaling.png."""
    quick: bool = False
    """As short as possible."""


class SleepingEncoder:
    """An image encoder as on a GPU: the processor waits. Notes when it is ready and when it is busy; imports no torch."""

    dimension = 192
    fingerprint = "sleeping/8x8/v1"

    def __init__(self, name: str, *, seconds: float, notes: str) -> None:
        self.seconds, self.notes = seconds, Path(notes) / f"{os.getpid()}.txt"
        self._note("ready")

    def encode(self, images: Sequence[Any]) -> Any:
        """See `ImageEncoder.encode`: 8 x 8 mean colours."""
        import numpy as np

        from countryreward.retrieval.encoders import unit_rows

        self._note("begin")
        time.sleep(self.seconds * len(images))
        self._note("end")
        return unit_rows(np.stack([np.asarray(image.resize((8, 8)), dtype=np.float32).ravel() for image in images]))

    def _note(self, what: str) -> None:
        with open(self.notes, "a", encoding="utf-8") as file:
            file.write(f"{what} {time.monotonic()}\n")


def main(config: Config) -> None:
    if config.quick:
        config.images, config.image_ms, config.rounds, config.nodes, config.check = 64, 20.0, 1, [1, 2, 3], 4
    short = tempfile.TemporaryDirectory(prefix="kb-", ignore_cleanup_errors=True)  # Ray's sockets allow 107 characters
    with short as place, tempfile.TemporaryDirectory() as data:
        os.environ |= {"RAY_TMPDIR": place, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        from countryreward.on_ray.ray_config import RayConfig
        from countryreward.on_ray.ray_security import private_ray

        private_ray(RayConfig())
        with redirect_stdout(sys.stderr):  # what the jobs say
            make_dataset(config, Path(data))
            builds = list(measured(config, Path(data)))
    report = evaluated(config, builds)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "scaling.png").write_bytes(plot(config, builds, report))
    print(json.dumps(report, indent=1))
    print(f"-> {out}/report.json, {out}/scaling.png", file=sys.stderr)


def make_dataset(config: Config, folder: Path) -> None:
    """A simulated marketplace, imported and labelled by our own jobs."""
    import build_records
    import import_data
    import make_marketplace
    from countryreward.data.data_config import ImagesConfig, ImportConfig, TableSource
    from countryreward.data.marketplace.marketplace_config import MarketplaceConfig

    export = f"{folder}/export"
    market = MarketplaceConfig(products=config.images // 4, image_px=config.image_px, periods=1, markets=MARKETS)
    make_marketplace.main(make_marketplace.Config(out=export, marketplace=market))
    tables = {name: TableSource(path=f"{export}/{name}.csv") for name in ("products", "creatives", "observations")}
    source = ImportConfig(**tables, images=ImagesConfig(root=f"{export}/images"))  # pyright: ignore[reportArgumentType]
    import_data.main(import_data.Config(out=f"{folder}/dataset", source=source))
    build_records.main(build_records.Config(dataset=f"{folder}/dataset", out=f"{folder}/records"))


def measured(config: Config, data: Path) -> Iterator[dict[str, Any]]:
    """The builds, each on a fresh cluster; the first, on one node, is a rehearsal of this process and is not given back."""
    sizes = [*config.nodes, config.check]
    turns = [size for n in range(config.rounds) for size in (sizes if n % 2 == 0 else sizes[::-1])]
    versions: set[str] = set()
    for number, nodes in enumerate([1, *turns]):
        with emulated(nodes):
            found = build(config if number else replace(config, image_ms=1.0), data, data / f"build-{number}", nodes)
        versions.add(found.pop("version"))
        assert len(versions) == 1, f"the content depends on the nodes: {versions}"
        if number:
            print(f"{number}/{len(turns)} {json.dumps(found)}", file=sys.stderr)
            yield found


@contextmanager
def emulated(nodes: int) -> Iterator[None]:
    """A cluster of so many nodes on loopback, idle, with processes waiting for work that have imported what they need."""
    import ray
    from ray.cluster_utils import Cluster

    from countryreward.on_ray.ray_security import on_loopback
    from countryreward.on_ray.session import quiet_data

    options: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": STORE_MIB * 2**20,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "dashboard_agent_listen_port": 0,
    }
    with on_loopback():
        os.environ |= PRELOAD
        cluster = Cluster(initialize_head=True, head_node_args={**options, "dashboard_port": free_port()})
        try:
            for _ in range(nodes - 1):
                cluster.add_node(wait=False, **options)
            cluster.wait_for_nodes(timeout=120)
            ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
            quiet_data()
            ray.data.range(1).materialize()  # starts Ray Data's helpers, on the first node
            raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
            until_idle(raylets)
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


def until_idle(raylets: list[int]) -> None:
    """Until each node has a process of Ray that has imported, and none is at work."""
    import psutil

    used, ends, commands = 0.0, time.monotonic() + 300, []
    while time.monotonic() < ends:
        time.sleep(1)
        workers = [psutil.Process(raylet).children() for raylet in raylets]
        commands = [[" ".join(each.cmdline()) for each in children] for children in workers]
        ready = all(any(command.startswith("ray::") for command in node) for node in commands)
        starting = any("default_worker.py" in command for node in commands for command in node)
        now = sum(sum(each.cpu_times()[:2]) for children in workers for each in children)
        if ready and not starting and now - used < 0.1 + 0.05 * len(raylets):
            return
        used = now
    raise TimeoutError(f"Ray's processes did not come to rest; is the machine busy? {commands}")


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def build(config: Config, data: Path, out: Path, nodes: int) -> dict[str, Any]:
    """Embeddings and knowledge base, published, on the cluster that runs; seconds of each part."""
    import build_knowledge_base
    from countryreward.data.artifacts import open_artifact, publish
    from countryreward.on_ray.encode_dataset import embed_dataset
    from countryreward.retrieval.encoders import HashedNgrams
    from countryreward.retrieval.retrieval_config import EncodersConfig

    notes = out / "notes"
    notes.mkdir(parents=True)
    load = partial(SleepingEncoder, seconds=config.image_ms / 1000, notes=str(notes))
    encoders = EncodersConfig(batch_size=config.batch)
    made_by = {"text": HashedNgrams.fingerprint, "image": SleepingEncoder.fingerprint}
    options = {"encoder_names": {"text": encoders.text, "image": "sleeping"}, "encoders": made_by}
    began = time.monotonic()
    dataset = open_artifact(data / "dataset", kind="dataset")
    with publish(out / "embeddings", kind="embeddings", inputs={"dataset": dataset}, config=options) as draft:
        draft.counts |= embed_dataset(dataset.path, draft.path, encoders, load=load)
    embedded = time.monotonic()
    at: dict[str, Any] = {"dataset": f"{data}/dataset", "records": f"{data}/records", "embeddings": f"{out}/embeddings"}
    base = build_knowledge_base.main(build_knowledge_base.Config(**at, out=f"{out}/knowledge_base"))
    ended = time.monotonic()
    images = draft.counts["images"]
    assert images["kept"] == images["input"], images
    noted = [[line.split() for line in path.read_text().splitlines()] for path in notes.iterdir()]
    moments = {what: [float(at) for lines in noted for name, at in lines if name == what] for what in NOTES}
    busy = sum(moments["end"]) - sum(moments["begin"])
    return {
        "nodes": nodes,
        "total": ended - began,
        "embeddings": embedded - began,
        "knowledge_base": ended - embedded,
        "first_ready": min(moments["ready"]) - began,
        "last_ready": max(moments["ready"]) - began,
        "encoders": len(moments["ready"]),
        "images": images["kept"],
        "busy": busy / nodes / (embedded - min(moments["ready"])),
        "version": base.manifest.version,
    }


def evaluated(config: Config, builds: list[dict[str, Any]]) -> dict[str, Any]:
    """The model fitted to all builds but those of the node count to check; what it says of that one; speed-up of all."""
    from countryreward.machine import describe_machine
    from countryreward.retrieval.scaling import fit_scaling

    fitted = [each for each in builds if each["nodes"] != config.check]
    start = statistics.median(each["first_ready"] for each in fitted)
    model = fit_scaling([each["nodes"] for each in fitted], [each["total"] for each in fitted], start=start)
    rows = {n: [each for each in builds if each["nodes"] == n] for n in sorted({each["nodes"] for each in builds})}
    single = statistics.median(each["total"] for each in rows[min(rows)]) * min(rows)
    table: dict[str, Any] = {}
    for n, found in rows.items():
        total = statistics.median(each["total"] for each in found)
        table[str(n)] = {
            "seconds": {part: spread([each[part] for each in found]) for part in PARTS},
            "model_seconds": round(model.seconds(n), 2),
            "speed_up": round(single / total, 2),
            "efficiency": round(single / total / n, 3),
            "encoders_busy": spread([each["busy"] for each in found]),
        }
    truth = spread([each["total"] for each in rows[config.check]])
    predicted = model.seconds(config.check)
    return {
        "nodes": table,
        "model": {name: round(value, 3) for name, value in asdict(model).items()},
        "most_nodes": round(min(model.most_nodes(), 1e6), 1),
        "emulated_work_seconds": round(builds[0]["images"] * config.image_ms / 1000, 2),
        f"check_on_{config.check}": {
            "predicted": round(predicted, 2),
            "measured": truth,
            "relative_error": round(predicted / truth["median"] - 1, 3),
        },
        "options": asdict(config),
        "machine": describe_machine(),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and range of the rounds."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def plot(config: Config, builds: list[dict[str, Any]], report: dict[str, Any]) -> bytes:
    """Times with their range, the fitted curve, the prediction."""
    import numpy as np

    from countryreward.evaluation.plots import GRID, INK, MAIN, QUIET, as_png, blank_figure, frame_axis
    from countryreward.retrieval.scaling import ScalingModel

    model = ScalingModel(**report["model"])
    figure, (axis,) = blank_figure(3.8)
    frame_axis(axis, "Seconds of a knowledge-base build", {}, grid="y")
    sizes = sorted({each["nodes"] for each in builds})
    curve = np.geomspace(min(sizes), max(sizes), 100)
    axis.plot(curve, [model.seconds(n) for n in curve], color=MAIN, lw=1.6, label="cost model, fitted to the dots")
    axis.plot(curve, model.seconds(1) / curve, color=QUIET, lw=1, ls=":", label="as if all of it were shared")
    axis.plot(config.check, model.seconds(config.check), "x", color=MAIN, ms=9, mew=2, zorder=4, label="predicted")
    for fitted, colour, label in ((True, INK, "measured"), (False, "#b3413a", "measured, not fitted")):
        places = [n for n in sizes if (n != config.check) == fitted]
        found = [report["nodes"][str(n)]["seconds"]["total"] for n in places]
        middle = np.array([each["median"] for each in found])
        range_of = [middle - [each["least"] for each in found], [each["most"] for each in found] - middle]
        axis.errorbar(places, middle, range_of, fmt="o", color=colour, ms=5, capsize=4, lw=1.4, zorder=3, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xticks(sizes)
    axis.set_xlabel("emulated nodes", color=INK, fontsize=9.5)
    axis.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    axis.spines["bottom"].set_color(GRID)
    return as_png(figure)


if __name__ == "__main__":
    run(Config, main)
