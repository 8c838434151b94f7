"""A batch job from an upload: its folder appears whole, or not at all."""

import hashlib
import json
import os
import secrets
import zipfile
from pathlib import Path
from typing import BinaryIO

from countryreward.serving.durable_jobs.arrival import arriving, check_key
from countryreward.serving.durable_jobs.batch.batch_job import StoredJob
from countryreward.serving.durable_jobs.batch.batch_store import JobStore
from countryreward.serving.durable_jobs.durable_job import unfinished
from countryreward.serving.http.problems import Problem

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
        told = [ending, _copy(table, fresh / f"table.{ending}", "table"), "", list(markets)]
        if images is not None:
            told[2] = _copy(images, fresh / "images.zip", "images")
            if not zipfile.is_zipfile(fresh / "images.zip"):
                raise Problem("invalid_input", "images: the file is no zip archive; send a .zip file")
        fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()
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
                _, known = store.find(tenant, folder.name)
                if known.fingerprint != fingerprint:
                    raise Problem("conflict")
                return known
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
