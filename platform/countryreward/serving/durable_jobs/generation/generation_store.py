"""The folders of generation jobs, `jobs/store.py`: STATE/jobs/TENANT/g-ID/. ServicePool what every job has:

asked.json, product.image    what was sent, removed when the job ends
designs.json                 the designs of a job that was sent without any, also removed
images/NNNN.png, .json       an image and what made it; it is there when its .json is
images/NNNN.refused.json     why there is none of this design
rankings.json
key-HASH                     an Idempotency-Key that names this job
"""

import json
from dataclasses import dataclass
from pathlib import Path

from countryreward.data.artifacts import write_atomically
from countryreward.serving.durable_jobs.generation.generation_job import StoredGeneration
from countryreward.serving.durable_jobs.job_folders import JobFolders

_VERSIONS = "generator.json"


@dataclass(frozen=True, kw_only=True)
class Versions:
    """What makes and ranks images now: with others, the same request is answered anew."""

    renderer: str | None = None
    """Name and version."""
    judge: str | None = None
    """Of model and knowledge base; None: nothing ranks."""
    writer: str | None = None
    """What writes designs; None: nothing does."""


class GenerationStore(JobFolders[StoredGeneration]):
    """Finds, claims, ends and removes generation jobs. `create.py` brings them in, `results.py` shows them."""

    model = StoredGeneration
    letter, noun, smaller, again = "g", "generation job", "fewer designs", "the request"

    def leftovers(self, folder: Path, job: StoredGeneration) -> list[Path]:
        """See `JobFolders`."""
        names = [
            "asked.json",
            "designs.json",
            "product.image",
            *([] if job.state == "done" else ["images", "rankings.json"]),
        ]
        return [folder / name for name in names if (folder / name).exists()]

    def tell_ended(self, state: str) -> None:
        """See `JobFolders`."""
        self.watching.generation_ended(state)

    def tell_open(self, jobs: int, oldest_s: float) -> None:
        """See `JobFolders`."""
        self.watching.generation_backlog(jobs, oldest_s)

    def queue(self) -> list[str]:
        """Ids of the jobs that wait, of all tenants, the next first."""
        return [job.id for _, job in self.open_jobs() if job.state == "waiting"]

    def versions(self) -> Versions:
        """As the replicas last told."""
        try:
            return Versions(**json.loads((self.root.parent / _VERSIONS).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return Versions()

    def tell_versions(self, versions: Versions) -> None:
        """For the replicas."""
        if self.versions() != versions:
            self.root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self.root.parent / _VERSIONS, json.dumps(versions.__dict__))
