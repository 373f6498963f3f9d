"""The database file that MLflow writes to where there is no server."""

import logging
import os
from pathlib import Path

from flows.locks import holding, private
from secateur.artifacts import temporary
from secateur.errors import UserError

DATABASE, ARTIFACTS, FILE = "mlflow.db", "mlartifacts", "sqlite:///"


def make_database(file: Path) -> None:
    """Let MLflow set up a new database, whole or not at all: one that was set up by half can never be used again."""
    with holding(private("track", f"database {file}"), f"sets up {file.name}"):
        if file.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        say_nothing_of_tables()
        new = temporary(file)
        for rest in file.parent.glob(f"{new.name}*"):
            rest.unlink()
        SqlAlchemyStore(f"{FILE}{new}", (file.parent / ARTIFACTS).as_posix()).engine.dispose()
        new.replace(file)


def say_nothing_of_tables() -> None:
    """No lines on how a new database is set up; to be called once MLflow is imported."""
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def must_be_usable(file: Path) -> None:
    """A `UserError` at once for what MLflow would try again for minutes: no file, or none that may be written."""
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is not a file, so it cannot be MLflow's database")
    there = file if file.exists() else file.parent
    if not os.access(there, os.W_OK):
        raise UserError(f"{there} cannot be written, but MLflow's database is {file}: name another in MLFLOW_TRACKING_URI")
