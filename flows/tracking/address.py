"""Where MLflow is, and what it says when it does not answer."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows.tracking.database import ARTIFACTS, DATABASE, FILE, make_database, must_be_usable, say_nothing_of_tables
from secateur.errors import UserError, unknown_name
from stages._live import DEFAULT

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRACK = "python -m flows track"
SUBJECT, STUDY = "secateur.subject", "secateur.study"
ROLE, DIGEST = "secateur.role", "secateur.digest"
KIND, RUNS = "mlflow.experimentKind", "custom_model_development"  # its page shows runs first, not traces


def address() -> str:
    """MLFLOW_TRACKING_URI, or the database of the project in the working directory."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not chosen:
        return f"{FILE}{_database()}"
    try:
        urlsplit(chosen)
    except ValueError as error:
        raise UserError(f"MLFLOW_TRACKING_URI={_public(chosen)}: {error}") from None
    if re.fullmatch(r"sqlite:/{0,3}(:memory:)?", chosen):
        raise UserError(f"MLFLOW_TRACKING_URI={chosen} is a database in memory, of which nothing stays: sqlite:///FILE is one")
    return chosen


def _database() -> Path:
    file = Path.cwd() / DATABASE
    if not str(file).isprintable() or set("?%'\"") & set(str(file)):
        raise UserError(f"{str(file)!r} cannot be part of an address: name the project's folder without ? % ' \" and odd bytes")
    return file


def experiment_name() -> str:
    """The experiment that mirrors this project; the live runs of the stages are in it too."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT["MLFLOW_EXPERIMENT_NAME"]
    if name in (".", "..") or "/" in name:
        raise UserError(f"MLFLOW_EXPERIMENT_NAME={name} names a folder, too: it must not be . or .. or contain /")
    return name


def is_server() -> bool:
    """Whether the address is a server's; otherwise it is a database."""
    return address().startswith(("http:", "https:", "databricks"))


def shown() -> str:
    """The address without a password."""
    return _public(address())


def _public(text: str) -> str:
    return re.sub("//[^/@]*@", "//", text)


@contextmanager
def answering(makes: bool = False) -> Iterator["MlflowClient"]:
    """A client of `address()`; whatever MLflow refuses or does not answer while this is open is a `UserError` of one line.

    Only where it `makes` something it sets up the project's database.
    """
    if not makes and not _there():
        raise _nothing()
    if address().startswith(FILE):
        must_be_usable(Path(address().removeprefix(FILE).partition("?")[0]))
    # A server that does not answer is given up within a minute, and no line is printed for every run.
    for variable, value in {**DEFAULT, "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}.items():
        os.environ.setdefault(variable, value)
    from alembic.util import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException, RestException
    from sqlalchemy.exc import SQLAlchemyError

    say_nothing_of_tables()
    try:
        if _is_own():
            make_database(_database())
        yield MlflowClient(address(), address())
    except (MlflowException, SQLAlchemyError, CommandError, ImportError, OSError) as error:
        first = _public(str(error).partition("\n")[0])
        silent = is_server() and not isinstance(error, RestException)
        hint = f"; start the server, or unset MLFLOW_TRACKING_URI for {DATABASE} of the project" if silent else ""
        raise UserError(f"MLflow at {shown()}: {first}{hint}") from None


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
    found = experiment(client) or client.create_experiment(name, folder)
    if client.get_experiment(found).tags.get(KIND) != RUNS:  # a live run may have made the experiment
        client.set_experiment_tag(found, KIND, RUNS)
    return found


def tracked_studies(client: "MlflowClient") -> dict[str, str]:
    """Studies that MLflow has, and the id of the run of each."""
    there = experiment(client)
    if there is None:
        return {}
    found = client.search_runs([there], f"tags.`{ROLE}` = 'study'", max_results=1000)
    return {run.data.tags[STUDY]: run.info.run_id for run in found}


def tracked_study(client: "MlflowClient", study: str) -> tuple[str, str]:
    """The ids of the experiment and of the run of a study; a `UserError` with the next step if there is none."""
    studies = tracked_studies(client)
    if not studies:
        raise _nothing()
    if study not in studies:
        raise UserError(f"{unknown_name('study', study, studies)}; `{TRACK}` adds the studies of params.yaml")
    found = experiment(client)
    assert found
    return found, studies[study]


def _nothing() -> UserError:
    return UserError(f"nothing is tracked yet in {shown()}, experiment {experiment_name()!r}; start with `{TRACK}`")


def _there() -> bool:
    """False where asking would make an empty database of the project."""
    return not _is_own() or _database().is_file()


def _is_own() -> bool:
    return not os.environ.get("MLFLOW_TRACKING_URI")
