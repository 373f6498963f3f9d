"""Where a killed training continues: the Trainer's own checkpoints, each sealed once it is whole.

The Trainer writes a checkpoint file by file under its final name, so a kill leaves half of one. `seal_checkpoint` adds checksums
when everything is written, and only what they confirm is continued from. The optimizer's and generators' states are torch's
pickles, which the Trainer reads with `weights_only`; they live in the work folder and never reach an artifact.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.artifacts import SUMS, check_folder, write_sums, writing
from secateur.errors import UserError

KEPT = 3  # the newest, the one before it while the newest is being written, and the best


@contextmanager
def writing_checkpoints(folder: Path) -> Iterator[None]:
    """`writing`; what torch raises when a checkpoint does not fit on the disk, without the reason, becomes a `UserError` too."""
    try:
        with writing(folder):
            yield
    except RuntimeError as error:
        if "inline_container" not in str(error):  # the part of torch that writes its files
            raise
        raise UserError(f"{folder}: a checkpoint cannot be written; run the same again once the disk has room") from None


def seal_checkpoint(folder: Path, step: int) -> None:
    """Mark the checkpoint of a step in `folder` as whole."""
    write_sums(folder / f"checkpoint-{step}")


def last_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint; whatever is not whole is removed. None: begin at the beginning."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / SUMS).is_file() and not check_folder(path)]
    for path in found:
        if path not in whole:
            shutil.rmtree(path)
    return whole[-1] if whole else None
