"""The folders of batch jobs, `jobs/store.py`: STATE/jobs/TENANT/b-ID/. ServicePool what every job has:

table.ENDING, images.zip, work/  the upload and finished parts, removed when the job ends
verdicts.parquet, quarantine.jsonl
"""

from pathlib import Path

from countryreward.serving.durable_jobs.batch.batch_job import StoredJob
from countryreward.serving.durable_jobs.job_folders import JobFolders


class JobStore(JobFolders[StoredJob]):
    """Finds, claims, ends and removes batch jobs. `create.py` brings them in."""

    model = StoredJob
    letter, noun, smaller, again = "b", "batch job", "a smaller table", "the table"

    def leftovers(self, folder: Path, job: StoredJob) -> list[Path]:
        """See `JobFolders`."""
        names = [f"table.{job.ending}", "images.zip", "work"]
        names += [] if job.state == "done" else ["verdicts.parquet", "quarantine.jsonl"]
        return [folder / name for name in names if (folder / name).exists()]

    def tell_ended(self, state: str) -> None:
        """See `JobFolders`."""
        self.watching.ended(state)

    def tell_open(self, jobs: int, oldest_s: float) -> None:
        """See `JobFolders`."""
        self.watching.backlog(jobs, oldest_s)
