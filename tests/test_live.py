"""A training that is watched live in MLflow: the same bytes, one run for one training, and no training without its server."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from secateur.artifacts import identity, read_json
from tests.finetune_project import RUN, STEPS, make_project, training_key

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
KEY = training_key("masked_lora")
KILLED = """
import os, signal
from secateur.finetune.trainer import FineTuner
from stages.lora_finetune import run
own, passes = FineTuner.training_step, []
def step(self, *args, **kwargs):
    passes.append(0)
    if len(passes) == 15:  # in the eighth step: two passes make a batch
        os.kill(os.getpid(), signal.SIGKILL)
    return own(self, *args, **kwargs)
FineTuner.training_step = step
"""


@pytest.fixture(scope="module")
def trained(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose fine-tuning nobody watched."""
    root = make_project(tmp_path_factory.mktemp("project"), tiny_model("llama"), dropout=0.1)
    done = stage(root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """The same project before it."""
    root = shutil.copytree(trained, tmp_path / "project")
    shutil.rmtree(root / "artifacts" / "adapters")
    return root


def stage(root: Path, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The stage, or other code with its key, in a process of its own."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    given = here | {"PYTHONPATH": str(ROOT)} | environment
    command = ["-m", "stages", "lora-finetune", KEY] if code is None else ["-c", f"{code}\nrun({KEY!r})"]
    return subprocess.run([sys.executable, *command], cwd=root, env=given, capture_output=True, text=True)


def runs(address: str) -> list[Any]:
    """Every run of the default experiment."""
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name("secateur")
    assert experiment
    return client.search_runs([experiment.experiment_id])


def curve(address: str, run: Any, metric: str) -> dict[int, float]:
    """A metric by step."""
    return {entry.step: entry.value for entry in mlflow.MlflowClient(address).get_metric_history(run.info.run_id, metric)}


def test_it_is_told_step_by_step_and_changes_no_byte(project: Path, trained: Path, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    done = stage(project, MLFLOW_TRACKING_URI=address, MLFLOW_RUN_ID="0" * 32)
    assert done.returncode == 0, done.stderr
    (run,) = runs(address)
    assert run.info.run_name == KEY and run.info.status == "FINISHED"
    assert run.data.tags["dvc.key"] == f"lora-finetune@{KEY}"
    assert run.data.params["rate"] == "0.02" and run.data.params["source"] == f"pruned/{RUN}"
    rows = read_json(project / "results" / "finetune" / f"{KEY}.json")["curve"]
    assert len(rows) == STEPS + 1
    for metric, column in (("loss", "loss"), ("learning_rate", "learning_rate"), ("eval_perplexity", "held_out_perplexity")):
        wanted = {row["step"]: row[column] for row in rows if row[column] is not None}
        assert len(wanted) > 3 and curve(address, run, metric) == pytest.approx(wanted)
    assert not mlflow.MlflowClient(address).list_artifacts(run.info.run_id)
    assert identity(project / "artifacts" / "adapters" / KEY) == identity(trained / "artifacts" / "adapters" / KEY)


def test_a_training_that_was_killed_goes_on_in_its_run(project: Path, trained: Path, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    assert stage(project, KILLED, MLFLOW_TRACKING_URI=address).returncode == -signal.SIGKILL
    (killed,) = runs(address)
    assert killed.info.status == "RUNNING"
    assert stage(project, MLFLOW_TRACKING_URI=address).returncode == 0
    (run,) = runs(address)
    assert run.info.run_id == killed.info.run_id and run.info.status == "FINISHED"
    assert sorted(curve(address, run, "loss")) == list(range(1, STEPS + 1))
    assert identity(project / "artifacts" / "adapters" / KEY) == identity(trained / "artifacts" / "adapters" / KEY)
    assert stage(project, MLFLOW_TRACKING_URI=address).returncode == 2
    assert len(runs(address)) == 1, "what is refused because it is finished is no run"
    shutil.rmtree(project / "artifacts" / "adapters")
    assert stage(project, MLFLOW_TRACKING_URI=address).returncode == 0
    assert len(runs(address)) == 2, "a training from the beginning is a run of its own"


def test_pruning_is_told_block_by_block_and_changes_no_byte(project: Path, trained: Path, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/mlflow.db"
    shutil.rmtree(project / "artifacts" / "pruned" / RUN)
    command = [sys.executable, "-m", "stages", "prune", RUN]
    given = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": address}
    done = subprocess.run(command, cwd=project, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    masks = [sorted((root / "artifacts" / "pruned" / RUN / "masks").iterdir()) for root in (project, trained)]
    assert [file.read_bytes() for file in masks[0]] == [file.read_bytes() for file in masks[1]] and len(masks[0]) == 3
    (run,) = runs(address)
    assert run.data.tags["dvc.key"] == f"prune@{RUN}" and run.info.status == "FINISHED"
    assert curve(address, run, "progress") == pytest.approx({0: 1 / 3, 1: 2 / 3, 2: 1.0})
    assert curve(address, run, "block_sparsity") == pytest.approx(dict.fromkeys(range(3), 0.5), abs=0.01)


def test_without_its_server_nothing_is_trained(project: Path) -> None:
    done = stage(project, MLFLOW_TRACKING_URI="http://name:secret@127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 2 and "error: MLFLOW_TRACKING_URI http://127.0.0.1:9 cannot be used" in done.stderr
    assert "unset the variable" in done.stderr and "Traceback" not in done.stderr and "secret" not in done.stderr
    assert not any((project / "artifacts" / folder / KEY).exists() for folder in ("adapters", "unfinished/adapters"))
