"""One generation job as it lies in its folder."""

from pydantic import BaseModel, Field

from countryreward.api.generation_schemas import DesignFields
from countryreward.serving.durable_jobs.durable_job import Stored


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
    """As of `StoredGeneration`."""
    note: str | None = None
    """As `designs_note` of `StoredGeneration`."""
