"""Talks of generation jobs: a product's picture is sent, ads of it are made and ranked, and fetched."""

import contextlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from countryreward.api.schemas import (
    DesignsAnswer,
    GenerationAnswer,
    GenerationJob,
    GenerationsAnswer,
)
from countryreward.client.batch_calls import checked_key
from countryreward.client.calls import Call, Pause, Reply, Round, Talk, one, parsed
from countryreward.client.client_errors import BadAnswer, Refused
from countryreward.client.request_forms import ImageLike, codes, form, image_bytes, product_of
from countryreward.data.design import Design
from countryreward.errors import UserError
from countryreward.progress import bar
from countryreward.scoring.contracts import Product

_PATH = "v1/generate"
_PNG = b"\x89PNG\r\n\x1a\n"


def start(
    product: Product | str,
    image: ImageLike,
    *,
    markets: Sequence[str] | None,
    designs: Sequence[Design | str],
    count: int | None,
    keep: int | None,
    seed: int,
    px: int | None,
    steps: int | None,
    idempotency_key: str | None,
) -> Talk[GenerationJob]:
    """Send a picture. The same request, on a retry or in another run, gives the same job and not a second one."""
    key = uuid.uuid4().hex if idempotency_key is None else checked_key(idempotency_key)
    numbers = {"count": count, "keep": keep, "seed": seed, "px": px, "steps": steps}
    fields = form(product_of(product), None, None)
    fields |= {name: str(value) for name, value in numbers.items() if value is not None}
    fields |= {"markets": codes(markets)} if markets else {}
    fields |= {"design": [_written(design) for design in designs]} if designs else {}
    call = Call(
        method="POST",
        path=_PATH,
        fields=fields,
        files=(("image", "image", image_bytes(image, "image")),),
        headers={"Idempotency-Key": key},
    )
    return parsed((yield from one(call)), GenerationAnswer).job


def jobs() -> Talk[list[GenerationJob]]:
    """All jobs of this key's tenant, newest first."""
    return parsed((yield from one(Call(method="GET", path=_PATH))), GenerationsAnswer).jobs


def designs(count: int, seed: int) -> Talk[list[Design]]:
    """Designs drawn from the service's templates."""
    call = Call(method="GET", path=f"{_PATH}/designs", query={"count": str(count), "seed": str(seed)})
    reply = yield from one(call)
    try:
        return [fields.design() for fields in parsed(reply, DesignsAnswer).designs]
    except UserError:
        raise BadAnswer(
            "designs: the service answered a design with an empty field", request_id=reply.request_id
        ) from None


def state(job_id: str) -> Talk[GenerationJob]:
    """A job now."""
    return parsed((yield from one(Call(method="GET", path=_path(job_id)))), GenerationAnswer).job


def wait(job_id: str, *, progress: bool, poll_s: float) -> Talk[GenerationJob]:
    """Until it is done. Raises `UserError` when it failed or was cancelled."""
    shown = bar("images made") if progress else contextlib.nullcontext(lambda done, total: None)
    with shown as tell:
        while True:
            job = yield from state(job_id)
            tell(job.done, job.total)
            if job.state not in ("waiting", "running"):
                break
            yield Pause(seconds=poll_s)
    if job.state != "done":
        raise UserError(f"generation {job_id}: it is {job.state}; {job.error or 'send the request again'}")
    return job


def image(job_id: str, n: int) -> Talk[bytes]:
    """An image as a PNG file."""
    return _png((yield from one(_image_call(job_id, n))))


def save(job_id: str, numbers: Sequence[int], folder: Path) -> Talk[list[Path]]:
    """Images as files JOB-N.png of a folder, which is made if need be."""
    if not numbers:
        return []
    replies = yield Round(calls=[_image_call(job_id, n) for n in numbers])
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{job_id}-{n}.png" for n in numbers]
    for path, reply in zip(paths, replies, strict=True):
        assert isinstance(reply, Reply)
        path.write_bytes(_png(reply))
    return paths


def delete(job_id: str) -> Talk[None]:
    """Stop the job and delete what was sent and made."""
    (reply,) = yield Round(calls=(Call(method="DELETE", path=_path(job_id)),), keep_refusals=True)
    if isinstance(reply, Refused) and not (reply.status == 404 and reply.attempts > 1):
        raise reply  # after a retry, gone means that the first attempt worked and only its answer was lost


def _written(design: Design | str) -> str:
    """Its fields as JSON, which hold any text; a text as it is, once it has been read."""
    return json.dumps(asdict(Design.parse(design) if isinstance(design, str) else design), ensure_ascii=False)


def _png(reply: Reply) -> bytes:
    if not reply.content.startswith(_PNG):
        raise BadAnswer("image: the answer is no PNG file", request_id=reply.request_id)
    return reply.content


def _image_call(job_id: str, n: int) -> Call:
    return Call(method="GET", path=f"{_path(job_id)}/images/{n}")


def _path(job_id: str) -> str:
    return f"{_PATH}/{quote(job_id, safe='')}"
