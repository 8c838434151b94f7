"""The folders of batch jobs, STATE/jobs/TENANT/b-ID/, and how an upload becomes one. Beside what every job has:

table.ENDING, images.zip, work/  the upload and finished parts, removed when the job ends
verdicts.parquet, quarantine.jsonl
"""

import hashlib
import json
import os
import secrets
import zipfile
from pathlib import Path
from typing import BinaryIO

from countryreward.api.schemas import BatchJob
from countryreward.serving.durable_jobs.job_folders import JobFolders, Stored, arriving, check_key, unfinished
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import RewardLimits


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


class JobStore(JobFolders[StoredJob]):
    """Finds, claims, ends and removes batch jobs. `create_job` brings them in."""

    config: RewardLimits
    model = StoredJob
    letter, noun, smaller, again = "b", "batch job", "a smaller table", "the table"
    results = ("verdicts.parquet", "quarantine.jsonl")

    def inputs(self, job: StoredJob) -> list[str]:
        return [f"table.{job.ending}", "images.zip", "work"]

    def tell_ended(self, state: str) -> None:
        self.watching.ended(state)

    def tell_open(self, jobs: int, oldest_s: float) -> None:
        self.watching.backlog(jobs, oldest_s)


ENDINGS = ("csv", "tsv", "jsonl", "parquet")


def ending_of(file_name: str | None) -> str:
    """How the table's name ends; nothing else of the name is used. Raises `Problem`."""
    ending = (file_name or "").rpartition(".")[2].lower()
    if ending not in ENDINGS:
        raise Problem(
            "invalid_input", "table: its file name must end in .csv, .tsv, .jsonl or .parquet; rename the file"
        )
    return ending


def create_job(
    store: JobStore,
    *,
    tenant: str,
    ending: str,
    table: BinaryIO,
    images: BinaryIO | None = None,
    markets: tuple[str, ...] = (),
    key: str | None = None,
) -> StoredJob:
    """Copy an upload to disk as a new job, or find the one made with the same Idempotency-Key. It blocks: call it in a thread.

    Raises `Problem`: invalid_input, conflict (key used for another upload), quota, busy (no room on the disk).
    """
    check_key(key)
    place = store.place(tenant)
    seed = secrets.token_bytes(16) if key is None else json.dumps([tenant, key]).encode()
    folder = place / f"b-{hashlib.sha256(seed).hexdigest()[:16]}"
    if not folder.exists():
        _check_quota(store, tenant)  # before anything is copied, and again at the end
    with arriving(store, place) as arrival:
        fresh = arrival.folder
        request = [ending, _copy(table, fresh / f"table.{ending}", "table"), "", list(markets)]
        if images is not None:
            request[2] = _copy(images, fresh / "images.zip", "images")
            if not zipfile.is_zipfile(fresh / "images.zip"):
                raise Problem("invalid_input", "images: the file is no zip archive; send a .zip file")
        fingerprint = hashlib.sha256(json.dumps(request).encode()).hexdigest()
        job = StoredJob(
            id=folder.name,
            state="waiting",
            created=store.now(),
            tenant=tenant,
            ending=ending,
            markets=markets,
            fingerprint=fingerprint,
        )
        store.save(fresh, job)
        with store.locked(place):
            if folder.exists():
                _, earlier = store.find(tenant, folder.name)
                if earlier.fingerprint != fingerprint:
                    raise Problem("conflict")
                return earlier
            _check_quota(store, tenant)
            arrival.settle(folder.name)
        return job


def _check_quota(store: JobStore, tenant: str) -> None:
    if sum(unfinished(job) for job in store.jobs_of(tenant)) >= store.config.max_jobs:
        raise Problem("quota")


def _copy(source: BinaryIO, path: Path, field: str) -> str:
    """Copy to disk for good; SHA-256, hex. Raises `Problem` when there is nothing."""
    digest, size = hashlib.sha256(), 0
    source.seek(0)
    with open(path, "wb") as target:
        while block := source.read(2**20):
            digest.update(block)
            size += target.write(block)
        target.flush()
        os.fsync(target.fileno())
    if not size:
        raise Problem("invalid_input", f"{field}: the file is empty; send it again")
    return digest.hexdigest()
