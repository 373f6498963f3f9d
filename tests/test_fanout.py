"""Workers in clones of their own, joined by Prefect's server and a DVC remote, one of which is shot in the middle."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import yaml

from tests.flow_project import PATIENCE, answers, clone, flows, free_port, intervals, lock, make, run, serial, start, until

pytestmark = pytest.mark.slow
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "something", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of a real S3 server on the loopback."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    server = start(tmp_path, "moto_server", "-H", "127.0.0.1", "-p", str(port), log=tmp_path / "s3.log")
    address = f"http://127.0.0.1:{port}"
    until(lambda: answers(address))
    storage: Any = boto3.resource("s3", endpoint_url=address)
    yield storage.create_bucket(Bucket="bucket")
    server.kill()


def shared(project: Path, url: str, endpoint: str | None = None) -> Path:
    """The project with a default remote, committed."""
    run(project, "dvc", "remote", "add", "--default", "store", url)
    if endpoint:
        run(project, "dvc", "remote", "modify", "store", "endpointurl", endpoint)
    run(project, "git", "commit", "--quiet", "--all", "--message", "a remote")
    return project


def worker(folder: Path, address: str) -> subprocess.Popen[bytes]:
    """A worker in the clone, for one run at a time."""
    return start(folder, *flows("worker", "--limit", "1"), log=folder.parent / f"{folder.name}.log", PREFECT_API_URL=address)


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 for the process and all that it started, as when a machine loses its power."""
    main = psutil.Process(process.pid)
    for one in [main, *main.children(recursive=True)]:
        one.kill()
    process.wait()


def fan_out(project: Path, other: Path, address: str) -> subprocess.CompletedProcess[str]:
    """A fan-out from one clone to a worker in another, to its end."""
    process = worker(other, address)
    try:
        return run(project, *flows("reproduce", "--fan-out"), check=False, PREFECT_API_URL=address)
    finally:
        process.kill()


def test_two_clones_one_of_them_dies(prefect_server: str, bucket: Any, tmp_path: Path) -> None:
    endpoint = bucket.meta.client.meta.endpoint_url
    project = shared(make(tmp_path / "project", seconds=8, wide=3), "s3://bucket/store", endpoint)
    doomed = clone(project, tmp_path / "doomed")
    workers = [worker(doomed, prefect_server), worker(project, prefect_server)]
    try:
        coordinator = start(project, *flows("reproduce", "--fan-out"), log=tmp_path / "log", PREFECT_API_URL=prefect_server)
        until(lambda: list(doomed.glob("b*.pid")))
        kill(workers[0])
        assert coordinator.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    finally:
        for process in workers:
            process.kill()
    assert not intervals(doomed / "intervals.jsonl"), "it was shot in the middle of its first stage"
    assert "no heartbeat any more" in (tmp_path / "log").read_text()
    assert lock(project) == serial(project)
    assert "in sync" in run(project, "dvc", "status", "--cloud").stdout
    stored = {entry.key: entry.get()["Body"].read() for entry in bucket.objects.all() if "/files/md5/" in entry.key}
    assert len(stored) == 6  # five outputs, and the three equal metrics that git keeps
    for key, content in stored.items():
        assert hashlib.md5(content).hexdigest() == "".join(key.split("/")[-2:]).removesuffix(".dir")


def test_a_remote_that_is_a_folder(prefect_server: str, tmp_path: Path) -> None:
    project = shared(make(tmp_path / "project", wide=1), str(tmp_path / "store"))
    other = clone(project, tmp_path / "other")
    done = fan_out(project, other, prefect_server)
    assert done.returncode == 0, done.stdout
    assert lock(project) == serial(project)
    assert [entry["name"] for entry in intervals(other / "intervals.jsonl")] == ["b0"], "the only one that needs a GPU"
    assert [entry["name"] for entry in intervals(project / "intervals.jsonl")] == ["a", "c"]
    assert (project / "b0.out").is_file() and (project / "m-b0.json").is_file()


def test_results_that_came_with_git(prefect_server: str, tmp_path: Path) -> None:
    """A stage whose only result is committed is up to date as soon as it has what it reads: nobody runs it, all may have it."""
    origin = shared(make(tmp_path / "origin", wide=1), str(tmp_path / "store"))
    graph = yaml.safe_load((origin / "dvc.yaml").read_text())
    measured = {"d.json": {"cache": False}}
    graph["stages"]["d"] = {"cmd": "python step.py d 0 d.json c.out", "deps": ["step.py", "c.out"], "metrics": [measured]}
    graph["stages"]["e"] = {"cmd": "python step.py e 0 e.out d.json", "deps": ["step.py", "d.json"], "outs": ["e.out"]}
    graph["stages"]["d"]["meta"] = graph["stages"]["e"]["meta"] = {"gpu": True}
    (origin / "dvc.yaml").write_text(yaml.safe_dump(graph))
    run(origin, "dvc", "repro")
    run(origin, "git", "add", "--all")
    run(origin, "git", "commit", "--quiet", "--message", "results")
    project, other = clone(origin, tmp_path / "project"), clone(origin, tmp_path / "other")
    done = fan_out(project, other, prefect_server)
    assert done.returncode == 0, done.stdout
    assert lock(project) == lock(origin)
    assert [entry["name"] for entry in intervals(other / "intervals.jsonl")] == ["b0", "e"]
    assert [entry["name"] for entry in intervals(project / "intervals.jsonl")] == ["a", "c"]
    share = (sys.executable, "-m", "flows.share")
    run(other, "dvc", "repro", "--pull", "c")
    assert "d: 0 files pushed" in run(other, *share, "push", "d").stdout, "it was up to date without having been run"
    (other / "d.json").unlink()
    refused = run(other, *share, "push", "d", check=False)
    assert refused.returncode == 1 and refused.stdout.splitlines()[-1] == "ERROR: d is not up to date here: run it first"


def test_a_stage_is_pushed_alone_and_fetched_or_refused(tmp_path: Path) -> None:
    """An entry of another stage, whose outputs nobody pushed, would lead everybody astray."""
    project = shared(make(tmp_path / "project", wide=1), str(tmp_path / "store"))
    run(project, "dvc", "repro")
    other = clone(project, tmp_path / "other")
    (other / "a.out").write_text((project / "a.out").read_text())  # what b0 reads
    share = (sys.executable, "-m", "flows.share")
    refused = run(other, *share, "fetch", "b@b0", check=False)
    assert refused.returncode == 1 and "the remote has no result" in refused.stdout.splitlines()[-1]
    assert "b@b0: 2 files pushed" in run(project, *share, "push", "b@b0").stdout
    files = [path.relative_to(tmp_path / "store").parts for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert sorted(part[0] for part in files) == ["files", "files", "runs"]
    run(other, *share, "fetch", "b@b0")
    run(other, "dvc", "repro", "--single-item", "b@b0")
    assert not intervals(other / "intervals.jsonl") and lock(other)["stages"]["b@b0"] == lock(project)["stages"]["b@b0"]
    assert (other / "m-b0.json").read_bytes() == (project / "m-b0.json").read_bytes()


def test_what_fan_out_cannot_do_without(prefect_server: str, tmp_path: Path) -> None:
    project = make(tmp_path / "project")
    told = run(project, *flows("reproduce", "--fan-out"), check=False, PREFECT_API_URL=prefect_server)
    assert told.returncode == 2 and told.stdout.startswith("error: fan-out needs a default DVC remote")
    shared(project, str(tmp_path / "store"))
    told = run(project, *flows("reproduce", "--fan-out", "--force"), check=False, PREFECT_API_URL=prefect_server)
    assert told.returncode == 2 and told.stdout.startswith("error: fan-out takes the studies of the commit, and no --force")
    (project / "step.py").write_text("pass")
    told = run(project, *flows("reproduce", "--fan-out"), check=False, PREFECT_API_URL=prefect_server)
    assert told.returncode == 2 and "commit step.py" in told.stdout
    run(project, "git", "checkout", "step.py")
    told = run(project, *flows("reproduce", "--fan-out"), check=False, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert told.returncode == 2 and "fan-out needs one, and workers" in told.stdout


def test_a_worker_at_another_commit_says_so(prefect_server: str, tmp_path: Path) -> None:
    project = shared(make(tmp_path / "project", wide=1), str(tmp_path / "store"))
    other = clone(project, tmp_path / "other")
    (project / "in.txt").write_text("new")
    run(project, "git", "commit", "--quiet", "--all", "--message", "newer")
    done = fan_out(project, other, prefect_server)
    assert done.returncode == 1 and "update this worker's clone (git pull)" in done.stdout
    assert not (other / "a.pid").exists(), "it began nothing"
