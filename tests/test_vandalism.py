"""Everything at once in one clone: nobody's result is lost, and the state that is left is one that a quiet run would leave."""

import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from tests import check_project
from tests.check_project import copy_project, git, make_project
from tests.flow_project import PATIENCE, flows, lock, run, start

pytestmark = pytest.mark.slow


def test_two_repros_a_flow_and_a_track_at_once(tiny_model: Callable[[str], Path], prefect_server: str, tmp_path: Path) -> None:
    quiet = make_project(tmp_path / "quiet", tiny_model("llama"))
    git(quiet, "add", "--all")
    git(quiet, "commit", "--quiet", "--message", "a project")
    loud = copy_project(quiet, tmp_path / "loud")
    run(quiet, "dvc", "repro")
    database = f"sqlite:///{loud / 'mlflow.db'}"
    repro = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro"]
    commands = {
        "repro": repro,
        "again": repro,
        "flow": flows("reproduce"),
        "track": flows("track"),
    }
    running = {
        name: start(loud, *command, log=tmp_path / f"{name}.log", PREFECT_API_URL=prefect_server, PYTHONPATH=str(loud))
        for name, command in commands.items()
    }
    codes = {name: process.wait(PATIENCE) for name, process in running.items()}
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in running}
    assert codes["flow"] == 0, logs["flow"]
    for name in ("repro", "again"):  # which may find a file in use, and have to say so
        assert codes[name] == 0 or "is busy, it is being blocked by" in logs[name], logs[name]
    assert codes["track"] == 0, logs["track"]
    assert lock(loud) == lock(quiet)
    assert "up to date" in run(loud, "dvc", "status").stdout
    for file in sorted((quiet / "results").rglob("*.json")):
        assert (loud / file.relative_to(quiet)).read_bytes() == file.read_bytes()
    for _ in range(2):
        run(loud, *flows("track"))
    client = mlflow.MlflowClient(database)
    (experiment,) = client.search_experiments(filter_string="name = 'secateur'")
    tags = [found.data.tags for found in client.search_runs([experiment.experiment_id])]
    assert sorted(tag["secateur.subject"] for tag in tags if "secateur.subject" in tag) == ["tiny", check_project.RUN]
