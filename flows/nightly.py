"""Every night: everything again, into MLflow, and compared with the day before."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import track
from flows.drift import differences, machine, read_state, table
from flows.drift.state import LOCK
from flows.project import project
from flows.reproduce import reproduce


@flow(name="nightly")
def nightly(studies: list[str] | None = None) -> State:
    """Run every stage of the studies again, track it, and fail if it drifted from the state before.

    On a machine with the fingerprint of the committed state every hash has to be equal, elsewhere the tolerances of
    `flows.drift` hold (`python -m flows check --accept` makes this machine's state the committed one).

    Args:
        studies: names below pipelines/; left out, those that params.yaml holds.
    """
    root = project()
    before = read_state(root) if (root / LOCK).is_file() else None
    done = reproduce(studies, force=True, return_state=True)  # pyright: ignore[reportCallIssue]
    if not done.is_completed():
        return done
    track.run()
    if before is None:
        return Completed(message="the first night: there was no state to compare with")
    exact = machine.committed(root) == machine.here(root)
    after = read_state(root)
    drift = [difference for difference in differences(before.only(after.stages), after, exact) if difference.drift]
    if drift:
        create_markdown_artifact(table(drift), key="drift", description="what is not as it was the day before")
        return Failed(message=f"drift: {len(drift)} differences to the day before; see the artifact `drift`")
    return Completed(message=f"as it was the day before, {'bit for bit' if exact else 'within tolerances'}")
