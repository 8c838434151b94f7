"""Checkpoints of a run: sealed folders, taken up only when every byte is what was written.

    checkpoints/step-00000400/   manifest.json, manifest.sha256, rank-0000.pt, ..., the engine's files

They are private to the run that wrote them (contract 6). We keep our own rather than Ray Train's because a run must resume
without Ray, fall back to the one before when the newest is damaged, and never load one that was reported but not whole.
"""

import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from countryreward.data.artifacts import Artifact, Draft, open_artifact, seal
from countryreward.data.file_primitives import sync_folder
from countryreward.errors import UserError
from countryreward.training.distributed import ProcessGroup
from countryreward.training.run_identity import differences

KIND = "checkpoint"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run folder. Every process of a training has one and calls each method together with the others."""

    folder: Path
    identity: dict[str, Any]
    """What the state depends on: a checkpoint of another identity is an error, never taken up."""
    ranks: ProcessGroup
    keep: int = 2
    """How many of the newest stay."""

    def save(self, step: int, state: dict[str, Any], write: Callable[[Path], None], *, size: int) -> Path:
        """Write this process's `state` and what `write` puts into the folder; then seal it, then remove the oldest.

        size: bytes of all processes together. Killed at any point, what lies under a `step-` name is whole. Raises `UserError`
        on every process when the disk is full, with the bytes needed; the checkpoints before stay as they are.
        """
        final, partial = self.folder / f"step-{step:08d}", self.folder / ".tmp-checkpoint"
        refusal = None
        if self.ranks.first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                for leftover in self.folder.glob(".tmp-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                refusal = self._room(size)
                if refusal is None:
                    partial.mkdir()
            except OSError as error:
                refusal = self._refusal(error, size)
        self.ranks.agree(refusal)
        try:
            write(partial)
            torch.save(state, partial / f"rank-{self.ranks.rank:04d}.pt")
        except OSError as error:
            refusal = self._refusal(error, size)
        except RuntimeError as error:
            if "PytorchStreamWriter" not in str(error):  # what torch.save raises where a write came short
                raise
            refusal = self._full(size, shutil.disk_usage(self.folder).free)
        self._agree_or_remove(refusal, partial)
        refusal = None
        if self.ranks.first:
            try:
                self._seal(partial, final, step)
            except OSError as error:
                refusal = self._refusal(error, size)
        self._agree_or_remove(refusal, partial)
        return final

    def newest(self, tell: Callable[[str], None]) -> tuple[Path, list[dict[str, Any]]] | None:
        """The newest whole checkpoint and the states of all processes that wrote it, by rank; None: there is none.

        A damaged one is set aside as `refused-...`, `tell` is told which file and why, and the one before is tried. Raises
        `UserError` when it is whole but of another identity.
        """
        newest = self.ranks.first_of(self._newest(tell) if self.ranks.first else None)
        if newest is None:
            return None
        path, refusal = newest
        self.ranks.agree(refusal)
        files = sorted(path.glob("rank-*.pt"))
        return path, [torch.load(file, map_location="cpu", weights_only=True) for file in files]

    def remove(self) -> None:
        """All of them: the run has finished."""
        if self.ranks.first:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _newest(self, tell: Callable[[str], None]) -> tuple[Path, str | None] | None:
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                return path, self._of_another_run(open_artifact(path, kind=KIND))
            except UserError as error:
                for earlier in self.folder.glob("refused-*"):  # one is kept to look at: damage must not fill the disk
                    shutil.rmtree(earlier, ignore_errors=True)
                aside = self.folder / f"refused-{path.name}"
                path.rename(aside)
                tell(f"checkpoint {path.name} is refused ({error}); set aside as {aside.name}, the one before is tried")
        return None

    def _of_another_run(self, checkpoint: Artifact) -> str | None:
        unlike = differences(self.identity, checkpoint.manifest.config)
        return (
            f"run_name: {checkpoint.path} was written with {unlike}; set these back, or give the run another name"
            if unlike
            else None
        )

    def _seal(self, partial: Path, final: Path, step: int) -> None:
        missing = [r for r in range(self.ranks.world) if not (partial / f"rank-{r:04d}.pt").is_file()]
        if missing:
            raise OSError(f"{partial} lacks the files of worker {missing[0]}: every worker must write to the same disk")
        seal(Draft(partial, {"step": step, "workers": self.ranks.world}), kind=KIND, config=self.identity, inputs=None)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
        sync_folder(self.folder)
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            doomed = old.with_name(f".tmp-{old.name}")
            os.rename(old, doomed)  # never a half-removed folder under its name
            shutil.rmtree(doomed, ignore_errors=True)

    def _agree_or_remove(self, refusal: str | None, partial: Path) -> None:
        try:
            self.ranks.agree(refusal)
        except UserError:
            if self.ranks.first:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _room(self, size: int) -> str | None:
        free = shutil.disk_usage(self.folder).free
        return None if free >= size else self._full(size, free)

    def _refusal(self, error: OSError, size: int) -> str:
        if error.errno in _FULL:
            return self._full(size, shutil.disk_usage(self.folder).free)
        return f"checkpoint: {self.folder} cannot be written ({error}); mend it and run the same command again"

    def _full(self, size: int, free: int) -> str:
        return (
            f"checkpoint: the disk is full: {size:,} bytes are needed in {self.folder}, {free:,} are free; free some (or lower "
            "loop.keep_checkpoints) and run the same command again: it goes on from the checkpoint before"
        )


def random_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's generators and those of all CUDA devices this process sees, as values that
    `torch.load(weights_only=True)` reads."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002  # what libraries draw from
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put every generator where `random_state` found it."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
