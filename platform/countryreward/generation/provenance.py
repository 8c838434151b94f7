"""What made an ad, and what every renderer asks of a job."""

from dataclasses import asdict
from typing import Any

from countryreward.errors import UserError
from countryreward.generation.ad_contracts import RenderJob
from countryreward.generation.subject import Subject


def what_made(
    renderer: str, version: str, job: RenderJob, subject: Subject, px: int, steps: int | None
) -> dict[str, Any]:
    """As JSON, enough to make the ad again from the picture with this hash."""
    return {
        "renderer": renderer,
        "version": version,
        "design": asdict(job.design),
        "title": job.product.title,
        "category": job.product.category,
        "attributes": dict(job.product.attributes),
        "image_hash": job.image_hash,
        "seed": job.seed,
        "px": px,
        "steps": steps,
        "product": subject.seen,
    }


def check_picture(job: RenderJob) -> None:
    """Raises `UserError` unless the product's picture is RGB uint8 of 8 pixels a side or more and the seed is usable."""
    image = job.image
    if image.ndim != 3 or image.shape[2] != 3 or str(image.dtype) != "uint8" or min(image.shape[:2]) < 8:
        raise UserError(
            f"image: {image.dtype} {list(image.shape)}; give RGB uint8 [height, width, 3], 8 pixels or more"
        )
    if not 0 <= job.seed < 2**63:
        raise UserError(f"seed: {job.seed}; write a whole number from 0 to 2**63 - 1")
