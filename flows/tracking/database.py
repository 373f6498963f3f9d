"""The database file that MLflow writes to where there is no server."""

import hashlib
import logging
import os
from pathlib import Path

from flows.locks import holding, private_folder
from secateur.artifacts import temporary
from secateur.errors import UserError


def make_database(file: Path) -> None:
    """Let MLflow set up a new database, whole or not at all: one that was set up by half can never be used again."""
    name = hashlib.sha256(str(file).encode()).hexdigest()[:32]
    with holding(private_folder("track") / f"{name}.database.lock", f"sets up {file.name}"):
        if file.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        say_nothing_of_tables()
        new = temporary(file)
        for rest in file.parent.glob(f"{new.name}*"):
            rest.unlink()
        SqlAlchemyStore(f"sqlite:///{new}", (file.parent / "mlartifacts").as_posix()).engine.dispose()
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
