"""What the service answers, as JSON. Verdicts are those of `scoring.contracts`."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from countryreward.scoring.contracts import Ranking, Verdict

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]


class Answer(BaseModel):
    """Every answer names its request."""

    model_config = ConfigDict(ser_json_inf_nan="null")
    request_id: str = Field(description="Name it when you report a problem.", examples=["5f2c9d0e7b1a4c3f"])


class ScoreAnswer(Answer):
    """One verdict per market, in the order asked."""

    verdicts: list[Verdict]


class RankAnswer(Answer):
    """One ranking per market, in the order asked."""

    rankings: list[Ranking]


class Market(BaseModel):
    """A country the service can be asked about."""

    code: str = Field(description="ISO 3166 alpha-2", examples=["KR"])
    name: str = Field(examples=["South Korea"])


class MarketsAnswer(Answer):
    """Markets the model was trained on."""

    markets: list[Market]


class ModelsAnswer(Answer):
    """What answers now, and what was refused."""

    models: list[dict[str, Any]]


class BatchJob(BaseModel):
    """A table that is being scored. `rows` = `judged` + `quarantined` when it is done."""

    id: str = Field(examples=["b-3f2a9c1e8d7b6a50"])
    state: JobState
    rows: int | None = Field(default=None, description="Rows of the table; null until it has been read.")
    judged: int = Field(default=0, description="Rows judged so far.")
    quarantined: int = Field(default=0, description="Rows refused so far, each with its reason.")
    verdicts: int = Field(default=0, description="Verdicts so far: rows judged x markets.")
    reasons: dict[str, int] = Field(default_factory=dict, description="Refused rows by reason.")
    error: str | None = Field(default=None, description="Why it failed, and the way out.")
    created: datetime
    finished: datetime | None = None
    deleted_after: datetime | None = Field(default=None, description="When upload and result are deleted.")


class BatchAnswer(Answer):
    """One job."""

    job: BatchJob


class BatchesAnswer(Answer):
    """The tenant's jobs, newest first."""

    jobs: list[BatchJob]


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["invalid_input"])
    message: str = Field(examples=["title: is missing"])
    request_id: str


class ErrorAnswer(BaseModel):
    """Every error, at most 4 KB; nothing that was sent is repeated."""

    error: ErrorDetail
