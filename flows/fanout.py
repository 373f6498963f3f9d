"""Stages on many machines that share nothing but Prefect's server and a DVC remote: each has a clone at the same commit.

A worker restores what the stage needs from the remote's run-cache, runs the stage and pushes it with its run-cache entry; the
coordinator then "runs" the stage from the run-cache, and so ends with the dvc.lock of a serial run.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import wait_for_flow_run
from prefect.states import Cancelling

from flows.graph import Stage, read_graph
from flows.process import Children, Interrupted, StageFailed, dvc, module
from flows.project import changed_code, choose, commit, project
from flows.single import PATIENT, reproduce_here
from secateur.errors import UserError

DEPLOYMENT = "stage/gpu-process"
FOREVER = 10 * 365 * 86_400  # seconds: a stage may take as long as it takes


@dataclass
class Fleet:
    """The workers of the pool, seen from the coordinator."""

    root: Path
    studies: Sequence[str] | None
    commit: str
    running: set[UUID] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, root: Path, studies: Sequence[str] | None) -> "Fleet":
        """Raises a `UserError` unless other machines can have the code (committed), the data (a remote) and the work."""
        from dvc.repo import Repo

        if not Repo(str(root)).config["core"].get("remote"):
            raise UserError("fan-out needs a default DVC remote that all workers reach: dvc remote add --default NAME URL")
        if changed := changed_code(root):
            raise UserError(f"fan-out needs committed code, workers run {commit(root)[:12]}: commit {', '.join(changed[:5])}")
        with get_client(sync_client=True) as client:
            try:
                client.read_deployment_by_name(DEPLOYMENT)
            except ObjectNotFound:
                raise UserError(f"Prefect has no deployment {DEPLOYMENT}: run `python -m flows deploy`") from None
        return cls(root, studies, commit(root))

    def run(self, name: str, force: bool) -> None:
        """Have a worker run the stage, and wait for it."""
        parameters = {"name": name, "commit": self.commit, "studies": self.studies and list(self.studies), "force": force}
        sent = run_deployment(DEPLOYMENT, parameters=parameters, flow_run_name=name, timeout=0)
        with self.lock:
            self.running.add(sent.id)  # pyright: ignore[reportAttributeAccessIssue]
        ended = asyncio.run(wait_for_flow_run(sent.id, timeout=FOREVER))  # pyright: ignore[reportAttributeAccessIssue]
        with self.lock:
            self.running.discard(ended.id)
        state = ended.state
        assert state is not None
        if state.type == StateType.COMPLETED:
            return
        kind = Interrupted if state.type == StateType.CRASHED else StageFailed
        raise kind(f"{name}: {state.name} on a worker (flow run {ended.name}): {state.message}")

    def end(self) -> None:
        """Cancel what workers still run for this coordinator."""
        with get_client(sync_client=True) as client:
            for run in sorted(self.running):
                client.set_flow_run_state(run, Cancelling(message="its coordinator ended"))


@task(name="restore", **PATIENT)
def restore(stage: Stage, root: Path, children: Children) -> None:
    """What the stage needs, from the remote's run-cache (or computed here, if the remote has lost it)."""
    if stage.needs:
        dvc(children, ["repro", "--pull", *sorted(stage.needs)], root, line=get_run_logger().info)


@task(name="run", **PATIENT)
def run_here(stage: Stage, root: Path, force: bool, children: Children) -> None:
    """The stage itself."""
    reproduce_here(children, stage, root, force)


@task(name="push", **PATIENT)
def push(stage: Stage, root: Path, children: Children) -> None:
    """Its results, and the run-cache entry by which others find them."""
    module(children, ["flows.share", stage.name], root, line=get_run_logger().info)


@flow(name="stage", flow_run_name="{name}")
def stage(name: str, commit: str, studies: list[str] | None = None, force: bool = False) -> None:
    """One stage on this worker, for a coordinator elsewhere.

    Args:
        name: `prune@KEY`.
        commit: the commit that the coordinator is at; a clone at another one does not run it.
        studies: as in `reproduce`.
        force: run it even if the run-cache has it.
    """
    root = project()
    _same_code(root, commit)
    choose(studies)
    node, children = read_graph(root, [name])[name], Children()
    try:
        restore(node, root, children)
        run_here(node, root, force, children)
        push(node, root, children)
    finally:
        children.end()


def _same_code(root: Path, wanted: str) -> None:
    if (found := commit(root)) != wanted:
        raise UserError(f"{root} is at {found[:12]}, the coordinator at {wanted[:12]}: update this worker's clone (git pull)")
    if changed := changed_code(root):
        raise UserError(f"{root}: uncommitted changes in {', '.join(changed[:5])}: a worker runs committed code only")
