"""The one step that makes ads: a writer writes designs, a renderer renders them, a scorer ranks them.

`write_designs`, `render_files` and `ad_rankings` take lists and give one thing per item, in order; what is refused is refused
alone, with its reason. `design_tasks` and `render_tasks` do the same for tasks of a dataset, whose ads become preference pairs
(`preference_pairs.py`) or cases (`cases.py`), in this process and on a cluster (`on_ray/make_pairs.py`).
"""

import hashlib
import io
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from countryreward.data.decoding import ImageError, decode, pixels_of
from countryreward.data.design import Design
from countryreward.errors import UserError, each_or_refusal
from countryreward.generation.ad_contracts import (
    AdTask,
    DesignRequest,
    DesignWriter,
    Refusal,
    Rendered,
    RenderedFile,
    Renderer,
    RenderJob,
    Written,
    derived_seed,
)
from countryreward.generation.outcomes import Outcome, quarantined, refused
from countryreward.scoring.contracts import Product, ScoreRequest, Verdict
from countryreward.scoring.verdicts import ranking, rankings

MAX_BYTES, MAX_PIXELS = 10_000_000, 25_000_000
"""Of the picture of a task's product; a dataset has checked its own on import."""


@dataclass(frozen=True, kw_only=True)
class AdRequest:
    """Designs to write of one product for one market."""

    product: Product
    market: str
    """ISO 3166 alpha-2."""
    image: np.ndarray
    """The product's own picture, RGB uint8 [height, width, 3]."""
    image_hash: str
    """SHA-256 of its file, hex."""
    seeds: Sequence[int]
    """The writer's, one for each design."""

    def design_requests(self) -> list[DesignRequest]:
        """What the writer is asked, one per seed."""
        return [
            DesignRequest(
                product=self.product, market=self.market, image=self.image, image_hash=self.image_hash, seed=seed
            )
            for seed in self.seeds
        ]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A design that can be rendered."""

    design: Design
    seed: int
    """The writer's."""
    repaired: bool = False
    """Whether the answer had to be mended."""
    text: str = ""
    """As the writer answered."""


@dataclass(frozen=True, kw_only=True)
class WrittenDesigns:
    """What a writer answered to an `AdRequest`."""

    candidates: tuple[Candidate, ...]
    """All different, in the order of the seeds; of equal designs the first."""
    refusals: tuple[str, ...] = ()
    """Why an answer holds no design, of each such answer."""
    repeated: int = 0
    """Designs that were the same as an earlier one."""
    repaired: int = 0
    """Designs, repeated ones among them, that had to be mended."""


def write_designs(writer: DesignWriter, requests: Sequence[AdRequest]) -> list[WrittenDesigns | UserError]:
    """All designs in one call of the writer; where it refuses, request by request.

    `UserError` in place of designs: the product cannot be asked about.
    """

    def write(requests: Sequence[AdRequest]) -> list[WrittenDesigns]:
        answers = iter(writer.write([design for request in requests for design in request.design_requests()]))
        return [_different(request, list(itertools.islice(answers, len(request.seeds)))) for request in requests]

    return list(each_or_refusal(write, requests))


def _different(request: AdRequest, answers: Sequence[Written]) -> WrittenDesigns:
    """The answers without those that hold no design, and without repetitions."""
    candidates: dict[Design, Candidate] = {}
    for seed, answer in zip(request.seeds, answers, strict=True):
        if answer.design is not None:
            candidate = Candidate(design=answer.design, seed=seed, repaired=answer.repaired, text=answer.text)
            candidates.setdefault(answer.design, candidate)
    refusals = tuple(answer.reason or "the answer could not be read" for answer in answers if answer.design is None)
    return WrittenDesigns(
        candidates=tuple(candidates.values()),
        refusals=refusals,
        repeated=len(answers) - len(refusals) - len(candidates),
        repaired=sum(answer.repaired for answer in answers if answer.design is not None),
    )


@dataclass(frozen=True, kw_only=True)
class RenderedAds:
    """What came of the designs of one request."""

    candidates: tuple[Candidate, ...]
    files: tuple[RenderedFile, ...]
    """Of the candidates; all different, of equal files the first."""
    refusals: tuple[str, ...]
    """Why there is no ad of a design, of each such design."""
    repeated: int
    """Files that were the same as an earlier one."""


def rendered_files(
    renderer: Renderer, jobs: Sequence[RenderJob], *, on_pass: Callable[[int, float], None] | None = None
) -> Iterator[tuple[int, RenderedFile | Refusal]]:
    """(position of the job, its ad), each as soon as it is there. Jobs are checked first, and those that fail are refused; the
    others share a pass, and where the renderer refuses it, they are rendered one by one.

    on_pass: is told the ads and the seconds of every pass.
    """
    checked: list[int] = []
    for position, job in enumerate(jobs):
        try:
            renderer.check(job)
        except UserError as error:
            yield position, Refusal(reason=str(error))
        else:
            checked.append(position)

    def render(jobs: Sequence[RenderJob]) -> Iterator[RenderedFile]:
        began = time.monotonic()
        ads = renderer.render(jobs)
        if on_pass:
            on_pass(len(ads), time.monotonic() - began)
        return map(png_of, ads)

    answers = each_or_refusal(render, [jobs[position] for position in checked])
    for position, answer in zip(checked, answers, strict=True):
        yield position, Refusal(reason=str(answer)) if isinstance(answer, UserError) else answer


def render_files(renderer: Renderer, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
    """The ad of every job as a PNG file, in order. What the renderer cannot do is refused, and nothing is raised for it."""
    answers = dict(rendered_files(renderer, jobs))
    return [answers[position] for position in range(len(jobs))]


def png_of(rendered: Rendered) -> RenderedFile:
    """An ad as a PNG file: the same pixels give the same bytes."""
    assert (rendered.pixels.dtype, rendered.pixels.shape[2:]) == (np.uint8, (3,)), "RGB uint8 [px, px, 3]"
    buffer = io.BytesIO()
    Image.fromarray(rendered.pixels).save(buffer, "PNG")
    png = buffer.getvalue()
    digest = hashlib.sha256(png).hexdigest()
    return RenderedFile(png=png, sha256=digest, fidelity=rendered.fidelity, made=rendered.made)


def different_ads(candidates: Sequence[Candidate], answers: Sequence[RenderedFile | Refusal]) -> RenderedAds:
    """The candidates' ads without those that the renderer refused, and without repetitions. answers: one per candidate."""
    ads: dict[str, tuple[Candidate, RenderedFile]] = {}
    for candidate, answer in zip(candidates, answers, strict=True):
        if isinstance(answer, RenderedFile):
            ads.setdefault(answer.sha256, (candidate, answer))
    refusals = tuple(answer.reason for answer in answers if isinstance(answer, Refusal))
    return RenderedAds(
        candidates=tuple(candidate for candidate, _ in ads.values()),
        files=tuple(file for _, file in ads.values()),
        refusals=refusals,
        repeated=len(answers) - len(refusals) - len(ads),
    )


@dataclass(frozen=True, kw_only=True)
class AdRanking:
    """Ads of one product in one market, best first, and how each of them stands against the product's own picture."""

    market: str
    """ISO 3166 alpha-2."""
    order: tuple[int, ...]
    """Positions of the ads, best first; the original is none of them."""
    win_share: tuple[float, ...]
    """Of each ad as given: its mean stated probability of beating another one; .5 for an only ad among ads alone."""
    beats_original: tuple[float, ...]
    """Of each ad as given: its stated probability of beating the product's own picture."""
    original_rank: int
    """Of the product's own picture among the ads and itself; 1 is the best."""
    note: str | None
    """What the scorer says of this market; None: nothing."""
    model_version: str | None
    knowledge_base_version: str | None


def ranking_request(
    product: Product, ads: Sequence[bytes], original: bytes, markets: Sequence[str], **fields: Any
) -> ScoreRequest:
    """Every two of the ads, and each ad with the original, which is the last creative of the request.

    ads, original: files. fields: further ones of `ScoreRequest`.
    """
    pairs = tuple(itertools.combinations(range(len(ads) + 1), 2))
    return ScoreRequest.of_images(product, [*ads, original], pairs=pairs, markets=tuple(markets), **fields)


def ad_rankings(request: ScoreRequest, verdicts: Sequence[Verdict], *, original_counts: bool) -> list[AdRanking]:
    """One ranking per market of a `ranking_request`, from its verdicts.

    original_counts: whether an ad's share of wins, which decides its rank, counts the one over the original, too;
    else it is among ads alone.
    """
    last = len(request.creatives) - 1
    ranked = []
    for whole in rankings(request, verdicts):
        among = ranking(whole.market, last, [(a, b, verdict) for a, b, verdict in whole.verdicts if b != last])
        counted = whole if original_counts else among
        verdict = whole.verdicts[0][2]
        ranked.append(
            AdRanking(
                market=whole.market,
                order=tuple(position for position in counted.order if position != last),
                win_share=counted.win_share[:last],
                beats_original=tuple(verdict.stated_probability for _, b, verdict in whole.verdicts if b == last),
                original_rank=whole.order.index(last) + 1,
                note=next((verdict.note for *_, verdict in whole.verdicts if verdict.note), None),
                model_version=verdict.model_version,
                knowledge_base_version=verdict.knowledge_base_version,
            )
        )
    return ranked


@dataclass(frozen=True, kw_only=True)
class DesignedTask:
    """A task with its designs, all different, in the order of their seeds' numbers."""

    task: AdTask
    candidates: tuple[Candidate, ...]
    wanted: int
    """Designs that are needed at least: 2 for a pair, 1 for a case."""
    counts: dict[str, int]
    """As `Outcome.designs`: designs that were written, and of them repaired, not read, repeated."""

    @property
    def seed(self) -> int:
        """The renderer's, the same for all designs of the task: the ads differ in their designs alone."""
        return derived_seed(self.task, "render")

    def render_jobs(self) -> list[RenderJob]:
        """One per design, all with the same seed."""
        task, pixels = self.task, pixels_of_task(self.task)
        return [
            RenderJob(
                design=candidate.design,
                product=task.product,
                image=pixels,
                image_hash=task.image_hash,
                seed=self.seed,
            )
            for candidate in self.candidates
        ]


@dataclass(frozen=True, kw_only=True)
class RenderedTask:
    """A task with its ads, all different."""

    task: AdTask
    candidates: tuple[Candidate, ...]
    ads: tuple[RenderedFile, ...]
    """Of the candidates."""
    seed: int
    """The renderer's."""
    renderer: str
    """Its name and version."""
    counts: dict[str, int]
    """As `DesignedTask.counts`, and designs that could not be rendered or gave the same ad."""


def design_tasks(writer: DesignWriter, tasks: Sequence[AdTask], designs: int) -> list[DesignedTask | Outcome]:
    """So many designs per task, written in one call. Quarantined: a picture that cannot be decoded, a product that cannot be
    asked about, answers without a design (`refused_design`); dropped: the same design again (`same_design`)."""
    results: dict[int, DesignedTask | Outcome] = {}  # by position among the tasks
    requests: dict[int, AdRequest] = {}
    for position, task in enumerate(tasks):
        try:
            requests[position] = AdRequest(
                product=task.product,
                market=task.market,
                image=pixels_of_task(task),
                image_hash=task.image_hash,
                seeds=[derived_seed(task, "design", number) for number in range(designs)],
            )
        except ImageError as error:
            results[position] = quarantined(task, error.reason, "image", error.field_value)
    for position, answer in zip(requests, write_designs(writer, list(requests.values())), strict=True):
        task = tasks[position]
        results[position] = (
            refused(task, answer, "product") if isinstance(answer, UserError) else _designed(task, answer, designs)
        )
    return [results[position] for position in range(len(tasks))]


def _designed(task: AdTask, answer: WrittenDesigns, designs: int) -> DesignedTask | Outcome:
    counts = {"written": designs} | _above_zero(
        repaired=answer.repaired, not_read=len(answer.refusals), same_design=answer.repeated
    )
    wanted = min(2, designs)
    if len(answer.candidates) >= wanted:
        return DesignedTask(task=task, candidates=answer.candidates, wanted=wanted, counts=counts)
    if answer.refusals:
        return quarantined(task, "refused_design", "design", answer.refusals[0], counts)
    return Outcome(key=task.key, dropped="same_design", designs=counts)


def render_tasks(renderer: Renderer, designed: Sequence[DesignedTask]) -> list[RenderedTask | Outcome]:
    """All ads in one call of the renderer."""
    answers = iter(render_files(renderer, [job for task in designed for job in task.render_jobs()]))
    version = f"{renderer.name} {renderer.version}"
    return [rendered_task(task, list(itertools.islice(answers, len(task.candidates))), version) for task in designed]


def rendered_task(
    designed: DesignedTask, answers: Sequence[RenderedFile | Refusal], renderer: str
) -> RenderedTask | Outcome:
    """What came of the task's render jobs. Quarantined: too few ads could be made; dropped: they are the same (`same_ad`).

    answers: one per job. renderer: its name and version.
    """
    ads = different_ads(designed.candidates, answers)
    counts = designed.counts | _above_zero(not_rendered=len(ads.refusals), same_ad=ads.repeated)
    if len(ads.files) >= designed.wanted:
        return RenderedTask(
            task=designed.task,
            candidates=ads.candidates,
            ads=ads.files,
            seed=designed.seed,
            renderer=renderer,
            counts=counts,
        )
    if ads.refusals:
        return quarantined(designed.task, "refused_design", "design", ads.refusals[0], counts)
    return Outcome(key=designed.task.key, dropped="same_ad", designs=counts)


def pixels_of_task(task: AdTask) -> np.ndarray:
    """The product's own picture, RGB uint8 [height, width, 3]. Raises `ImageError` where it cannot be decoded or is too large."""
    return pixels_of(decode(task.image, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS))


def _above_zero(**counts: int) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


class AsyncWriter(Protocol):
    """Writers of one version that are awaited: actors, or one in a thread."""

    async def version(self) -> str:
        """Changes when the same task would get other designs."""
        ...

    async def design_tasks(self, tasks: Sequence[AdTask], designs: int) -> list[DesignedTask | Outcome]:
        """As the function of that name; it raises when the writer died or does not answer."""
        ...


class AsyncRenderer(Protocol):
    """A renderer that is awaited and answers with files: replicas of the generator, or one in a thread."""

    async def about(self) -> dict[str, Any]:
        """name, version, px."""
        ...

    async def render(self, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
        """As `render_files`; it raises when the renderer died or does not answer."""
        ...
