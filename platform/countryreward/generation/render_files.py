"""Jobs in, PNG files out: what a renderer cannot do is refused job by job, and nothing is raised for it."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from countryreward.errors import UserError
from countryreward.generation.ad_contracts import Refusal, Rendered, RenderedFile, Renderer, RenderJob


def render_files(renderer: Renderer, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
    """In order. Each job is checked, the good ones share a pass; when that is refused, they are tried one by one."""
    answers: dict[int, RenderedFile | Refusal] = {}
    for position, job in enumerate(jobs):
        try:
            renderer.check(job)
        except UserError as error:
            answers[position] = Refusal(reason=str(error))
    good = [position for position in range(len(jobs)) if position not in answers]
    answers |= zip(good, _render(renderer, [jobs[position] for position in good]), strict=True)
    return [answers[position] for position in range(len(jobs))]


def png_of(rendered: Rendered) -> RenderedFile:
    """An ad as a PNG file: the same pixels give the same bytes."""
    assert (rendered.pixels.dtype, rendered.pixels.shape[2:]) == (np.uint8, (3,)), "RGB uint8 [px, px, 3]"
    buffer = io.BytesIO()
    Image.fromarray(rendered.pixels).save(buffer, "PNG")
    png = buffer.getvalue()
    digest = hashlib.sha256(png).hexdigest()
    return RenderedFile(png=png, sha256=digest, fidelity=rendered.fidelity, made=rendered.made)


def _render(renderer: Renderer, jobs: Sequence[RenderJob]) -> list[RenderedFile | Refusal]:
    if not jobs:
        return []
    try:
        return [png_of(rendered) for rendered in renderer.render(jobs)]
    except UserError as error:
        if len(jobs) == 1:
            return [Refusal(reason=str(error))]
        return [answer for job in jobs for answer in _render(renderer, [job])]  # one of them: which
