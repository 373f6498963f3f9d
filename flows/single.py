"""One stage by itself, as a task that waits for others and survives being preempted."""

from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from flows.artifacts import Progress
from flows.graph import Stage
from flows.process import Busy, Children, Interrupted, dvc
from flows.slots import slot

PAUSE = 10  # seconds before another try
INTERRUPTIONS = 3  # how often a stage may be ended from outside before it counts as failed


_interrupted: Counter[UUID] = Counter()  # tries of each task run that were; Prefect counts all tries together


def worth_another_try(task: Any, run: Any, state: State) -> bool:
    """Files that others use get free some time; what was ended from outside gets a few tries; all else would end the same."""
    error = state.result(raise_on_failure=False)
    _interrupted[run.id] += isinstance(error, Interrupted)
    return isinstance(error, Busy) or (isinstance(error, Interrupted) and _interrupted[run.id] <= INTERRUPTIONS)


# Options of every task that runs DVC. Nothing is cached by Prefect: DVC knows what is up to date.
PATIENT: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 10_000,
    "retry_delay_seconds": PAUSE,
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_another_try,
}


def reproduce_here(children: Children, stage: Stage, root: Path, force: bool) -> None:
    """`dvc repro` of one stage in `root`, on a GPU of its own if it asks for one and there is one."""
    log, progress = get_run_logger().info, Progress(stage.name)
    arguments = ["repro", "--single-item", *(["--force"] if force else []), stage.name]
    if not stage.gpu:
        dvc(children, arguments, root, line=log, progress=progress)
    else:
        with slot() as environment:
            dvc(children, arguments, root, environment=environment, line=log, progress=progress)
    progress.done()
