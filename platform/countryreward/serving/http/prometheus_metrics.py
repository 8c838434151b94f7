"""Metrics of all replicas of a node in one answer, by prometheus_client's multiprocess mode.

Every replica writes its counts into files of a folder they share; whichever is asked for /metrics adds them up. The folder must
be named by `share_counts` before anything is counted; without it a replica tells of itself alone.
"""

import logging
import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from countryreward.serving.durable_jobs.job_folders import FINISHED
from countryreward.serving.http.request_log import RequestRecord
from countryreward.serving.metrics_observer import MetricsObserver

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Prometheus(MetricsObserver):
    """Counts for Prometheus; docs/operations.md lists the names."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "countryreward_requests", "HTTP requests answered", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "countryreward_request_seconds", "Time to the answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self._passes = Counter("countryreward_forward_passes", "Passes of the model", registry=registry)
        self._pairs = Counter("countryreward_pairs", "Pairs that went through the model", registry=registry)
        self._tokens = Counter("countryreward_tokens", "Tokens, padding included", registry=registry)
        self._model = Counter("countryreward_model_seconds", "Time the model computed", registry=registry)
        self._encoded = Counter("countryreward_images_encoded", "Images through the vision tower", registry=registry)
        self._cache = Counter("countryreward_image_lookups", "Images looked for", ["found"], registry=registry)
        self._verdicts = Counter("countryreward_verdicts", "Verdicts given", registry=registry)
        self._taken = Counter("countryreward_new_models", "Newer models and bases seen", ["taken"], registry=registry)
        self._ended = Counter("countryreward_batch_jobs", "Batch jobs that ended", ["state"], registry=registry)
        self._rendered = Counter("countryreward_images_rendered", "Images generated", registry=registry)
        self._render = Counter("countryreward_render_seconds", "Time the renderer worked", registry=registry)
        self._refused = Counter("countryreward_designs_refused", "Designs without an image", registry=registry)
        self._generated = Counter(
            "countryreward_generation_jobs", "Generation jobs that ended", ["state"], registry=registry
        )
        self._written = Counter("countryreward_designs_written", "Designs written", ["accepted"], registry=registry)
        for taken in ("yes", "no"):  # from 0 on: Prometheus sees no rise where a series begins with 1
            self._taken.labels(taken)
            self._written.labels(taken)
        for state in FINISHED:
            self._ended.labels(state)
            self._generated.labels(state)
        starts = Counter("countryreward_replica_starts", "Replicas that began to load a model", registry=registry)
        starts.inc()
        self._errors = Counter("countryreward_errors_logged", "Lines of the log at level ERROR", registry=registry)
        self._open, self._oldest = self._backlog("batch", "Batch jobs")
        self._generations, self._oldest_generation = self._backlog("generation", "Generation jobs")

    def _backlog(self, kind: str, noun: str) -> tuple[Gauge, Gauge]:
        """Every replica sees all jobs, so the newest look is as good as any."""
        series = (("open", f"{noun} that wait or run"), ("oldest_seconds", "Since the oldest of them was sent"))
        first, second = (
            Gauge(f"countryreward_{kind}_{name}", text, registry=self.registry, multiprocess_mode="mostrecent")
            for name, text in series
        )
        return first, second

    def request(self, record: RequestRecord) -> None:
        self._requests.labels(record.route, str(record.status)).inc()
        self._seconds.labels(record.route).observe(record.seconds)

    def forward_pass(self, items: int, tokens: int, seconds: float) -> None:
        self._passes.inc()
        self._pairs.inc(items)
        self._tokens.inc(tokens)
        self._model.inc(seconds)

    def encoded(self, images: int) -> None:
        self._encoded.inc(images)

    def cache(self, *, hit: bool) -> None:
        self._cache.labels("yes" if hit else "no").inc()

    def verdicts(self, count: int) -> None:
        self._verdicts.inc(count)

    def taken(self, *, accepted: bool) -> None:
        self._taken.labels("yes" if accepted else "no").inc()

    def ended(self, state: str) -> None:
        self._ended.labels(state).inc()

    def backlog(self, jobs: int, oldest_s: float) -> None:
        self._open.set(jobs)
        self._oldest.set(oldest_s)

    def rendered(self, images: int, seconds: float) -> None:
        self._rendered.inc(images)
        self._render.inc(seconds)

    def design_refused(self) -> None:
        self._refused.inc()

    def design_written(self, *, accepted: bool) -> None:
        self._written.labels("yes" if accepted else "no").inc()

    def generation_ended(self, state: str) -> None:
        self._generated.labels(state).inc()

    def generation_backlog(self, jobs: int, oldest_s: float) -> None:
        self._generations.set(jobs)
        self._oldest_generation.set(oldest_s)

    def count_errors(self) -> None:
        """Count from now on what this process logs as an error, whoever logs it: keys, rates, models, batch jobs, requests."""
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: self._errors.inc()
        logging.getLogger("countryreward.service").addHandler(handler)

    def text(self) -> bytes:
        """What Prometheus reads."""
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)


def share_counts(folder: Path) -> None:
    """Make the folder, private, and let every count from here on live in it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[FOLDER] = str(folder)
    values.ValueClass = values.get_value_class()  # decided on import, and Ray has imported it already
