"""`track` that is killed, that runs twice at once, and that speaks to a server."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.flow_project import PATIENCE, ROOT, answers, free_port, until
from tests.mlflow_state import state, subjects
from tests.tracked_data import COLUMN, WANDA, edit, make_project, write_report

pytestmark = pytest.mark.slow
COUNT = 8
KILLED = """
import os, signal, sys
from mlflow import MlflowClient
from flows import track
method, calls = sys.argv[1], []
own = getattr(MlflowClient, method)
def killed(self, *args, **kwargs):
    calls.append(0)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return own(self, *args, **kwargs)
setattr(MlflowClient, method, killed)
track.run()
"""


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was never tracked, with an empty database: to set one up takes seconds."""
    root = tmp_path_factory.mktemp("untracked")
    make_project(root)
    write_report(root)
    MlflowClient(f"sqlite:///{root}/mlflow.db").search_experiments()
    return root


@pytest.fixture
def project(untracked: Path, tmp_path: Path) -> Path:
    return shutil.copytree(untracked, tmp_path / "project")


@pytest.fixture
def client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project}/mlflow.db", f"sqlite:///{project}/mlflow.db")


def start(root: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
    """Python in the project's folder, with nothing of MLflow's environment."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    given = here | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"} | environment
    return subprocess.Popen(
        [sys.executable, *command], cwd=root, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def done(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out + error


def flows(root: Path, *arguments: str, **environment: str) -> str:
    return done(start(root, "-m", "flows", *arguments, **environment))


@pytest.mark.parametrize("place", [("create_run", "4"), ("log_inputs", "3"), ("log_batch", "6")])
def test_a_killed_one_leaves_no_half_run(project: Path, client: MlflowClient, place: tuple[str, str]) -> None:
    killed = start(project, "-c", KILLED, *place)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    whole = {name: run for name, run in subjects(client).items() if run.data.tags.get("secateur.digest")}
    assert 0 < len(whole) < COUNT
    assert "0 changed, 0 deleted" in flows(project, "track")
    runs = subjects(client)
    assert len(runs) == COUNT and all(run.info.status == "FINISHED" for run in runs.values())
    assert {name: runs[name].info.run_id for name in whole} == {name: run.info.run_id for name, run in whole.items()}
    assert all({"sparsity", f"ppl/{COLUMN}"} <= run.data.metrics.keys() and run.data.params for run in runs.values())
    before = state(client)
    assert f"{COUNT} unchanged" in flows(project, "track")
    assert state(client) == before


def test_killed_between_the_new_run_and_the_old(project: Path, client: MlflowClient) -> None:
    """Both are whole: the one that says what the files say stays."""
    flows(project, "track")
    edit(project, "ppl", f"{WANDA}--{COLUMN}", perplexity=63.0)
    killed = start(project, "-c", KILLED, "delete_run", "1")
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert f"0 created, 0 changed, 0 deleted, {COUNT} unchanged" in flows(project, "track")
    assert subjects(client)[WANDA].data.metrics[f"ppl/{COLUMN}"] == 63.0


def test_killed_while_it_sets_up_the_database(tmp_path: Path) -> None:
    """A database that was set up by half would never open again."""
    make_project(tmp_path)
    killed, new, partial = start(tmp_path, "-m", "flows", "track"), tmp_path / "mlflow.db", tmp_path / ".mlflow.db.partial"
    until(lambda: (partial.is_file() and partial.stat().st_size > 0) or killed.poll() is not None)
    killed.kill()
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL and not new.exists()
    assert f"{COUNT} created" in flows(tmp_path, "track")
    assert new.is_file() and not partial.exists()


def test_two_at_once_make_no_duplicates(project: Path, client: MlflowClient) -> None:
    both = [start(project, "-m", "flows", "track") for _ in range(2)]
    said = sorted(done(process) for process in both)
    assert sum(f"{COUNT} created" in text for text in said) == 1 and sum(f"{COUNT} unchanged" in text for text in said) == 1
    assert len(subjects(client)) == COUNT and len(state(client)) == COUNT + 1


@pytest.fixture
def server(project: Path) -> Iterator[str]:
    """The address of an MLflow server over the project's database, started as `python -m flows server` does."""
    port = free_port()
    store = ("--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "mlartifacts")
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    address = f"http://127.0.0.1:{port}"
    with (project / "server.log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", "server", *store, *where]
        started = subprocess.Popen(command, cwd=project, stdout=log, stderr=log, start_new_session=True)
        try:
            until(lambda: answers(f"{address}/health"))
            yield address
        finally:
            os.killpg(started.pid, signal.SIGTERM)
            started.wait(PATIENCE)


def test_over_http_and_then_without_the_server(project: Path, client: MlflowClient, server: str) -> None:
    given = {"MLFLOW_TRACKING_URI": server}
    assert f"{COUNT} created" in flows(project, "track", **given)
    before = state(client)
    assert len(before) == COUNT + 1
    assert f"{COUNT} unchanged" in flows(project, "track", **given)
    assert state(client) == before
    assert "wanda" in flows(project, "compare", "smoke", **given)
    asked = ("register", "smoke", "--rule", "lowest-perplexity", "--corpus", "essays")
    assert "registered as secateur-smoke version 1" in flows(project, *asked, **given)
    assert "was registered already as secateur-smoke version 1" in flows(project, *asked, **given)
    over_http = MlflowClient(server, server)
    run = subjects(over_http)[WANDA]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [file.path for file in over_http.list_artifacts(run.info.run_id, "model")] == ["model/secateur.json"]
    edit(project, "ppl", f"{WANDA}--{COLUMN}", perplexity=63.0)
    assert "1 changed" in flows(project, "track"), "the same database without its server"
    new = subjects(over_http)[WANDA]
    assert new.info.run_id != run.info.run_id
    assert [file.path for file in over_http.list_artifacts(new.info.run_id, "model")] == ["model/secateur.json"]
