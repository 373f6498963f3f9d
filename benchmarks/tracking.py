"""Wall time of `python -m flows track` for many subjects against its floor: `python -m benchmarks.tracking [--subjects 200]`.

A made-up study of that many pruned models in a temporary folder, each with two perplexities, three tasks, 32 blocks, inputs and a
descriptor, is tracked into a new SQLite database: first all of it, then with nothing changed, then with one row changed.

Floor of the first: the same values sent by the fewest calls that MLflow has for a run (create_run, log_batch, log_inputs,
set_terminated), without reading a file, comparing anything, or an artifact. A new database, which costs seconds once, is set up
before. The rounds are alternated with the floor's.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stages._io import offline_and_silent

BLOCKS = 32


def make(root: Path, subjects: int) -> list[str]:
    """The project; returns the keys of its perplexities."""
    from tests.tracked_data import make_project, write_report

    runs = [("wanda", "unstructured", 0.2 + 0.003 * number, "site", 20.0 + number) for number in range(subjects - 1)]
    tables = make_project(root, runs=runs, blocks=BLOCKS)
    write_report(root)
    return tables["report"]["studies"]["smoke"]["ppl"]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """That folder is the working directory, and nothing of the environment names another MLflow."""
    before, hidden = Path.cwd(), {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("MLFLOW_")}
    offline_and_silent()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.update(hidden)


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def floor(folder: Path) -> float:
    """Seconds for the plain calls, into another experiment of the same database."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    from flows.tracking import locked, subjects
    from flows.tracking.mirror import dataset
    from stages._io import read_params

    ((study,), client) = subjects.read(read_params(), locked.stages_of_lock()), MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment(f"floor-{time.time_ns()}")

    def send() -> None:
        for content in study.subjects:
            run = client.create_run(experiment, tags=dict(content.tags), run_name=content.subject).info
            metrics = [Metric(name, value, run.start_time, step) for name, value, step in content.points]
            client.log_batch(run.run_id, metrics, [Param(name, value) for name, value in content.params.items()])
            client.log_inputs(run.run_id, [dataset(*source) for source in content.inputs])
            client.set_terminated(run.run_id)

    return seconds(send)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    times: dict[str, list[float]] = {"first": [], "floor": [], "unchanged": [], "one row changed": []}
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as name:
            keys = make(Path(name), asked.subjects)
            with inside(Path(name)):
                _measure(Path(name), keys[-1], times)
    print(f"{asked.subjects} subjects, {asked.rounds} rounds; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for kind, values in times.items():
        print(f"{kind:>16}: median {statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})")


def _measure(folder: Path, edited: str, times: dict[str, list[float]]) -> None:
    from mlflow import MlflowClient

    from flows import track
    from tests.tracked_data import edit

    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    times["first"].append(seconds(track.run))
    times["unchanged"].append(seconds(track.run))
    edit(folder, "ppl", edited, perplexity=19.0)
    times["one row changed"].append(seconds(track.run))
    times["floor"].append(floor(folder))


if __name__ == "__main__":
    main()
