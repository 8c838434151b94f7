"""One generation job as it lies in its folder."""

from pydantic import BaseModel, Field

from countryreward.serving.generator.schemas import DesignFields
from countryreward.serving.jobs.job import Stored


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
