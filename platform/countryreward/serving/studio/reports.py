"""Tables of pairs as batch jobs, their progress, and the report as a CSV in plain words."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from countryreward import markets as countries
from countryreward.serving.durable_jobs.batch.batch_results import safe_cell
from countryreward.serving.durable_jobs.batch.batch_store import JobStore, StoredJob, create_job, ending_of
from countryreward.serving.http.form_fields import markets_of
from countryreward.serving.http.problems import Problem
from countryreward.serving.service_config import StudioServiceConfig
from countryreward.serving.studio.campaigns import StudioJobs
from countryreward.serving.studio.verdict_text import CLOSE, plain, row_refused, sureness

Table = Annotated[UploadFile, File(description="CSV, TSV, JSONL or Parquet: a row per pair of pictures.")]
Images = Annotated[UploadFile | None, File(description="A zip archive of the pictures that the table names.")]
Markets = Annotated[list[str], Form(description="ISO 3166 codes; none: the column `market`, or all that were learned.")]
COLUMNS = (
    "row",
    "row_id",
    "product_id",
    "market",
    "country",
    "choose",
    "how_sure",
    "in_a_hundred",
    "past_ads",
    "remark",
)


class Report(BaseModel):
    """A table that is being worked off, as the page shows it."""

    id: str
    name: str
    """Of the file that was sent."""
    state: str
    """waiting, running, done, failed or cancelled."""
    rows: int | None
    done: int
    """Rows so far, refused ones included."""
    refused: int
    error: str
    """Why it failed, and what to do."""
    created: datetime
    deleted_after: datetime | None


class ReportStore(StudioJobs[JobStore]):
    """Batch jobs that were made in the studio."""

    kind = "reports"
    gone = "this report is not there, or was deleted; send the table again"

    def all(self, tenant: str) -> list[Report]:
        """Newest first."""
        marked = [(job, self.origin(tenant, job.id)) for job in self.jobs.jobs_of(tenant)]
        return [_report(job, mark) for job, mark in marked if mark is not None]

    def find(self, tenant: str, job_id: str) -> tuple[Path, Report]:
        """Its folder, and what is shown. Raises `Problem` not_found, also for a job that was not made in the studio."""
        folder, job, origin = self.find_made(tenant, job_id)
        return folder, _report(job, origin)


def _report(job: StoredJob, mark: dict) -> Report:
    return Report(
        id=job.id,
        name=str(mark["name"]),
        state=job.state,
        rows=job.rows,
        done=job.judged + job.quarantined,
        refused=job.quarantined,
        error=plain(job.error),
        created=job.created,
        deleted_after=job.deleted_after,
    )


def add_report_routes(app: FastAPI, config: StudioServiceConfig, reports: ReportStore) -> None:
    """The routes. The gate has set `request.state.caller`."""

    @app.post(
        "/api/reports",
        tags=["reports"],
        status_code=202,
        max_body_size=config.max_table_bytes + 2**20,
        form_limits={"max_files": 2, "max_fields": 300},
    )
    async def send(
        request: Request,
        table: Table,
        images: Images = None,
        markets: Markets = [],  # noqa: B006 - FastAPI copies it
    ) -> Report:
        """Send a table; the replicas that answer work it off."""
        tenant = request.state.caller.tenant

        def make() -> Report:
            job = create_job(
                reports.jobs,
                tenant=tenant,
                ending=ending_of(table.filename),
                table=table.file,
                images=images.file if images else None,
                markets=markets_of(markets, ()),
            )
            name = "".join(letter for letter in (table.filename or "table") if letter.isprintable())[-80:]
            reports.add(tenant, job.id, {"name": name.encode("utf-8", "replace").decode()})
            return reports.find(tenant, job.id)[1]

        return await run_in_threadpool(make)

    @app.get("/api/reports", tags=["reports"])
    def show_all(request: Request) -> dict[str, list[Report]]:
        """The team's reports, newest first."""
        return {"reports": reports.all(request.state.caller.tenant)}

    @app.get("/api/reports/{job_id}", tags=["reports"])
    def show(request: Request, job_id: str) -> Report:
        """How far one is."""
        return reports.find(request.state.caller.tenant, job_id)[1]

    @app.get("/api/reports/{job_id}/file", tags=["reports"], response_class=StreamingResponse)
    def file(request: Request, job_id: str) -> Response:
        """The report as CSV: one row per row of the table and market, the refused rows at the end."""
        folder, report = reports.find(request.state.caller.tenant, job_id)
        if report.state != "done":
            raise Problem("conflict", "the report is not finished; come back when it is")
        headers = {"Content-Disposition": f'attachment; filename="report-{job_id[2:8]}.csv"'}
        return StreamingResponse(report_csv(folder), media_type="text/csv; charset=utf-8", headers=headers)

    @app.delete("/api/reports/{job_id}", tags=["reports"], status_code=204)
    def delete(request: Request, job_id: str) -> None:
        """Stop it if it runs, and remove all of it."""
        reports.delete(request.state.caller.tenant, job_id)


def report_csv(folder: Path) -> Iterator[str]:
    """A finished job's verdicts and refused rows in plain words; cells that a spreadsheet would run are made harmless."""
    file = pq.ParquetFile(folder / "verdicts.parquet")  # open from here on: the job may be deleted while it is read
    refused = (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()

    def stream() -> Iterator[str]:
        yield "\ufeff" + _line(COLUMNS)  # so that spreadsheets read it as UTF-8
        with file:
            for batch in file.iter_batches(batch_size=1_000):
                yield "".join(_line(_cells(row)) for row in batch.to_pylist())
        for text in refused:
            row = json.loads(text)
            remark = row_refused(row["field"], row["reason"])
            yield _line((row["row"] + 1, row["key"], "", "", "", "not compared", "", "", "", remark))

    return stream()


def _cells(row: dict) -> tuple[object, ...]:
    stated = row["calibrated_probability"] if row["calibrated_probability"] is not None else row["probability"]
    sure = max(stated, 1 - stated)
    choose = f"image_{row['choice'].lower()}" if row["choice"] and sure >= CLOSE else "not sure"
    words = sureness(sure) if choose != "not sure" else "not sure"
    remark = "" if row["past_ads"] else "no past ads from this market to go by"
    return (
        row["row"] + 1,
        row["row_id"] or "",
        row["product_id"] or "",
        row["market"],
        countries.name(row["market"]),
        choose,
        words,
        min(99, round(100 * sure)),
        row["past_ads"],
        remark,
    )


def _line(cells: tuple[object, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([safe_cell(cell) for cell in cells])
    return buffer.getvalue()
