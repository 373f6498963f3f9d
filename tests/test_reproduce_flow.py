"""The flow `reproduce` on a real Prefect server: the lock of a serial run, and nothing lost when something goes wrong."""

import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flow_project import PATIENCE, ROOT, clone, flows, intervals, lock, make, run, serial, start, until
from tests.test_process import alive, pid_in

pytestmark = pytest.mark.slow
Reproduce = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A diamond whose stages take a second each."""
    return make(tmp_path / "project")


@pytest.fixture
def reproduce(prefect_server: str) -> Reproduce:
    """`python -m flows reproduce` against the server."""

    def call(folder: Path, *arguments: str, **more: str) -> Any:
        return run(folder, *flows("reproduce", *arguments), check=False, PREFECT_API_URL=prefect_server, **more)

    return call


def names(folder: Path) -> list[str]:
    """Stages in the order of their ends."""
    return [entry["name"] for entry in intervals(folder / "intervals.jsonl")]


def test_parallel_is_serial(tmp_path: Path, reproduce: Reproduce, prefect_server: str) -> None:
    project = make(tmp_path / "project", seconds=4)
    done = reproduce(project)
    assert done.returncode == 0 and "4 stages are up to date" in done.stdout, done.stdout
    assert lock(project) == serial(project)
    _, one, other, last = intervals(project / "intervals.jsonl")
    assert max(one["began"], other["began"]) < min(one["ended"], other["ended"]), "independent stages run side by side"
    assert last["name"] == "c" and last["began"] >= max(one["ended"], other["ended"])
    again = reproduce(project)
    assert again.returncode == 0 and len(names(project)) == 4, "what is up to date does not run again"
    tags = httpx.post(f"{prefect_server}/task_runs/filter", json={"task_runs": {"name": {"any_": ["b@b0"]}}}).json()[0]["tags"]
    assert tags == ["gpu"]


def test_targets_and_force(project: Path, reproduce: Reproduce) -> None:
    assert reproduce(project, "b@b1").returncode == 0 and names(project) == ["a", "b1"]
    assert reproduce(project, "b@b1", "--force").returncode == 0 and names(project) == ["a", "b1", "a", "b1"]
    before = (project / "params.yaml").read_bytes()
    for study in ([], ["--study", str(ROOT / "pipelines" / "wanda.yaml")]):
        wrong = reproduce(project, "d", *study)
        assert wrong.returncode == 2 and wrong.stdout.startswith("error: unknown stage 'd'") and wrong.stdout.count("\n") == 1
        assert (project / "params.yaml").read_bytes() == before


def test_a_failure_stops_only_what_needs_it(project: Path, reproduce: Reproduce) -> None:
    (project / "break-b0").touch()
    done = reproduce(project)
    assert done.returncode == 1
    assert "1 of 4 stages failed: b@b0; not run, because they need them: c" in done.stdout
    assert done.stdout.count("the reason why b0 failed") >= 2, "in the log, and again in the state of the task"
    assert names(project) == ["a", "b1"], "tried once, and its neighbour is done"
    (project / "break-b0").unlink()
    assert reproduce(project).returncode == 0 and names(project) == ["a", "b1", "b0", "c"]


def test_it_waits_for_a_dvc_that_is_at_work(project: Path, reproduce: Reproduce, tmp_path: Path) -> None:
    slow = make(tmp_path / "slow", seconds=5, wide=1)
    other = start(slow, "dvc", "repro", "b@b0", log=tmp_path / "dvc.log")
    until((slow / "a.pid").exists)
    done = reproduce(slow)
    assert done.returncode == 0 and other.wait(PATIENCE) == 0, done.stdout
    assert sorted(names(slow)) == ["a", "b0", "c"], "nobody ran anything twice"
    assert lock(slow) == serial(slow)


def test_two_flows_in_one_clone_come_one_after_the_other(project: Path, prefect_server: str, tmp_path: Path) -> None:
    both = [start(project, *flows("reproduce"), log=tmp_path / f"{n}.log", PREFECT_API_URL=prefect_server) for n in range(2)]
    assert [flow.wait(PATIENCE) for flow in both] == [0, 0]
    assert sorted(names(project)) == ["a", "b0", "b1", "c"] and lock(project) == serial(project)


def test_a_cancelled_flow_leaves_nothing_behind(project: Path, prefect_server: str, tmp_path: Path) -> None:
    slow = make(tmp_path / "slow", seconds=100, wide=1)
    flow = start(slow, *flows("reproduce"), log=tmp_path / "log", PREFECT_API_URL=prefect_server)
    stage = pid_in(slow / "a.pid")
    flow.send_signal(signal.SIGTERM)
    assert flow.wait(PATIENCE) != 0
    until(lambda: not alive(stage))
    assert not (slow / "dvc.lock").exists() and not (slow / "a.out").exists()


def test_one_gpu_for_all_and_a_killed_flow_gives_it_back(project: Path, prefect_server: str, tmp_path: Path) -> None:
    """Two clones, one place: no two stages at once; who dies in the middle is not waited for."""
    other = clone(project, tmp_path / "other")
    shared = {"INTERVALS": str(tmp_path / "intervals.jsonl"), "PREFECT_API_URL": prefect_server}
    limit = httpx.post(f"{prefect_server}/concurrency_limits/", json={"tag": "gpu", "concurrency_limit": 1})
    assert limit.is_success
    try:
        both = [start(folder, *flows("reproduce"), log=tmp_path / f"{folder.name}.log", **shared) for folder in (project, other)]
        for flow in both:
            assert flow.wait(PATIENCE) == 0, [(tmp_path / f"{folder.name}.log").read_text() for folder in (project, other)]
        ran = [entry for entry in intervals(tmp_path / "intervals.jsonl") if entry["name"][0] == "b"]
        assert len(ran) == 4
        assert all(before["ended"] <= after["began"] for before, after in pairwise(ran))

        endless = make(tmp_path / "endless", seconds=0, wide=1)
        assert run(endless, *flows("reproduce", "a"), check=False, **shared).returncode == 0
        (endless / "dvc.yaml").write_text((endless / "dvc.yaml").read_text().replace("${item} 0", "${item} 1000"))
        killed = start(endless, *flows("reproduce", "b"), log=tmp_path / "killed.log", **shared)
        stage = pid_in(endless / "b0.pid")
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        until(lambda: not alive(stage))
        after = run(project, *flows("reproduce", "b@b0", "--force"), check=False, **shared)
        assert after.returncode == 0, after.stdout
    finally:
        httpx.delete(f"{prefect_server}/concurrency_limits/tag/gpu")
