"""Every night: everything again, into MLflow, and compared with the day before."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.drift import differences, read_state, table
from flows.project import project
from flows.reproduce import reproduce


@flow(name="nightly")
def nightly(studies: list[str] | None = None) -> State:
    """Run every stage of the studies again, track it, and fail if a hash or a number is not what it was yesterday.

    Args:
        studies: names below pipelines/; left out, those that params.yaml holds.
    """
    from flows import track

    root = project()
    before = read_state(root)
    done = reproduce(studies, force=True, return_state=True)
    if not done.is_completed():
        return done
    track.run()
    found = differences(before, read_state(root), exact=True)
    if found:
        create_markdown_artifact(table(found), key="drift", description="what is not as it was the day before")
        return Failed(message=f"drift: {len(found)} differences to the day before; see the artifact `drift`")
    return Completed(message="everything is as it was the day before, bit for bit")
