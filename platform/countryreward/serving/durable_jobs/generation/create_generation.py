"""A generation job from a product's picture and designs: its folder appears whole, or not at all. No HTTP."""

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from countryreward.api.schemas import DesignFields
from countryreward.data.decoding import ImageError, decode
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.scoring.contracts import Product
from countryreward.serving.durable_jobs.generation.generation_store import Asked, GenerationStore, StoredGeneration
from countryreward.serving.durable_jobs.job_folders import Arrival, arriving, check_key, load, unfinished
from countryreward.serving.http.problems import Problem, image_problem
from countryreward.serving.service_config import GenerationLimits


def designs_of(texts: Sequence[str], config: GenerationLimits) -> tuple[Design, ...]:
    """Of each text: its four lines, or a JSON object of the four fields. Raises `Problem`."""
    if len(texts) > config.max_designs:
        raise Problem("invalid_input", f"design: more than {config.max_designs}; send fewer at a time")
    return tuple(_design(text, number, config) for number, text in enumerate(texts, start=1))


def _design(text: str, number: int, config: GenerationLimits) -> Design:
    if len(text) > config.max_text:
        raise Problem(
            "invalid_input", f"design: number {number} is longer than {config.max_text} characters; shorten it"
        )
    try:
        text.encode("utf-8")
        if text.lstrip().startswith("{"):
            design = DesignFields.model_validate_json(text, strict=True).design()
        else:
            design = Design.parse(text)
        design.as_text().encode("utf-8")  # an escape in the JSON may be half a character
    except UnicodeEncodeError:
        raise Problem(
            "invalid_input", f"design: number {number} holds a character that is no Unicode; write UTF-8"
        ) from None
    except (ValidationError, UserError):
        labels = "Foreground, Background, Color Tone, Lighting"
        raise Problem(
            "invalid_input",
            f"design: number {number} must be four lines, each with its label ({labels}), or a JSON object of"
            " foreground, background, color_tone and lighting; none may be empty",
        ) from None
    return design


COUNT = 8
"""Designs drawn, unless a request says how many."""
KEEP = 4
"""Images of a ranking, unless a request says how many."""
MAX_SEED = 2**31 - 1
MIN_PX = 64
_one_picture = threading.Lock()  # decoded at a time: a large one takes 8 bytes a pixel for a moment


def create_generation(
    store: GenerationStore,
    *,
    tenant: str,
    image: bytes,
    product: Product,
    markets: Sequence[str] = (),
    designs: Sequence[Design] = (),
    count: int | None = None,
    keep: int | None = None,
    seed: int = 0,
    px: int | None = None,
    steps: int | None = None,
    key: str | None = None,
) -> StoredGeneration:
    """A new job; or the one made with the same Idempotency-Key, or of the same request and versions. It blocks.

    image: a PNG, JPEG or WEBP file. markets: alpha-2 codes; none: nothing is ranked. designs: none: `count` are written for
    the markets, or are of the templates where there is no market or no writer.
    Raises `Problem`: invalid_input, invalid_image, conflict (key used for another request), quota, busy (no room on the disk).
    """
    check_key(key)
    config = store.config
    count = min(COUNT, config.max_designs) if count is None else count
    keep = min(KEEP, config.max_designs) if keep is None else keep
    _check_numbers(config, count=count, keep=keep, seed=seed, px=px, steps=steps)
    if len(designs) > config.max_designs:
        raise Problem("invalid_input", f"design: more than {config.max_designs}; send fewer at a time")
    _check_image(image, config)
    image_hash = hashlib.sha256(image).hexdigest()
    request = [
        image_hash,
        [product.title, product.category, product.attributes, product.tags, product.product_id],
        list(markets),
        [design.as_text() for design in designs] or count,
        [min(keep, len(designs) or count), seed, px, steps],
    ]
    fingerprint = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    place, write = store.place(tenant), bool(markets) and not designs
    find_earlier = partial(
        _earlier_job, store, place, tenant, fingerprint, ranked=bool(markets), written=write, key=key
    )
    with store.locked(place):
        if earlier := find_earlier():
            return earlier
    asked = Asked(
        **product.__dict__,
        image_hash=image_hash,
        designs=[DesignFields.of(design) for design in designs or drawn_designs(count, seed)],
        write=write,
    )
    versions = store.versions()
    with arriving(store, place) as arrival:
        (arrival.folder / "product.image").write_bytes(image)
        (arrival.folder / "asked.json").write_text(asked.model_dump_json(), encoding="utf-8")
        if key is not None:
            (arrival.folder / _key_file(key)).touch()
        job = StoredGeneration(
            id=_id_of(arrival),
            state="waiting",
            created=store.now(),
            tenant=tenant,
            fingerprint=fingerprint,
            total=len(asked.designs),
            markets=tuple(markets),
            keep=min(keep, len(asked.designs)),
            seed=seed,
            px=px,
            steps=steps,
            renderer=versions.renderer,
            judge=versions.judge if markets else None,
            writer=versions.writer if write else None,
        )
        store.save(arrival.folder, job)
        with store.locked(place):
            if earlier := find_earlier():
                return earlier
            arrival.settle(job.id)
        return job


def drawn_designs(count: int, seed: int) -> Sequence[Design]:
    """From the templates. Raises `Problem` for more than there are."""
    from countryreward.generation.templates import draw_designs

    try:
        return draw_designs(count, seed)
    except UserError:
        raise Problem("invalid_input", "count: more than there are templates; send designs of your own") from None


def _earlier_job(
    store: GenerationStore,
    place: Path,
    tenant: str,
    fingerprint: str,
    *,
    ranked: bool,
    written: bool,
    key: str | None,
) -> StoredGeneration | None:
    """The job that answers this request already. Raises `Problem`: conflict, or quota where there is none.

    ranked, written: whether a judge and a writer have a part in it, where there are any.
    """
    for named in place.glob(f"{store.letter}-*/{_key_file(key)}") if key is not None else ():
        if job := load(store.model, named.parent):
            if job.fingerprint != fingerprint:
                raise Problem("conflict")
            return job
    versions, jobs = store.versions(), store.jobs_of(tenant)
    judge, writer = versions.judge if ranked else None, versions.writer if written else None
    wanted = (fingerprint, versions.renderer, judge, writer)
    for job in jobs:
        if (job.fingerprint, job.renderer, job.judge, job.writer) == wanted and _useful(job):
            if key is not None:
                (place / job.id / _key_file(key)).touch()
            return job
    if sum(unfinished(job) for job in jobs) >= store.config.max_generations:
        raise Problem("quota")
    return None


def _useful(job: StoredGeneration) -> bool:
    """Whether a job came to what was asked, or still will."""
    return unfinished(job) or (job.state == "done" and (job.note is None or job.judge is None))


def _check_numbers(config: GenerationLimits, **numbers: int | None) -> None:
    ranges = {
        "count": (1, config.max_designs),
        "keep": (1, config.max_designs),
        "seed": (0, MAX_SEED),
        "px": (MIN_PX, config.max_px),
        "steps": (1, config.max_steps),
    }
    for name, value in numbers.items():
        least, most = ranges[name]
        if value is not None and not least <= value <= most:
            raise Problem("invalid_input", f"{name}: it must be {least} to {most}")


def _check_image(image: bytes, config: GenerationLimits) -> None:
    if not image:
        raise Problem("invalid_image", "image: the file is empty; send a PNG, JPEG or WEBP file")
    try:
        with _one_picture:
            decode(image, max_bytes=config.max_image_bytes, max_pixels=config.max_pixels)
    except ImageError as refused:
        raise image_problem("image", refused.reason) from None


def _id_of(arrival: Arrival) -> str:
    return f"g-{arrival.folder.name.removeprefix('.new-')}"  # 16 random hex digits


def _key_file(key: Any) -> str:
    return f"key-{hashlib.sha256(str(key).encode()).hexdigest()[:32]}"
