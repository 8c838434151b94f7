"""One batch job as it lies in its folder."""

from countryreward.api.schemas import BatchJob
from countryreward.serving.durable_jobs.durable_job import Stored


class StoredJob(BatchJob, Stored):
    """job.json: what the tenant sees, and what the runner needs."""

    ending: str
    markets: tuple[str, ...] = ()
    """Asked for every row; none: each row's own."""
    trained: tuple[str, ...] | None = None
    """What stands in where neither the call nor the table names a market; kept from the first start on."""

    def shown(self) -> BatchJob:
        """What the tenant sees."""
        return BatchJob(**{name: getattr(self, name) for name in BatchJob.model_fields})
