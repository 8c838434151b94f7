"""The contract of every kind of judge, and how a model folder's judge is opened.

Legend: n images or questions, P patches of an image, W the tower's width, O orders in which a pair is asked, D a state's width.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from countryreward.data.creative_identity import Copy
from countryreward.errors import UserError
from countryreward.models.processor import Picture

ImageFeatures = Callable[[list[str]], torch.Tensor]
"""Content hashes -> what the judge's `encode` gave for these images, [n, P, W], in order, on the judge's device."""


@dataclass(frozen=True, kw_only=True)
class JudgeQuestion:
    """One pair in one market, as every kind of judge is asked it."""

    title: str
    category: str | None = None
    attributes: dict[str, str]
    tags: list[str]
    market: str
    """ISO 3166 alpha-2."""
    images: tuple[str, str]
    """Content hashes of A and B."""
    copies: tuple[Copy | None, Copy | None] = (None, None)
    """The words of A and B; None: an ad without words."""
    log_odds: float = 0.0
    """The prior's, that A wins; 0: no prior, or no opinion."""
    letter: str | None = None
    """The prior's letter; None without a prior, or at a tie."""


class Judge(Protocol):
    """A fitted judge. One thread at a time, but for `patches`."""

    @property
    def kind(self) -> str:
        """Such as `pairwise`: what the model folder's config.json names as `model_type` decides it."""
        ...

    @property
    def reads_prior(self) -> bool:
        """Whether the prior moves its logits; only then do past ads speak in a verdict."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def patches(self, picture: Picture) -> torch.Tensor:
        """[P, values of a patch] float32: all that `encode_patches` needs of a picture. Any thread."""
        ...

    def encode_patches(self, patches: torch.Tensor, images: int) -> torch.Tensor:
        """[images P, values of a patch] of so many pictures, one after the other -> their features [images, P, W]."""
        ...

    def prepare(self, question: JudgeQuestion) -> Any:
        """The question in the judge's own form. Raises `UserError` for one that it refuses."""
        ...

    def tokens(self, prepared: Any) -> int:
        """What answering a prepared question costs, for batching."""
        ...

    def images(self, prepared: Any) -> tuple[str, ...]:
        """Content hashes of the images whose features a prepared question needs."""
        ...

    def logits(self, prepared: Sequence[Any], features: ImageFeatures) -> NDArray[np.float32]:
        """[n]: log-odds that A gets the higher CTR, all questions in one forward pass, not calibrated."""
        ...

    def states(self, prepared: Sequence[Any], features: ImageFeatures) -> NDArray[np.float32]:
        """[n, O, D]: what the judge's head reads, all questions in one forward pass."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights, config and processor into `folder`, in safetensors."""
        ...


def encode_pictures(judge: Judge, pictures: Sequence[Picture], batch_size: int) -> torch.Tensor:
    """Features of decoded pictures, [n, P, W] on the judge's device, `batch_size` pictures per pass."""
    parts = []
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        parts.append(judge.encode_patches(torch.cat([judge.patches(picture) for picture in batch]), len(batch)))
    return torch.cat(parts) if parts else torch.zeros(0)


def all_logits(judge: Judge, prepared: Sequence[Any], features: ImageFeatures, batch_size: int) -> NDArray[np.float64]:
    """[n], in order, asked in batches of questions of like cost."""
    logits = np.zeros(len(prepared))
    order = np.argsort([judge.tokens(question) for question in prepared], kind="stable")
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        logits[batch] = judge.logits([prepared[i] for i in batch], features)
    return logits


def load_judge(folder: Path, device: torch.device | str = "cpu", *, encode_only: bool = False) -> Judge:
    """The judge of a model folder, loaded to `device`. Raises `UserError` for a kind that this release does not know.

    encode_only: keep in memory only what encodes images; nothing else can then be asked of it.
    """
    from countryreward.judges.pairwise import PairwiseJudge

    kinds = {"country_reward": PairwiseJudge}
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type not in kinds:
        raise UserError(
            f"model: {folder} holds a judge of type {model_type!r}; this release knows {', '.join(kinds)}: use the release that "
            "published it"
        )
    return kinds[model_type].load(folder, device, encode_only=encode_only)
