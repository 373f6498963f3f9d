"""Files beside a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flows.tracking.address import ARTIFACTS, is_server

if TYPE_CHECKING:
    from mlflow import MlflowClient

BY_SERVER = "mlflow-artifacts:"


@contextmanager
def attached(client: "MlflowClient", run: Any) -> Iterator[Path]:
    """An empty folder; what is in it at the end becomes artifacts of the run, over those of the same name.

    `python -m flows server` keeps the artifacts of its experiments in the folder mlartifacts of the project. Where such an
    experiment is written without the server, into the same database, they are put there directly.
    """
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    with TemporaryDirectory() as folder:
        yield Path(folder)
        place = run.info.artifact_uri
        if place.startswith(BY_SERVER) and not is_server():
            place = Path.cwd() / ARTIFACTS / place.removeprefix(BY_SERVER).lstrip("/")
            LocalArtifactRepository(place.as_posix()).log_artifacts(folder)
        else:
            client.log_artifacts(run.info.run_id, folder)
