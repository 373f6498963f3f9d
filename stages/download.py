"""Fetch one model, text corpus or set of zero-shot data into `artifacts/`, checked against its SHA-256.

    python -m stages download model-smollm2

Reads the row of the table `download`; writes `artifacts/<path>/` whole or not at all. Where a download was cut off, the
next one continues it from `artifacts/unfinished/downloads/`, which is emptied when the row is done.
"""

import os
import shutil
from pathlib import Path

from pipelines.schema import DownloadRow, parse
from secateur.artifacts import temporary, whole_folder
from secateur.errors import UserError
from stages._checkpoints import make_model
from stages._corpora import make_corpus
from stages._io import ARTIFACTS, offline_and_silent, read_row
from stages._sources import MIRROR, open_source, verify
from stages._tasks import make_tasks


def run(key: str) -> None:
    """The stage: download the row `key`."""
    offline_and_silent()
    if os.environ.get(MIRROR):
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    download(parse(DownloadRow, read_row("download", key), f"download.{key}"), ARTIFACTS)


def download(row: DownloadRow, artifacts: Path) -> None:
    """Make `artifacts/<row.path>/`. Raises `UserError`; then neither it nor a wrong download is left behind."""
    target = artifacts / row.path
    scratch = artifacts / "unfinished" / "downloads" / row.path.replace("/", "--")
    scratch.mkdir(parents=True, exist_ok=True)
    source = None
    if row.source != "hub":
        source = open_source(row.source, "models" if row.kind == "model" else "datasets", scratch)
        verify(source, row.sha256, scratch)
    elif row.kind != "tasks" or row.sha256:
        raise UserError("source 'hub' (each task's own repository) is for kind tasks, without sha256")
    try:
        with whole_folder(target) as out:
            if row.kind == "model" and source:
                make_model(row, source, out)
            elif row.kind == "corpus" and source:
                make_corpus(row, source, out, scratch)
            else:
                make_tasks(row, source, out, scratch)
    finally:
        shutil.rmtree(temporary(target), ignore_errors=True)
    shutil.rmtree(scratch)
