"""Talks of batch jobs: a table is sent, judged while nobody waits, and fetched."""

import contextlib
import json
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as pa

from countryreward.api.schemas import BatchAnswer, BatchesAnswer, BatchJob
from countryreward.client.calls import Call, Pause, Round, Talk, one, parsed
from countryreward.client.client_errors import BadAnswer, Refused
from countryreward.client.request_forms import codes
from countryreward.client.uploads import upload
from countryreward.data.quarantine import QuarantinedRow
from countryreward.errors import UserError
from countryreward.progress import bar


def start(
    table: pd.DataFrame | str | Path,
    images: str | Path | None,
    markets: Sequence[str] | None,
    idempotency_key: str | None,
) -> Talk[BatchJob]:
    """Send a table. The same key, on a retry or in another run, gives the same job and not a second one."""
    key = uuid.uuid4().hex if idempotency_key is None else checked_key(idempotency_key)
    asked = [] if markets is None else codes(markets)
    with upload(table, images) as files:
        call = Call(
            method="POST",
            path="v1/batch",
            fields={"markets": asked} if asked else {},
            files=files,
            headers={"Idempotency-Key": key},
            patient=True,
        )
        return parsed((yield from one(call)), BatchAnswer).job


def checked_key(key: str) -> str:
    """An Idempotency-Key as a header can hold it. Raises `UserError`."""
    if not (key.isascii() and key.isprintable() and 0 < len(key) <= 200 and key == key.strip()):
        raise UserError(f"idempotency_key: {key!r} must be 1 to 200 printable ASCII characters; choose another")
    return key


def jobs() -> Talk[list[BatchJob]]:
    """All jobs of this key's tenant, newest first."""
    return parsed((yield from one(Call(method="GET", path="v1/batch"))), BatchesAnswer).jobs


def state(job_id: str) -> Talk[BatchJob]:
    """A job now."""
    return parsed((yield from one(Call(method="GET", path=_path(job_id)))), BatchAnswer).job


def wait(job_id: str, *, progress: bool, poll_s: float) -> Talk[BatchJob]:
    """Until it is done. Raises `UserError` when it failed or was cancelled."""
    shown = bar("rows judged") if progress else contextlib.nullcontext(lambda done, total: None)
    with shown as tell:
        while True:
            job = yield from state(job_id)
            if job.rows:
                tell(job.judged + job.quarantined, job.rows)
            if job.state not in ("waiting", "running"):
                break
            yield Pause(seconds=poll_s)
    if job.state != "done":
        raise UserError(f"batch {job_id}: it is {job.state}; {job.error or 'send the table again'}")
    return job


def verdicts(job_id: str) -> Talk[pd.DataFrame]:
    """The job's verdicts.parquet."""
    with tempfile.TemporaryDirectory(prefix="countryreward-") as folder:
        to = Path(folder) / "verdicts.parquet"
        path = _path(job_id) + "/verdicts"
        reply = yield from one(Call(method="GET", path=path, query={"format": "parquet"}, to=to, patient=True))
        try:
            return pd.read_parquet(to)
        except (pa.ArrowException, ValueError):
            raise BadAnswer("verdicts: the answer is no Parquet file", request_id=reply.request_id) from None


def quarantine(job_id: str) -> Talk[pd.DataFrame]:
    """The job's refused rows, each with its reason and the way out."""
    reply = yield from one(Call(method="GET", path=_path(job_id) + "/quarantine", patient=True))
    try:
        rows = [json.loads(line) for line in reply.content.splitlines() if line.strip()]
        return pd.DataFrame(rows, columns=None if rows else [column.name for column in fields(QuarantinedRow)])
    except (ValueError, TypeError):
        raise BadAnswer("quarantine: the answer is not JSON lines", request_id=reply.request_id) from None


def delete(job_id: str) -> Talk[None]:
    """Stop the job and delete upload and result."""
    (reply,) = yield Round(calls=(Call(method="DELETE", path=_path(job_id)),), keep_refusals=True)
    if isinstance(reply, Refused) and not (reply.status == 404 and reply.attempts > 1):
        raise reply  # after a retry, gone means that the first attempt worked and only its answer was lost


def _path(job_id: str) -> str:
    return "v1/batch/" + quote(job_id, safe="")
