"""ZeRO's shards for another number of ranks: DeepSpeed's universal checkpoint, made for one load and removed."""

import argparse
import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

from countryreward.models.reward_model import RENAMED_TENSORS
from countryreward.training.distributed import ProcessGroup


@contextlib.contextmanager
def universal_form(folder: Path, tag: str) -> Iterator[Path]:
    """A folder with the state of `folder`/`tag` that any number of ranks can load. Every rank must enter and leave it.

    The first rank converts, onto the run's disk beside the checkpoint: about the checkpoint's size is needed there while the load
    takes. Raises `UserError` on every rank where that fails. It reads by pickle: give it a run's own, verified files.
    """
    ranks, made = ProcessGroup.current(), folder.parent / ".tmp-universal"
    refusal = None
    if ranks.first:
        try:
            shutil.rmtree(made, ignore_errors=True)
            _convert(folder / tag, made / tag)
        except (OSError, RuntimeError) as error:  # the second is what torch raises where a write comes short
            refusal = (
                f"checkpoint: {folder} cannot be converted for {ranks.world} workers ({error}); mend it and run the same "
                "command again"
            )
    ranks.agree(refusal)
    yield made
    ranks.agree(None)  # all have read
    if ranks.first:
        shutil.rmtree(made, ignore_errors=True)


def _convert(shards: Path, into: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    into.mkdir(parents=True)
    options = argparse.Namespace(
        input_folder=str(shards), output_folder=str(into), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)
    for old, new in RENAMED_TENSORS.items():  # DeepSpeed finds the states of a weight by its name: in zero/NAME/
        if (into / "zero" / old).is_dir():
            (into / "zero" / old).rename(into / "zero" / new)
