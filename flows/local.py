"""The commands that start things on this machine: servers, workers, and the graph without any of them."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path

import typer

from flows import serve
from flows.prefect_server import REMEDY, api_url, must_answer, one_line, reachable
from secateur.errors import UserError, unknown_name


def start(port: int, mlflow_port: int) -> None:
    """Both servers, and the deployments on Prefect's; what runs already is left as it is."""
    from flows.deployments import deployments
    from flows.project import project
    from flows.tracking.database import DATABASE, make_database

    project()
    servers = (serve.prefect(port), serve.mlflow(mlflow_port))
    if port == mlflow_port:
        raise UserError(f"--port and --mlflow-port are both {port}: they must differ")
    for server in servers:
        server.runs()  # a port that is taken is said before anything is started
    names = deployments()
    make_database(Path.cwd() / DATABASE)
    started = [server for server in servers if server.start()]
    os.environ["PREFECT_API_URL"] = api = f"{servers[0].address}/api"
    from flows.deploy import deploy  # reads the address as it is imported

    must_answer()  # one that ran already may be of another version
    deploy(names)
    for server in servers:
        typer.echo(f"{server.name}: {server.address}{'' if server in started else ' (ran already)'}")
    typer.echo(f"deployments: {', '.join(names)}; next: python -m flows worker")
    if port != serve.PORT:
        typer.echo(f"for Prefect's own commands: export PREFECT_API_URL={api}")


def stop() -> None:
    """End what `start` started."""
    ended = [server.name for server in (serve.prefect(0), serve.mlflow(0)) if server.stop()]
    typer.echo(f"ended: {', '.join(ended) or 'nothing, no server of this folder was running'}")


def work(pool: str, limit: int | None) -> None:
    """A worker of the pool in place of this process, with as many runs at once as this machine has slots."""
    from flows.deployments import POOLS
    from flows.project import project
    from flows.slots import slots

    project()
    if pool not in POOLS:
        raise unknown_name("pool", pool, POOLS)
    _settle_prefect()
    must_answer()
    mlflow = serve.mlflow(0).process()
    if "MLFLOW_TRACKING_URI" not in os.environ and mlflow:
        os.environ["MLFLOW_TRACKING_URI"] = f"http://{serve.HOST}:{mlflow[1]}"
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # `&` in a script ignores it, and Prefect's worker is ended by it
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    many = ["--limit", str(limit or len(slots()))]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool, *many])


def run(targets: Sequence[str], studies: Sequence[str] | None, force: bool, fan_out: bool) -> None:
    """The flow `reproduce` in this process; without a reachable server, with one that lasts as long as it."""
    _settle_prefect()
    from flows.project import alone, project
    from flows.reproduce import prepare, reproduce

    with _server(needed=fan_out):
        with one_line(api_url()):
            prepare(root := project(), studies, targets, force, fan_out)  # what is wrong is said before it waits and before a run
        with alone(root):
            given = (list(studies or ()), list(targets), force, fan_out)
            state = reproduce(*given, return_state=True)  # pyright: ignore[reportCallIssue]
    if not state.is_completed():
        raise typer.Exit(1)


def deploy() -> None:
    """Pools, deployments and the rule for silent runs, on the server of PREFECT_API_URL."""
    from flows.project import project

    project()
    _settle_prefect()
    must_answer()
    from flows.deploy import deploy as send
    from flows.deployments import deployments

    names = deployments()
    send(names)
    typer.echo("\n".join(names))


def _settle_prefect() -> None:
    """Unless PREFECT_API_URL says otherwise, Prefect's server is the one that this folder started. Prefect reads its settings as
    it is imported: what is wrong with them is said here."""
    if "PREFECT_API_URL" not in os.environ and (running := serve.prefect(0).process()):
        os.environ["PREFECT_API_URL"] = f"http://{serve.HOST}:{running[1]}/api"
    try:
        import_module("prefect.settings").get_current_settings()
    except ValueError as error:  # pydantic's, and that of a damaged prefect.toml
        raise UserError(f"Prefect's settings (PREFECT_..., prefect.toml): {' '.join(str(error).split())}") from None


def _server(needed: bool) -> AbstractContextManager[object]:
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    if reachable(address := api_url()):
        return nullcontext()
    if needed:
        raise UserError(f"no Prefect server at {address}: fan-out needs one, and workers; {REMEDY}")
    typer.echo(f"no Prefect server at {address}: this run has one of its own")
    return temporary_settings({PREFECT_API_URL: None, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True})
