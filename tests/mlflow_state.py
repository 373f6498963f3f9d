"""All that an MLflow has in one experiment, as plain values: to see what changed, or that nothing did."""

import hashlib
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

EXPERIMENT = "secateur"


def state(client: MlflowClient, with_deleted: bool = True) -> dict[str, dict[str, Any]]:
    """Run id -> everything about it, times and files included."""
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found
    view = ViewType.ALL if with_deleted else ViewType.ACTIVE_ONLY
    return {run.info.run_id: described(client, run) for run in client.search_runs([found.experiment_id], "", view, 5000)}


def described(client: MlflowClient, run: Any) -> dict[str, Any]:
    """One run: info, parameters, tags, every value of every metric, inputs, and the files beside it with their digests."""
    inputs = [
        (source.dataset.name, source.dataset.digest, [tag.value for tag in source.tags]) for source in run.inputs.dataset_inputs
    ]
    history = {name: [dict(entry) for entry in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    files = {path.relative_to(folder).as_posix(): digest(path) for path in folder.rglob("*") if path.is_file()}
    data = {"params": run.data.params, "tags": run.data.tags, "history": history, "inputs": sorted(inputs), "files": files}
    return data | {"info": dict(run.info)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def subjects(client: MlflowClient) -> dict[str, Any]:
    """Subject -> its one active run; two of them fail."""
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found
    runs = client.search_runs([found.experiment_id], "tags.`secateur.role` = 'subject'", max_results=5000)
    names = [run.data.tags["secateur.subject"] for run in runs]
    assert len(names) == len(set(names)), "two runs of one subject"
    return dict(zip(names, runs, strict=True))
