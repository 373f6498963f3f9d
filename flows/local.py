"""The commands that start things on this machine: servers, workers, and the graph without any of them."""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import httpx
import typer

from flows import serve
from secateur.errors import UserError


def start(port: int, mlflow_port: int) -> None:
    """Both servers, and the deployments on Prefect's; what runs already is left as it is."""
    from flows.project import project

    project()
    prefect, mlflow = serve.prefect(port), serve.mlflow(mlflow_port)
    started = [server for server in (prefect, mlflow) if server.start()]
    os.environ["PREFECT_API_URL"] = f"{prefect.address}/api"
    from flows.deploy import deploy  # reads the address as it is imported

    names = deploy()
    for server in (prefect, mlflow):
        typer.echo(f"{server.name}: {server.address}{'' if server in started else ' (ran already)'}")
    typer.echo(f"deployments: {', '.join(names)}; next: python -m flows worker")


def stop() -> None:
    """End what `start` started."""
    ended = [server.name for server in (serve.prefect(0), serve.mlflow(0)) if server.stop()]
    typer.echo(f"ended: {', '.join(ended) or 'nothing, no server of this folder was running'}")


def work(pool: str, limit: int | None) -> None:
    """A worker of the pool in place of this process, with as many runs at once as this machine has slots."""
    from flows.project import project
    from flows.slots import slots

    project()
    if not reachable(address := api_url()):
        raise UserError(f"no Prefect server at {address}: start one with `make server`, or name another in PREFECT_API_URL")
    mlflow = serve.mlflow(5000)
    if "MLFLOW_TRACKING_URI" not in os.environ and mlflow.well():
        os.environ["MLFLOW_TRACKING_URI"] = mlflow.address
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    many = ["--limit", str(limit or len(slots()))]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool, *many])


def run(targets: Sequence[str], studies: Sequence[str] | None, force: bool, fan_out: bool) -> None:
    """The flow `reproduce` in this process; without a reachable server, with one that lasts as long as it."""
    from flows.graph import read_graph
    from flows.project import choose, project
    from flows.reproduce import reproduce

    choose(studies or None)
    root = project()
    read_graph(root, targets)  # what is wrong with these is said before any flow run begins
    with _server(needed=fan_out):
        if fan_out:
            from flows.fanout import Fleet

            Fleet.of(root, studies)
        state = reproduce(list(studies) if studies else None, list(targets) or None, force, fan_out, return_state=True)  # pyright: ignore[reportCallIssue]
    if not state.is_completed():
        raise typer.Exit(1)


def api_url() -> str:
    """The address of Prefect's API: PREFECT_API_URL, or that of prefect.toml."""
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())


def reachable(address: str) -> bool:
    """Whether a Prefect server answers there."""
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except (httpx.TransportError, httpx.UnsupportedProtocol):
        return False


def _server(needed: bool) -> AbstractContextManager[object]:
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    if reachable(address := api_url()):
        return nullcontext()
    if needed:
        raise UserError(f"no Prefect server at {address}: fan-out needs one, and workers")
    typer.echo(f"no Prefect server at {address}: this run has one of its own")
    return temporary_settings({PREFECT_API_URL: None, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True})
