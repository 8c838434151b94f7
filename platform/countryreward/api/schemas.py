"""What the service answers, as JSON. Verdicts are those of `scoring.contracts`."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from countryreward.data.design import Design
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
    """A market the service can be asked about."""

    code: str = Field(description="ISO 3166 alpha-2, or the code of a market that is no country", examples=["KR"])
    name: str = Field(examples=["South Korea"])


class DefinedMarket(Market):
    """A market that is no country: a region, a language, a segment."""

    adjective: str = Field(description="What prompts call it.", examples=["European"])
    parents: list[str] = Field(
        description="Codes of markets whose past ads speak where it has none, the nearest first."
    )


class MarketsAnswer(Answer):
    """Markets the model was trained on."""

    markets: list[Market]
    defined: list[DefinedMarket] = Field(
        default_factory=list, description="Markets beside the countries that can be asked about."
    )


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


class DesignFields(BaseModel):
    """How an ad image is staged, in four fields of one line each."""

    foreground: str = Field(examples=["A few small props, no text."])
    background: str = Field(examples=["A plain studio."])
    color_tone: str = Field(examples=["Warm reds and golds."])
    lighting: str = Field(examples=["Bright daylight."])

    @classmethod
    def of(cls, design: Design) -> "DesignFields":
        """From the domain's own type."""
        return cls(**asdict(design))

    def design(self) -> Design:
        """To the domain's own type. Raises `UserError` for an empty field."""
        return Design(**self.model_dump())


class ImageFidelity(BaseModel):
    """Whether the product can still be recognised; from 0 (no) to 1 (entirely)."""

    edges: float
    look: float
    score: float


class GeneratedImage(BaseModel):
    """An ad that was made."""

    n: int = Field(description="Its place among the designs, from 0.")
    design: DesignFields
    seed: int = Field(description="The job's seed + n.")
    px: int = Field(description="Width and height.")
    sha256: str = Field(description="Of the PNG file.")
    fidelity: ImageFidelity
    made: dict[str, Any] = Field(description="What made it, enough to make it again.")
    market: str | None = Field(default=None, description="For which its design was written; null: for none.")
    writer: str | None = Field(default=None, description="Version of what wrote its design; null: sent, or a template.")


class RefusedDesign(BaseModel):
    """A design of which no image was made."""

    n: int
    design: DesignFields
    reason: str
    market: str | None = Field(default=None, description="As of an image.")
    writer: str | None = Field(default=None, description="As of an image.")


class RankedImage(BaseModel):
    """An image's place in one market."""

    n: int
    rank: int = Field(description="1: the best.")
    win_share: float = Field(description="Mean probability of beating another image of the job.")
    beats_original: float | None = Field(description="Probability of beating the picture that was sent.")


class GeneratedRanking(BaseModel):
    """The best images in one market, best first."""

    market: str = Field(examples=["KR"])
    images: list[RankedImage]
    model_version: str | None = None
    knowledge_base_version: str | None = None
    note: str | None = Field(default=None, description="What to know about it.")


class GenerationJob(BaseModel):
    """Ads that are being made. `total` = `images` + `refused` when it is done."""

    id: str = Field(examples=["g-3f2a9c1e8d7b6a50"])
    state: JobState
    position: int | None = Field(default=None, description="Jobs before it, of anyone, while it waits; 0: it is next.")
    done: int = Field(default=0, description="Designs of which the image was made or refused so far.")
    total: int = Field(description="Designs.")
    markets: list[str] = Field(default_factory=list)
    images: list[GeneratedImage] = Field(default_factory=list)
    refused: list[RefusedDesign] = Field(default_factory=list)
    rankings: list[GeneratedRanking] = Field(default_factory=list, description="One per market, when it is done.")
    note: str | None = Field(default=None, description="What to know about the result, such as why nothing was ranked.")
    error: str | None = Field(default=None, description="Why it failed, and the way out.")
    created: datetime
    finished: datetime | None = None
    deleted_after: datetime | None = Field(default=None, description="When the images are deleted.")


class GenerationAnswer(Answer):
    """One job."""

    job: GenerationJob


class GenerationsAnswer(Answer):
    """The tenant's jobs, newest first."""

    jobs: list[GenerationJob]


class DesignsAnswer(Answer):
    """Designs from the templates."""

    designs: list[DesignFields]
