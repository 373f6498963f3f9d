"""Fetch one model, text corpus or set of zero-shot data into `artifacts/`, checked against its SHA-256.

    python -m stages download model-smollm2

Reads the row of the table `download`; writes `artifacts/<path>/` whole or not at all. Where a download was cut off, the
next one continues it from `artifacts/unfinished/downloads/`, which is emptied when the row is done.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.schema import DownloadRow, parse
from secateur.errors import UserError
from secateur.outputs import check_output, whole_folder
from stages._checkpoints import make_model
from stages._corpora import make_corpus
from stages._io import ARTIFACTS, offline_and_silent, read_row
from stages._one_line import one_line
from stages._sources import MIRROR, open_source, verify
from stages._tasks import make_tasks


def run(key: str, force: bool = False) -> None:
    """The stage: download the row `key`; `force` replaces what an earlier download left."""
    offline_and_silent()
    if os.environ.get(MIRROR):
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    download(parse(DownloadRow, read_row("download", key), f"download.{key}"), ARTIFACTS, force)


def download(row: DownloadRow, artifacts: Path, overwrite: bool = False) -> None:
    """Make `artifacts/<row.path>/`. Raises `UserError`; then neither it nor a wrong download is left behind. That it exists is
    one such error, unless it is an untouched result of ours and `overwrite` is set."""
    target = artifacts / row.path
    scratch = artifacts / "unfinished" / "downloads" / row.path.replace("/", "--")
    check_output(target, overwrite=overwrite)
    source = None
    with _kept_if_needed(scratch):
        if row.source != "hub":
            with one_line(row.source):
                source = open_source(row.source, "models" if row.kind == "model" else "datasets", scratch)
                verify(source, row.sha256, scratch)
        elif row.kind != "tasks" or row.sha256:
            raise UserError("source 'hub' (each task's own repository) is for kind tasks, without sha256")
        with whole_folder(target, overwrite) as out, one_line(row.source):
            if row.kind == "model" and source:
                make_model(row, source, out, scratch)
            elif row.kind == "corpus" and source:
                make_corpus(row, source, out, scratch)
            else:
                make_tasks(row, source, out, scratch)


@contextmanager
def _kept_if_needed(scratch: Path) -> Iterator[None]:
    """Remove the folder with what has been fetched when all is done, or if nothing has been."""
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield
        shutil.rmtree(scratch)
    finally:
        with suppress(OSError):
            scratch.rmdir()
