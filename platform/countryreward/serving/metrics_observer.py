"""What a replica counts. The base class counts nothing; `Prometheus` in `http/prometheus_metrics.py` does."""

from countryreward.serving.http.request_log import RequestRecord


class MetricsObserver:
    """Is told of everything that is worth a metric."""

    def request(self, record: RequestRecord) -> None:
        """An HTTP request was answered."""

    def forward_pass(self, items: int, tokens: int, seconds: float) -> None:
        """One pass of the model over so many pairs; tokens with padding."""

    def encoded(self, images: int) -> None:
        """So many images went through the vision tower."""

    def cache(self, *, hit: bool) -> None:
        """An image was looked for among the kept ones."""

    def verdicts(self, count: int) -> None:
        """So many verdicts were given."""

    def taken(self, *, accepted: bool) -> None:
        """A newer model or knowledge base was taken in, or refused."""

    def ended(self, state: str) -> None:
        """A batch job ended: done, failed or cancelled."""

    def backlog(self, jobs: int, oldest_s: float) -> None:
        """So many batch jobs wait or run now; the oldest was sent so long ago, in seconds."""

    def rendered(self, images: int, seconds: float) -> None:
        """A renderer made so many images in one pass."""

    def design_refused(self) -> None:
        """No image was made of a design."""

    def design_written(self, *, accepted: bool) -> None:
        """A writer wrote a design, or something that is none."""

    def generation_ended(self, state: str) -> None:
        """A generation job ended: done, failed or cancelled."""

    def generation_backlog(self, jobs: int, oldest_s: float) -> None:
        """So many generation jobs wait or run now; the oldest was sent so long ago, in seconds."""
