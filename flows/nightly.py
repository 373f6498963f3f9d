"""Every night: everything again, into MLflow, and compared with the day before."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State as PrefectState
from prefect.states import Completed, Failed

from flows import track
from flows.drift import Difference, State, differences, machine, read_state, table
from flows.drift.state import LOCK
from flows.project import alone, project
from flows.reproduce import reproduce
from secateur.errors import UserError


@flow(name="nightly")
def nightly(studies: list[str] | None = None) -> PrefectState:
    """Run every stage of the studies again, track it, and fail if it drifted from the state before.

    On a machine with the fingerprint of the committed state every hash has to be equal, elsewhere the tolerances of
    `flows.drift` hold (`python -m flows check --accept` makes this machine's state the committed one).

    Args:
        studies: names below pipelines/; left out, those that params.yaml holds.
    """
    root = project()
    with alone(root):
        before = read_state(root) if (root / LOCK).is_file() else None
        done = reproduce(studies, force=True, return_state=True)  # pyright: ignore[reportCallIssue]
        drift = _drift(root, before)
        untracked = _track()
    if drift:
        create_markdown_artifact(table(drift), key="drift", description="what is not as it was the day before")
        return Failed(message=f"drift: {len(drift)} differences to the day before; see the artifact `drift`")
    if not done.is_completed():
        return done
    seen = "as it was the day before" if before else "the first night: there was no state to compare with"
    return Failed(message=f"{seen}; not tracked: {untracked}") if untracked else Completed(message=seen)


def _track() -> str | None:
    """What kept the night out of MLflow, if anything: the comparison is worth telling all the same."""
    try:
        track.run()
    except UserError as error:
        return str(error)
    return None


def _drift(root: Path, before: State | None) -> list[Difference]:
    """What is not as before, of all stages that there are now, also if some failed: tomorrow this is the day before."""
    if before is None or not (root / LOCK).is_file():
        return []
    exact, after = machine.committed(root) == machine.here(root), read_state(root)
    return [found for found in differences(before.only(after.stages), after, exact) if found.drift]
