"""Stages on many machines that share nothing but Prefect's server and a DVC remote: each has a clone at the same commit.

A worker restores what the stage needs from the remote's run-cache, runs the stage and pushes it with its run-cache entry; the
coordinator then takes the stage from the run-cache, and so ends with the dvc.lock of a serial run.
"""

import asyncio
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import wait_for_flow_run
from prefect.states import Cancelling

from flows.graph import Stage, read_graph
from flows.process import Busy, Children, Interrupted, StageFailed, dvc, module, unchanged
from flows.project import changed_code, project
from flows.repository import head
from flows.single import PATIENT, reproduce_here
from flows.slots import slot
from secateur.errors import UserError

DEPLOYMENT = "stage/gpu-process"
FOREVER = 10 * 365 * 86_400  # seconds: a stage may take as long as it takes


class Fleet:
    """The workers of the pool, seen from the coordinator in the clone `root`."""

    def __init__(self, root: Path) -> None:
        """Raises a `UserError` unless other machines can have the code (committed), the data (a remote) and the work."""
        from dvc.repo import Repo

        if not Repo(str(root)).config["core"].get("remote"):
            raise UserError("fan-out needs a default DVC remote that all workers reach: dvc remote add --default NAME URL")
        if changed := changed_code(root):
            raise UserError(f"fan-out needs committed code, workers run {head(root)[:12]}: commit {', '.join(changed[:5])}")
        with get_client(sync_client=True) as client:
            try:
                client.read_deployment_by_name(DEPLOYMENT)
            except ObjectNotFound:
                raise UserError(f"Prefect has no deployment {DEPLOYMENT}: run `python -m flows deploy`") from None
        self.commit = head(root)
        self._running: set[UUID] = set()
        self._ended = False
        self._lock = threading.Lock()

    def run(self, name: str) -> None:
        """Have a worker run the stage, and wait for it."""
        with self._lock:  # so that nothing is sent once `end` has begun
            if self._ended:
                raise StageFailed(f"{name}: not sent, its coordinator is being ended")
            parameters = {"name": name, "commit": self.commit}
            sent = run_deployment(DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0)
            assert isinstance(sent, FlowRun)
            self._running.add(sent.id)
        ended = wait_for_worker(sent.id)
        with self._lock:
            self._running.discard(sent.id)
        state = ended.state
        assert state is not None
        if state.type != StateType.COMPLETED:
            kind = Interrupted if state.type == StateType.CRASHED else StageFailed
            raise kind(f"{name}: {state.name} on a worker (flow run {ended.name}): {state.message}")

    def end(self) -> None:
        """Cancel what workers still run for this coordinator; a server that does not answer keeps nobody from ending."""
        with self._lock:
            self._ended = True
            left = sorted(self._running)
        with get_client(sync_client=True) as client:
            for run in left:
                with suppress(httpx.HTTPError):
                    client.set_flow_run_state(run, Cancelling(message="its coordinator ended"))


@task(name="wait", **PATIENT)
def wait_for_worker(run: UUID) -> FlowRun:
    """A flow run at its end, however often Prefect's server is away meanwhile."""
    try:
        return asyncio.run(wait_for_flow_run(run, timeout=FOREVER))
    except (httpx.HTTPError, OSError) as error:
        raise Busy(f"Prefect's server does not answer: {error}") from None


@task(name="look", **PATIENT)
def up_to_date(stage: Stage, root: Path, children: Children) -> bool:
    """Whether the stage has nothing to do in this clone: then no worker need fetch what it reads."""
    return unchanged(children, stage.name, root)


@task(name="fetch", **PATIENT)
def fetch(stage: Stage, root: Path, children: Children) -> None:
    """What a worker made of the stage, as if it had been made here."""
    log = get_run_logger().info
    module(children, ["flows.share", "fetch", stage.name], root, line=log)
    dvc(children, ["repro", "--single-item", stage.name], root, line=log)


@task(name="push", **PATIENT)
def push(stage: Stage, root: Path, children: Children) -> None:
    """The stage's results, and the run-cache entry by which others find them."""
    module(children, ["flows.share", "push", stage.name], root, line=get_run_logger().info)


@task(name="restore", **PATIENT)
def restore(stage: Stage, root: Path, children: Children, gpu: bool) -> None:
    """What the stage needs, from the remote's run-cache, or computed here if the remote has lost it: hence the slot."""
    if stage.needs:
        with slot() if gpu else nullcontext({}) as environment:
            needs = ["repro", "--pull", *sorted(stage.needs)]
            dvc(children, needs, root, environment=environment, line=get_run_logger().info)


@task(name="run", **PATIENT)
def run_here(stage: Stage, root: Path, children: Children) -> None:
    """The stage itself."""
    reproduce_here(children, stage, root, force=False)


@flow(name="stage", flow_run_name="{name}")
def stage(name: str, commit: str) -> None:
    """One stage on this worker, for a coordinator elsewhere.

    Args:
        name: `prune@KEY`.
        commit: the commit that the coordinator is at; a clone at another one does not run it.
    """
    root = project()
    _same_code(root, commit)
    stages, children = read_graph(root, [name]), Children()
    node = stages[name]
    try:
        restore(node, root, children, any(other.gpu for other in stages.values() if other is not node))
        run_here(node, root, children)
        push(node, root, children)
    finally:
        children.end()


def _same_code(root: Path, wanted: str) -> None:
    if (found := head(root)) != wanted:
        raise UserError(f"{root} is at {found[:12]}, the coordinator at {wanted[:12]}: update this worker's clone (git pull)")
    if changed := changed_code(root):
        raise UserError(f"{root}: uncommitted changes in {', '.join(changed[:5])}: a worker runs committed code only")
