"""Where MLflow is, and what it says when it does not answer."""

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import UserError, unknown_name
from stages._live import DEFAULT

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
TRACK = "python -m flows track"
SUBJECT, STUDY = "secateur.subject", "secateur.study"
ROLE, DIGEST = "secateur.role", "secateur.digest"


def address() -> str:
    """MLFLOW_TRACKING_URI, or the database of the project in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / DATABASE}"


def experiment_name() -> str:
    """The experiment that mirrors this project; the live runs of the stages are in it too."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT["MLFLOW_EXPERIMENT_NAME"]


def is_server() -> bool:
    """Whether the address is a server's; otherwise it is a database."""
    return address().startswith(("http:", "https:", "databricks"))


def shown() -> str:
    """The address without a password."""
    return re.sub("//[^/@]*@", "//", address())


@contextmanager
def answering() -> Iterator["MlflowClient"]:
    """A client of `address()`; whatever MLflow refuses or does not answer while this is open is a `UserError` of one line."""
    for variable, value in DEFAULT.items():  # a server that does not answer is given up within a minute
        os.environ.setdefault(variable, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    for chatty in ("mlflow", "alembic"):  # how a new database is set up
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        yield MlflowClient(address(), address())
    except (MlflowException, SQLAlchemyError, RequestException) as error:
        first = str(error).partition("\n")[0]
        raise UserError(
            f"MLflow at {shown()}: {first}; is the server running? MLFLOW_TRACKING_URI names it (unset: {DATABASE} here)"
        ) from None


def experiment(client: "MlflowClient") -> str | None:
    """The id of the experiment, None if there is none yet. A deleted one is a `UserError`."""
    found = client.get_experiment_by_name(experiment_name())
    if found and found.lifecycle_stage != "active":
        raise UserError(
            f"the experiment {found.name!r} is deleted in MLflow; `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}` brings it back, MLFLOW_EXPERIMENT_NAME names another"
        )
    return found.experiment_id if found else None


def make_experiment(client: "MlflowClient") -> str:
    """The id of the experiment. Without a server its artifacts lie in the project, else where the server puts them."""
    name = experiment_name()
    folder = None if is_server() else (Path.cwd() / ARTIFACTS / name).as_posix()
    return experiment(client) or client.create_experiment(name, folder)


def tracked_studies(client: "MlflowClient") -> dict[str, str]:
    """Studies that MLflow has, and the id of the run of each."""
    there = experiment(client) if _there() else None
    if there is None:
        return {}
    found = client.search_runs([there], f"tags.`{ROLE}` = 'study' and tags.`{DIGEST}` != ''", max_results=1000)
    return {run.data.tags[STUDY]: run.info.run_id for run in found}


def tracked_study(client: "MlflowClient", study: str) -> tuple[str, str]:
    """The ids of the experiment and of the run of a study; a `UserError` with the next step if there is none."""
    studies = tracked_studies(client)
    if not studies:
        raise UserError(f"nothing is tracked yet in {shown()}, experiment {experiment_name()!r}; start with `{TRACK}`")
    if study not in studies:
        raise UserError(f"{unknown_name('study', study, studies)}; `{TRACK}` adds the studies of params.yaml")
    found = experiment(client)
    assert found
    return found, studies[study]


def _there() -> bool:
    """False where asking would make an empty database of the project."""
    default = f"sqlite:///{Path.cwd() / DATABASE}"
    return address() != default or (Path.cwd() / DATABASE).is_file()


def lock() -> "BaseFileLock":
    """One writer at a time for each address and experiment, on this machine: a second one waits."""
    from filelock import FileLock

    folder = Path(tempfile.gettempdir()) / f"secateur-track-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(f"{address()} {experiment_name()}".encode()).hexdigest()[:32]
    return FileLock(folder / f"{name}.lock")
