"""The graph of dvc.yaml on workers: a task for each stage, in parallel where nothing stands between them.

Each stage runs as `dvc repro --single-item` in a process of its own, so DVC decides what is up to date and writes dvc.lock as
it would in a serial run. A stage that fails stops only what needs it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import publish
from flows.fanout import Fleet, fetch, push, up_to_date
from flows.graph import Stage, read_graph
from flows.process import Children
from flows.project import alone, choose, project
from flows.single import PATIENT, reproduce_here
from pipelines.select import tables_of
from secateur.errors import UserError


@task(name="stage", task_run_name="{stage.name}", **PATIENT)
def run_stage(stage: Stage, root: Path, force: bool, children: Children, fleet: Fleet | None) -> None:
    """One stage, here or on a worker of the pool; its lines are the task's log, its progress an artifact."""
    if fleet is None:
        reproduce_here(children, stage, root, force)
    elif stage.gpu and not up_to_date(stage, root, children):
        fleet.run(stage.name)
        fetch(stage, root, children)
    else:
        reproduce_here(children, stage, root, force)
        push(stage, root, children)


# A thread a stage: most of them only wait, for what they need or for a slot.
@flow(name="reproduce", task_runner=ThreadPoolTaskRunner(max_workers=1000))  # pyright: ignore[reportArgumentType, reportCallIssue]
def reproduce(
    studies: list[str] | None = None, targets: list[str] | None = None, force: bool = False, fan_out: bool = False
) -> State:
    """Bring the studies up to date: what `dvc repro` does, on workers.

    Args:
        studies: names below pipelines/; left out, those that params.yaml holds. Not with `fan_out`: workers have committed ones.
        targets: stages (`prune@KEY`) or tables (`prune`) with what they need; left out, all.
        force: run stages again that are up to date. Not with `fan_out`: there a stage is known by its inputs.
        fan_out: send the stages that use a GPU to every worker of the pool, through the DVC remote; otherwise all run here.
    """
    root = project()
    with alone(root):
        try:
            stages, fleet = prepare(root, studies, targets, force, fan_out)
            choose(studies)
        except UserError as error:
            return Failed(message=str(error))
        return _run(root, stages, force, fleet)


def prepare(
    root: Path, studies: Sequence[str] | None, targets: Sequence[str] | None, force: bool, fan_out: bool
) -> tuple[dict[str, Stage], Fleet | None]:
    """What is to be run, and by whom; a `UserError` for what cannot be. Changes nothing."""
    if fan_out and (studies or force):
        raise UserError("fan-out takes the studies of the commit, and no --force: python -m pipelines use STUDY, and commit")
    fleet = Fleet(root) if fan_out else None
    return read_graph(root, targets or (), tables_of(studies) if studies else None), fleet


def _run(root: Path, stages: dict[str, Stage], force: bool, fleet: Fleet | None) -> State:
    children = Children()
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for name, stage in stages.items():
            run = run_stage.with_options(tags=["gpu"] if stage.gpu else [])
            before = [futures[need] for need in stage.needs]
            futures[name] = run.submit(stage, root, force, children, fleet, wait_for=before)  # pyright: ignore[reportCallIssue]
        wait(list(futures.values()))
    finally:  # a cancelled run leaves no stage behind, here or elsewhere
        children.end()
        if fleet:
            fleet.end()
    publish(root)
    return _verdict({name: future.state for name, future in futures.items()})


def _verdict(states: dict[str, State]) -> State:
    failed = [name for name, state in states.items() if state.is_final() and not state.is_completed()]
    left = [name for name, state in states.items() if not state.is_final()]
    if not failed and not left:
        return Completed(message=f"{len(states)} stages are up to date")
    waiting = f"; not run, because they need them: {', '.join(left)}" if left else ""
    return Failed(message=f"{len(failed)} of {len(states)} stages failed: {', '.join(failed)}{waiting}")
