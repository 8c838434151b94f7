"""The folders of generation jobs, STATE/jobs/TENANT/g-ID/. Beside what every job has:

asked.json, product.image    what was sent, removed when the job ends
designs.json                 the designs of a job that was sent without any, also removed
images/NNNN.png, .json       an image and what made it; it is there when its .json is
images/NNNN.refused.json     why there is none of this design
rankings.json
key-HASH                     an Idempotency-Key that names this job
"""

import json
from dataclasses import dataclass

from pydantic import BaseModel, Field

from countryreward.api.schemas import DesignFields
from countryreward.data.file_primitives import read_json, write_atomically
from countryreward.serving.durable_jobs.job_folders import JobFolders, Stored
from countryreward.serving.service_config import GenerationLimits


class StoredGeneration(Stored):
    """job.json: kept as long as the images are."""

    total: int
    """Designs."""
    markets: tuple[str, ...] = ()
    """In which the images are ranked; none: not at all."""
    keep: int
    """Images of a ranking, the best."""
    seed: int
    px: int | None
    steps: int | None
    renderer: str | None = None
    """Name and version of what makes the images."""
    judge: str | None = None
    """Versions of what ranks them."""
    writer: str | None = None
    """Version of the writer that was asked for the designs; None: they were sent, or there was none to ask."""
    designs_note: str | None = None
    """What to know about the designs."""
    note: str | None = None
    """What to know about the result."""


class Asked(BaseModel):
    """asked.json: what nobody needs any more when the job has ended."""

    title: str
    category: str | None = None
    attributes: dict[str, str] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    product_id: str | None = None
    image_hash: str
    """SHA-256 of `product.image`, hex."""
    designs: list[DesignFields]
    """As they were sent, or from the templates."""
    write: bool = False
    """None was sent, and there is a market: where there is a writer, it writes others than those."""


class PlannedDesign(BaseModel):
    """What an image is made of."""

    design: DesignFields
    market: str | None = None
    """The one it was written for."""
    writer: str | None = None
    """Version of what wrote it."""


class Plan(BaseModel):
    """designs.json: of a job without designs of its own, before anything is rendered. Whoever goes on with it renders these."""

    designs: list[PlannedDesign]
    writer: str | None = None
    """Version of the writer that was asked for them; None: there was none to ask."""
    note: str | None = None
    """What to know about the designs."""


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
    """Finds, claims, ends and removes generation jobs. `create_generation` brings them in."""

    config: GenerationLimits
    model = StoredGeneration
    letter, noun, smaller, again = "g", "generation job", "fewer designs", "the request"
    results = ("images", "rankings.json")

    def inputs(self, job: StoredGeneration) -> list[str]:
        return ["asked.json", "designs.json", "product.image"]

    def tell_ended(self, state: str) -> None:
        self.watching.generation_ended(state)

    def tell_open(self, jobs: int, oldest_s: float) -> None:
        self.watching.generation_backlog(jobs, oldest_s)

    def queue(self) -> list[str]:
        """Ids of the jobs that wait, of all tenants, the next first."""
        return [job.id for _, job in self.open_jobs() if job.state == "waiting"]

    def versions(self) -> Versions:
        """What makes and ranks images, as the replicas last told."""
        try:
            return Versions(**read_json(self.root.parent / _VERSIONS))
        except TypeError:  # of a later release, with fields that are not known here
            return Versions()

    def tell_versions(self, versions: Versions) -> None:
        """Write down what makes and ranks images now, for those who bring jobs in."""
        if self.versions() != versions:
            self.root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self.root.parent / _VERSIONS, json.dumps(versions.__dict__))
