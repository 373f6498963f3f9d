"""What a flow shows in Prefect: how far a stage is, and the table of results at the end."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pandas as pd
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

EVERY = 5.0  # seconds between two updates of a progress artifact


class Progress:
    """The bar of a stage, from 0 to 100 percent; it appears with the first number, so a short stage has none."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.artifact: UUID | None = None
        self.told = time.monotonic()

    def __call__(self, percent: int) -> None:
        """The newest number, passed on every few seconds."""
        if time.monotonic() - self.told >= EVERY:
            self._tell(percent)

    def done(self) -> None:
        """The stage is at its end."""
        if self.artifact:
            self._tell(100)

    def _tell(self, percent: int) -> None:
        self.told = time.monotonic()
        with only_shown("the progress"):
            if self.artifact is None:
                self.artifact = create_progress_artifact(float(percent), key=key(self.stage), description=self.stage)  # pyright: ignore
            else:
                update_progress_artifact(self.artifact, float(percent))


@contextmanager
def only_shown(what: str) -> Iterator[None]:
    """Nothing that goes wrong in here, such as a server that is away, may end a stage or a flow: it is only not shown."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("%s could not be shown: %s", what, error)


def key(name: str) -> str:
    """A name as Prefect allows it for an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def publish(root: Path) -> None:
    """The table of results/report.csv, as a table and as text, and links to the report and to MLflow; nothing if there is no
    report yet."""
    file = root / "results" / "report.csv"
    if not file.is_file():
        return
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    with only_shown("the results"):
        create_table_artifact(rows.to_dict("records"), key="results", description="results/report.csv")  # pyright: ignore
        create_markdown_artifact(rows.to_markdown(index=False), key="results-text", description="results/report.csv")
        create_link_artifact((root / "results" / "report.html").resolve().as_uri(), link_text="report.html", key="report")
        if (address := os.environ.get("MLFLOW_TRACKING_URI", "")).startswith("http"):
            create_link_artifact(re.sub("//[^/@]*@", "//", address), link_text="MLflow", key="mlflow")
