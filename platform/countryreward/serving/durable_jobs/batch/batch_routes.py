"""/v1/batch: a table of pairs in, a job; then its progress, its verdicts and what was refused."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Header, Request, Response, UploadFile
from fastapi.responses import FileResponse, StreamingResponse

from countryreward.api import schemas
from countryreward.serving.durable_jobs.batch.batch_results import csv_of
from countryreward.serving.durable_jobs.batch.batch_runner import BatchJobs
from countryreward.serving.durable_jobs.batch.batch_store import create_job, ending_of
from countryreward.serving.http.form_fields import markets_of
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import RewardServiceConfig

Table = Annotated[UploadFile, File(description="CSV, TSV, JSONL or Parquet, told by its file name's ending.")]
Images = Annotated[UploadFile | None, File(description="A zip archive of the images that the table names.")]
Markets = Annotated[
    list[str],
    Form(description="Asked for every row; repeat the field. None: the column `market`, or all of the training."),
]
Key = Annotated[
    str | None, Header(alias="Idempotency-Key", description="8 to 128 of A-Z a-z 0-9 _ -; names the same job.")
]
Format = Literal["parquet", "csv"]
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": schemas.ErrorAnswer}}


def add_batch_routes(app: FastAPI, jobs: BatchJobs, config: RewardServiceConfig) -> None:
    """The routes. The gate has set `request.state.caller` and `request.state.request_id`; a job is its tenant's alone."""
    route = "/v1/batch"
    store = jobs.store

    def done(request: Request, job_id: str, name: str) -> Path:
        folder, job = store.find(request.state.caller.tenant, job_id)
        if job.state != "done":
            way_out = "ask again when it is done" if job.state in ("waiting", "running") else "send the table again"
            raise Problem("conflict", f"the job is {job.state} and has no result; {way_out}")
        return folder / name

    @app.post(
        route,
        tags=["batch"],
        status_code=202,
        max_body_size=config.max_table_bytes + 2**20,
        form_limits={"max_files": 2, "max_fields": 300},
        responses=CONFLICT,
    )
    async def send(
        request: Request,
        table: Table,
        images: Images = None,
        markets: Markets = [],  # noqa: B006 - FastAPI copies it
        idempotency_key: Key = None,
    ) -> schemas.BatchAnswer:
        """Send a table of pairs. docs/api.md lists its columns."""
        job = await asyncio.to_thread(
            create_job,
            store,
            tenant=request.state.caller.tenant,
            ending=ending_of(table.filename),
            table=table.file,
            images=images.file if images else None,
            markets=markets_of(markets, ()),
            key=idempotency_key,
        )
        return schemas.BatchAnswer(request_id=request.state.request_id, job=job.shown())

    @app.get(route, tags=["batch"])
    def show_all(request: Request) -> schemas.BatchesAnswer:
        """Your jobs, newest first."""
        jobs = [job.shown() for job in store.jobs_of(request.state.caller.tenant)]
        return schemas.BatchesAnswer(request_id=request.state.request_id, jobs=jobs)

    @app.get(route + "/{job_id}", tags=["batch"])
    def show(request: Request, job_id: str) -> schemas.BatchAnswer:
        """How far a job is."""
        _, job = store.find(request.state.caller.tenant, job_id)
        return schemas.BatchAnswer(request_id=request.state.request_id, job=job.shown())

    @app.get(route + "/{job_id}/verdicts", tags=["batch"], response_class=FileResponse, responses=CONFLICT)
    def verdicts(request: Request, job_id: str, format: Format = "parquet") -> Response:
        """The verdicts of a job that is done: one row per good row of the table and market."""
        path = done(request, job_id, "verdicts.parquet")
        if format == "parquet":
            return _file(path, "application/vnd.apache.parquet", f"{job_id}.parquet")
        headers = {"Content-Disposition": f'attachment; filename="{job_id}.csv"'}
        return StreamingResponse(csv_of(path), media_type="text/csv; charset=utf-8", headers=headers)

    @app.get(route + "/{job_id}/quarantine", tags=["batch"], response_class=FileResponse, responses=CONFLICT)
    def quarantine(request: Request, job_id: str) -> Response:
        """The rows that were refused, a JSON object a line: row, reason, field, value, way_out."""
        path = done(request, job_id, "quarantine.jsonl")
        return _file(path, "application/x-ndjson", f"{job_id}.quarantine.jsonl")

    @app.delete(route + "/{job_id}", tags=["batch"], status_code=204)
    def delete(request: Request, job_id: str) -> None:
        """Cancel a job that waits or runs: its upload and what it found are deleted. A finished one is removed altogether."""
        store.delete(request.state.caller.tenant, job_id)


def _file(path: Path, media_type: str, name: str) -> FileResponse:
    return FileResponse(path, media_type=media_type, filename=name)
