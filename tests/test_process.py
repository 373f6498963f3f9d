"""Commands that end with their starter, what their ends mean, and slots that nobody can keep."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import psutil
import pytest

from flows import artifacts, locks, slots
from flows.process import Busy, Children, Interrupted, StageFailed, meaning
from flows.single import INTERRUPTIONS, worth_another_try
from tests.flow_project import PATIENCE, environment, until


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_in(file: Path) -> int:
    """The number that a process wrote into the file."""
    until(lambda: file.is_file() and file.read_text().strip())
    return int(file.read_text())


def test_lines_percentages_and_the_exit_code_arrive(tmp_path: Path) -> None:
    lines: list[str] = []
    bars: list[int] = []
    program = "import sys; print('one'); print('x:  10%|#  |', 'x: 100%|##|', sep='\\r'); print('two', end=''); exit(3)"
    code, last = Children().run([sys.executable, "-uc", program], tmp_path, line=lines.append, progress=bars.append)
    assert (code, lines, bars, last) == (3, ["one", "two"], [10, 100], ["one", "two"])


def test_ending_reaches_grandchildren_and_nothing_starts_after_it(tmp_path: Path) -> None:
    children = Children()
    ended: list[str] = []

    def command() -> None:
        with pytest.raises(StageFailed) as caught:  # which is not tried again
            children.run(["sh", "-c", "sleep 300 & echo $! > pid; wait"], tmp_path)
        ended.append(str(caught.value))

    thread = threading.Thread(target=command)
    thread.start()
    grandchild = pid_in(tmp_path / "pid")
    children.end()
    thread.join(PATIENCE)
    assert ended == ["ended with its flow"] and not alive(grandchild)
    with pytest.raises(StageFailed, match="not begun"):
        children.run(["true"], tmp_path)


def test_a_starter_that_is_killed_takes_the_command_with_it(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from flows.process import Children\n"
        "Children().run(['sh', '-c', 'echo $$ > pid; exec sleep 300'], Path.cwd())"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment(tmp_path))
    command = pid_in(tmp_path / "pid")
    assert alive(command)
    os.kill(starter.pid, signal.SIGKILL)
    until(lambda: not alive(command))


@pytest.mark.parametrize(
    ("code", "line", "kind"),
    [
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m stages prune x, exited with 1", StageFailed),
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m stages prune x, exited with -9", Interrupted),
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m stages prune x, exited with 143", Interrupted),
        (255, "ERROR: '/p/a.txt' is busy, it is being blocked by:", Busy),
        (255, "ValueError: device cuda:0 is busy", StageFailed),
        (255, "ERROR: Unable to acquire lock. Most likely another DVC process is running", Busy),
        (2, "error: unknown key of `runs`", StageFailed),
        (137, "", Interrupted),
    ],
)
def test_what_is_worth_another_try(code: int, line: str, kind: type[Exception]) -> None:
    assert type(meaning("dvc repro x", code, [line])) is kind


def test_what_cannot_be_shown_ends_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Prefect's server may be away for a moment while a stage runs for hours."""

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(artifacts, "create_progress_artifact", away)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("stage"))
    monkeypatch.setattr(artifacts, "EVERY", 0.0)
    artifacts.Progress("prune@x")(50)
    assert "the progress could not be shown: the server is away" in caplog.text


def test_interruptions_are_counted_by_themselves() -> None:
    run = SimpleNamespace(id=uuid4())
    answers = []
    for error in [Busy()] * 5 + [Interrupted()] * (INTERRUPTIONS + 1) + [StageFailed()]:
        state = SimpleNamespace(result=lambda raise_on_failure, error=error: error)
        answers.append(worth_another_try(None, run, state))  # pyright: ignore[reportArgumentType]
    assert answers == [True] * (5 + INTERRUPTIONS) + [False, False]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A machine with so many GPUs, as its driver reports them."""

    def of(gpus: int) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "".join(f"echo {number}\n" for number in range(gpus)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))

    return of


def test_each_gpu_has_one_job(machine: Callable[[int], None]) -> None:
    machine(2)
    assert slots.slots() == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    third: list[str] = []

    def wait() -> None:
        with slots.slot(pause=0.05) as environment:
            third.append(environment["CUDA_VISIBLE_DEVICES"])

    with slots.slot() as one:
        with slots.slot() as two:
            assert {one["CUDA_VISIBLE_DEVICES"], two["CUDA_VISIBLE_DEVICES"]} == {"0", "1"}
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.5)
            assert not third, "three jobs on two GPUs"
        thread.join(10)
    assert third == [two["CUDA_VISIBLE_DEVICES"]]


def test_only_the_gpus_that_one_may_use(machine: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots.slots()] == ["2", "3"]


def test_without_a_gpu_the_cores_decide(machine: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(slots, "read_params", lambda: {"compute": {"threads": 4}})
    assert slots.slots() == [{}] * 3


def test_a_holder_that_is_killed_frees_its_slot(machine: Callable[[int], None], tmp_path: Path) -> None:
    machine(1)
    program = (
        "import tempfile, time, pathlib; tempfile.gettempdir = lambda: '.'\n"
        "from flows.slots import slot\nwith slot():\n pathlib.Path('held').touch(); time.sleep(300)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment(tmp_path))
    until((tmp_path / "held").exists)
    holder.kill()
    holder.wait()
    with slots.slot(pause=0.05) as environment_:
        assert environment_ == {"CUDA_VISIBLE_DEVICES": "0"}
