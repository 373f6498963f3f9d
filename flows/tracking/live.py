"""What the stages told MLflow while they ran: the newest finished run of each, and how fast it was."""

import statistics
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flows.tracking.content import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "dvc.key"
PAGE = 500
SPEED = {"prune": ("progress", "prune_seconds_per_block"), "lora-finetune": ("loss", "finetune_seconds_per_step")}


def live_runs(client: "MlflowClient", experiment: str) -> Mapping[str, str]:
    """Key of a stage, such as `prune@RUN` -> id of its newest finished live run."""
    newest: dict[str, str] = {}
    for run in pages(
        client, experiment, f"tags.`{KEY}` != '' and attributes.status = 'FINISHED'", ["attributes.start_time DESC"]
    ):
        newest.setdefault(run.data.tags[KEY], run.info.run_id)
    return newest


def pages(client: "MlflowClient", experiment: str, chosen: str, order: list[str] | None = None, view: int = 1) -> list[Any]:
    """All runs that `chosen` selects, page by page. `view`: MLflow's ViewType, 1 active, 2 deleted."""
    found = client.search_runs([experiment], chosen, view, max_results=PAGE, order_by=order)
    runs = list(found)
    while found.token:
        found = client.search_runs([experiment], chosen, view, max_results=PAGE, order_by=order, page_token=found.token)
        runs += found
    return runs


def speed(client: "MlflowClient", live_run: str) -> list[Point]:
    """Median seconds between two blocks, or two steps: a pause, or what a killed one had done before, does not count."""
    stage = client.get_run(live_run).data.tags[KEY].partition("@")[0]
    if stage not in SPEED:
        return []
    watched, name = SPEED[stage]
    times = [entry.timestamp for entry in sorted(client.get_metric_history(live_run, watched), key=lambda entry: entry.step)]
    gaps = [(after - before) / 1000 for before, after in pairwise(times)]
    return [Point(f"speed/{name}", statistics.median(gaps))] if gaps else []
