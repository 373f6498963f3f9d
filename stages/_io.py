"""What every stage needs: where things lie, its row of params.yaml, and errors as one line with exit code 2."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
import yaml

from secateur.errors import UserError, unknown_name

ARTIFACTS = Path("artifacts")
RESULTS = Path("results")
PARAMS = Path("params.yaml")
# Unfinished work that a later run may continue from. DVC empties a stage's outputs before it runs the stage, so
# whatever a resumed run needs has to lie outside of them.
UNFINISHED = ARTIFACTS / "unfinished"

P = ParamSpec("P")
R = TypeVar("R")


def read_params() -> dict[str, Any]:
    """The generated tables of the selected studies."""
    if not PARAMS.is_file():
        raise UserError(f"{PARAMS} does not exist here; run in the project's folder, after `python -m pipelines use smoke`")
    try:
        tables = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UserError(f"{PARAMS}{line}: not valid YAML; make it anew with `python -m pipelines use STUDY`") from None
    if not isinstance(tables, dict):
        raise UserError(f"{PARAMS} holds no tables; make it anew with `python -m pipelines use STUDY`")
    return tables


def read_section(name: str) -> Any:
    """A section of params.yaml that every study has, such as `compute`."""
    if name not in (tables := read_params()):
        raise UserError(f"{PARAMS} has no section {name}; make it anew with `python -m pipelines use STUDY`")
    return tables[name]


def read_row(table: str, key: str) -> dict[str, Any]:
    """Row `key` of `table` in params.yaml; an unknown key is a `UserError` that suggests near ones."""
    rows = read_params().get(table) or {}
    if not isinstance(rows, dict):
        raise UserError(f"{PARAMS}: {table} is no table; make it anew with `python -m pipelines use STUDY`")
    if key not in rows:
        raise unknown_name(f"key of `{table}` in {PARAMS}", key, rows)
    return rows[key]


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn `UserError` into one line on stderr and exit code 2, as every command of the project does."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None

    return wrapped


# The one place that silences every dependency: DVC, the Hub's libraries, MLflow, Prefect (client, server), and whoever heeds
# the common sign.
SILENT = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
# Threads that wait for others sleep instead of spinning: one stage alone is as fast, and two on the same cores share them
# (two evaluations on two cores: 32 seconds instead of 214).
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive"}


def offline_and_silent() -> None:
    """No telemetry from any dependency, no look-ups that a stage did not ask for, no spinning. Call before importing them."""
    for name, value in {**SILENT, **PATIENT_THREADS}.items():
        os.environ.setdefault(name, value)
