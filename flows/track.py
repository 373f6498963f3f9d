"""Make MLflow equal to dvc.lock and results/: `python -m flows track`.

One run per subject, below the run of its study, in the experiment MLFLOW_EXPERIMENT_NAME (`secateur`) of MLFLOW_TRACKING_URI,
or of the database mlflow.db of the project. What is equal already is left alone; what changed is replaced; what is gone from the
tables is deleted. An experiment is the mirror of one project: two projects on one server need two names.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from flows.tracking.address import answering, experiment_name, make_experiment, shown
from flows.tracking.alone import alone
from stages._io import RESULTS, read_params

if TYPE_CHECKING:
    from flows.tracking.mirror import Summary


def run() -> "Summary":
    """Track the project in the working directory; says what was done, what is missing, and how many runs of each kind there are.

    Raises `UserError` if a result file is damaged, or MLflow does not answer. A second one on this machine waits for the first.
    """
    from tqdm import tqdm

    from flows.tracking.live import live_runs
    from flows.tracking.locked import stages_of_lock
    from flows.tracking.mirror import Mirror
    from flows.tracking.origin import commit_tags
    from flows.tracking.study_run import StudyRuns
    from flows.tracking.subjects import count, read

    with ExitStack() as stack:
        stack.enter_context(alone())
        studies, commit = read(read_params(), stages_of_lock()), commit_tags()
        client = stack.enter_context(answering(makes=True))
        experiment = make_experiment(client)
        live = live_runs(client, experiment)
        mirror, above = Mirror(client, experiment, commit), StudyRuns(client, experiment, commit)
        subjects = sum(len(tracked.subjects) for tracked in studies)
        with tqdm(total=subjects, unit="subject", disable=None, leave=False) as bar:
            for tracked in studies:
                parent = above.write(tracked.study) if tracked.subjects else ""
                for content in tracked.subjects:
                    mirror.write(content.watched(live), parent)
                    bar.update()
        mirror.delete_rest()
        above.delete_rest()
    for tracked in studies:
        if tracked.missing:
            typer.echo(
                f"note: {tracked.study.name}: not there yet, or of another state: {count(tracked.missing)}; `dvc repro`", err=True
            )
        if tracked.differing:
            typer.echo(f"note: {tracked.study.name}: not as in dvc.lock: {count(tracked.differing)}; `dvc status`", err=True)
    if not (RESULTS / "report.html").is_file():
        typer.echo("note: there is no results/report.html to attach; `dvc repro report` writes it", err=True)
    done = mirror.summary
    typer.echo(
        f"{experiment_name()} in {shown()}: {done.created} created, {done.changed} changed, {done.deleted} deleted, "
        f"{done.unchanged} unchanged"
    )
    return done
