"""A long stage that is watched live in MLflow: only where MLFLOW_TRACKING_URI names a server or a database, and only numbers.

A run is made active, named after the row, with a tag `dvc.key` by which whoever reads dvc.lock finds it. The Trainer's own
callback sends loss, learning rate and held-out perplexity to it; other stages send what they count by `Tell`. Work that was
killed goes on in its run.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from secateur.errors import UserError

Tell = Callable[[Mapping[str, float], int], None]  # numbers, and the step they belong to
# No copies of checkpoints, none of the Trainer's hundred arguments; and a server that does not answer is given up within a
# minute.
FIXED = {"HF_MLFLOW_LOG_ARTIFACTS": "FALSE", "MLFLOW_MAX_LOG_PARAMS": "0"}
DEFAULT = {
    "MLFLOW_EXPERIMENT_NAME": "secateur",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@contextmanager
def live(dvc_key: str, name: str, settings: Mapping[str, Any], identity: Mapping[str, Any], resume: bool) -> Iterator[Tell]:
    """While this is open, an MLflow run of the row is active in this process, if it is the first of its training.

    `identity`: JSON values that decide the numbers; with `resume`, the newest run of the row that has the same goes on.
    Raises a `UserError` before any work is done if MLflow is not installed or does not answer. Once it has begun, nothing that
    happens to the server ends it. Where nobody watches, what is told goes nowhere.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address or os.environ.get("RANK", "0") != "0":
        yield lambda numbers, step: None
        return
    from secateur.determinism import fingerprint
    from secateur.packages import need
    from secateur.walk import code_digest

    need("watching a stage in MLflow", "mlflow")
    os.environ.update(FIXED)
    for variable, value in DEFAULT.items():
        os.environ.setdefault(variable, value)
    for variable in ("MLFLOW_RUN_ID", "MLFLOW_NESTED_RUN"):  # of something around this process; the run is chosen here
        os.environ.pop(variable, None)
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    failures = (MlflowException, SQLAlchemyError, OSError)
    conditions = {"code": code_digest(), "conditions": fingerprint(), "processes": os.environ.get("WORLD_SIZE", "1")}
    digest = hashlib.sha256(json.dumps([identity, conditions], sort_keys=True).encode()).hexdigest()
    tags = {"dvc.key": dvc_key, "secateur.identity": digest}
    try:
        experiment = mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"]).experiment_id
        chosen = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        same = mlflow.MlflowClient().search_runs([experiment], chosen, max_results=1) if resume else []
        mlflow.start_run(same[0].info.run_id if same else None, run_name=name, tags=tags)
        mlflow.log_params(dict(settings))
    except failures as error:
        why = f"MLFLOW_TRACKING_URI {address} cannot be used ({_first_line(error)}): start the server, or unset the variable"
        raise UserError(re.sub("//[^/@]*@", "//", why)) from None  # without a password
    status, lost = "FAILED", False

    def tell(numbers: Mapping[str, float], step: int) -> None:
        nonlocal lost
        if lost:
            return
        try:
            mlflow.log_metrics(dict(numbers), step=step)
        except failures as error:
            lost = True  # its time-outs would cost more than the work
            typer.echo(f"note: MLflow is told no more of {name}: {_first_line(error)}", err=True)

    try:
        yield tell
        status = "FINISHED"
    finally:
        try:
            mlflow.end_run(status)
        except failures as error:
            typer.echo(f"note: MLflow was not told the end of {name}: {_first_line(error)}", err=True)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
