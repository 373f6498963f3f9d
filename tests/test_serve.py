"""`make server` and `make worker`: on the loopback only, and what one sees there with a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from tests.browser import visit
from tests.flow_project import PATIENCE, flows, free_port, intervals, lock, make, run, serial, start, until
from tests.test_process import alive, pid_in
from tests.tracked_data import make_project as make_tracked

pytestmark = pytest.mark.slow


class Servers(NamedTuple):
    """Both servers of a project folder."""

    folder: Path
    prefect: int
    mlflow: int

    @property
    def settings(self) -> dict[str, str]:
        """What a client must know of them."""
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.prefect}/api",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.mlflow}",
        }


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The servers of a small project, and a worker in it."""
    folder = make(tmp_path_factory.mktemp("served") / "project")
    found = Servers(folder, free_port(), free_port())
    ports = ("--port", str(found.prefect), "--mlflow-port", str(found.mlflow))
    told = run(folder, *flows("server", *ports)).stdout
    assert "deployments: gpu-process, fan-out, nightly" in told
    again = run(folder, *flows("server", *ports)).stdout
    assert again.count("(ran already)") == 2
    until(lambda: scheduled(found))
    run(folder, "prefect", "--no-prompt", "deployment", "schedule", "pause", "--all", **found.settings)  # no night in these tests
    worker = start(folder, *flows("worker"), log=folder.parent / "worker.log")  # which finds the server of its folder
    yield found
    worker.terminate()
    worker.wait(PATIENCE)
    family = _processes(folder)
    assert "ended: prefect, mlflow" in run(folder, *flows("stop")).stdout
    assert not [process for process in family if alive(process.pid)]
    assert "nothing" in run(folder, *flows("stop")).stdout


def scheduled(servers: Servers) -> bool:
    """Whether the server has put nights on its calendar."""
    names = {"flows": {"name": {"any_": ["nightly"]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    return bool(httpx.post(f"{servers.settings['PREFECT_API_URL']}/flow_runs/filter", json=names).json())


def _processes(folder: Path) -> list[psutil.Process]:
    """The servers that the notes of a folder name, and all that they started."""
    mains = [psutil.Process(int(note.read_text().split()[0])) for note in (folder / ".servers").glob("*.pid")]
    assert len(mains) == 2
    return [process for main in mains for process in (main, *main.children(recursive=True))]


def test_they_listen_on_the_loopback_only(servers: Servers) -> None:
    found = [entry for process in _processes(servers.folder) for entry in process.net_connections("inet")]
    listening = {(entry.laddr.ip, entry.laddr.port) for entry in found if entry.status == psutil.CONN_LISTEN}
    assert {("127.0.0.1", servers.prefect), ("127.0.0.1", servers.mlflow)} <= listening
    assert {address for address, _ in listening} == {"127.0.0.1"}
    assert {entry.raddr.ip for entry in found if entry.raddr} <= {"127.0.0.1"}, "nobody was called outside"


def test_other_sites_pages_may_not_start_runs(servers: Servers) -> None:
    url = f"{servers.settings['PREFECT_API_URL']}/deployments/filter"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for origin, allowed in (("http://example.org", False), (f"http://127.0.0.1:{servers.prefect}", True)):
        answer = httpx.options(url, headers=asked | {"Origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed


def test_a_stranger_on_the_port_is_one_line(servers: Servers, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    told = run(other, *flows("worker", "--pool", "nope"), check=False, **servers.settings)
    assert told.returncode == 2 and told.stdout.startswith("error: unknown pool 'nope'")
    told = run(other, *flows("server", "--port", str(servers.prefect), "--mlflow-port", str(servers.mlflow)), check=False)
    assert told.returncode == 2 and told.stdout.startswith(f"error: port {servers.prefect} of 127.0.0.1 is in use")
    assert not list((other / ".servers").glob("*.pid"))
    told = run(other, *flows("server", "--port", str(free_port()), "--mlflow-port", str(servers.mlflow)), check=False)
    assert told.returncode == 2 and told.stdout.endswith("choose another one with --mlflow-port\n")
    assert not list((other / ".servers").glob("*.pid")), "nothing was started for nothing"
    told = run(servers.folder, *flows("server", "--port", str(free_port())), check=False)
    assert told.returncode == 2 and f"runs on port {servers.prefect} already" in told.stdout


def test_a_deployment_runs_on_the_worker_and_both_pages_show_it(servers: Servers, tmp_path: Path) -> None:
    command = ("prefect", "--no-prompt", "deployment", "run", "reproduce/gpu-process", "--watch")
    done = run(servers.folder, *command, check=False, **servers.settings)
    assert done.returncode == 0 and "Completed" in done.stdout, done.stdout
    assert lock(servers.folder) == serial(servers.folder)
    api = servers.settings["PREFECT_API_URL"]
    states = {entry["name"]: entry["state_type"] for entry in httpx.post(f"{api}/task_runs/filter", json={}).json()}
    assert states == dict.fromkeys(["a", "b@b0", "b@b1", "c"], "COMPLETED")
    flow = httpx.post(f"{api}/flow_runs/filter", json={}).json()[0]
    page = f"http://127.0.0.1:{servers.prefect}/runs/flow-run/{flow['id']}"
    visit(page, tmp_path, f"--screenshot={tmp_path / 'prefect.png'}")
    assert flow["name"] in visit(page, tmp_path, "--dump-dom").stdout
    assert (tmp_path / "prefect.png").stat().st_size > 10_000

    make_tracked(tmp_path / "tracked")
    run(tmp_path / "tracked", *flows("track"), **servers.settings)
    page = f"http://127.0.0.1:{servers.mlflow}/#/experiments/1/runs"
    visit(page, tmp_path, f"--screenshot={tmp_path / 'mlflow.png'}")
    assert ">smoke<" in visit(page, tmp_path, "--dump-dom").stdout, "the run of the study is listed"
    assert (tmp_path / "mlflow.png").stat().st_size > 10_000


def test_cancelling_ends_the_stage_and_frees_its_place(servers: Servers) -> None:
    folder, graph = servers.folder, servers.folder / "dvc.yaml"
    quick = graph.read_text()
    for file in folder.glob("*.pid"):
        file.unlink()
    graph.write_text(quick.replace("${item} 1.0", "${item} 1000"))
    try:
        told = run(folder, "prefect", "--no-prompt", "deployment", "run", "reproduce/gpu-process", **servers.settings).stdout
        stage = pid_in(folder / "b0.pid")
        number = next(word for line in told.splitlines() if "UUID" in line for word in line.split() if word.count("-") == 4)
        run(folder, "prefect", "--no-prompt", "flow-run", "cancel", number, **servers.settings)
        until(lambda: not alive(stage))
        address = f"{servers.settings['PREFECT_API_URL']}/flow_runs/{number}"
        until(lambda: httpx.get(address).json()["state_type"] == "CANCELLED")
    finally:
        graph.write_text(quick)
    before = len(intervals(folder / "intervals.jsonl"))
    done = run(folder, *flows("reproduce", "b@b0", "--force"), check=False, **servers.settings)
    assert done.returncode == 0, done.stdout
    assert [entry["name"] for entry in intervals(folder / "intervals.jsonl")[before:]] == ["a", "b0"]
