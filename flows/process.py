"""DVC commands as child processes that end with this one, and what their ends mean."""

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

PROGRESS = re.compile(r"(\d{1,3})%\|")  # of a tqdm bar
LAST_LINES = 15
BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")  # what DVC says of its locks
SIGNALLED = re.compile(r"exited with (-\d+|1[3-9]\d|2[0-4]\d)\b")  # -9, or a shell's 128 + signal


class StageFailed(Exception):
    """The command ended by itself with an error: doing it again would end the same way."""


class Busy(Exception):
    """Another process reads or writes the same files: worth another try until it is done."""


class Interrupted(Exception):
    """Something from outside ended the command (out of memory, a preempted machine): worth another try or two."""


class Children:
    """Commands of this process that are running. `end` ends them all, and none can be started after it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def run(
        self,
        command: Iterable[str],
        cwd: Path,
        *,
        environment: Mapping[str, str] | None = None,
        line: Callable[[str], None] = lambda text: None,
        progress: Callable[[int], None] = lambda percent: None,
    ) -> tuple[int, list[str]]:
        """Exit code and last lines of a command; every line is passed on as it comes, bars of tqdm as percentages."""
        with self._lock:
            if self._ended:
                raise StageFailed("not begun: its flow is being ended")
            child = subprocess.Popen(
                [sys.executable, "-m", "flows.lifeline", *command],
                cwd=cwd,
                env={**os.environ, **(environment or {}), "PYTHONPATH": _import_path(cwd)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # what kills this process's group leaves the lifeline to its work
            )
            self._running.add(child)
        last: deque[str] = deque(maxlen=LAST_LINES)
        try:
            for text in _lines(child):
                if found := PROGRESS.search(text):
                    progress(int(found[1]))
                else:
                    last.append(text)
                    line(text)
            code = child.wait()
            if self._ended:  # no other try: whoever wanted the result is gone
                raise StageFailed("ended with its flow")
            return code, list(last)
        finally:
            with self._lock:
                self._running.discard(child)
            _let_go(child)
            child.wait()

    def end(self) -> None:
        """End every running command and whatever it started."""
        with self._lock:
            self._ended = True
            for child in self._running:
                _let_go(child)


def dvc(children: Children, arguments: Iterable[str], cwd: Path, **watching: Any) -> None:
    """`dvc ARGUMENTS` in the project `cwd`, waiting for DVC's lock; ends in one of this module's exceptions if it fails."""
    module(children, ["dvc", "--wait-for-lock", *arguments], cwd, **watching)


def unchanged(children: Children, stage: str, cwd: Path) -> bool:
    """Whether `dvc status` finds the stage as dvc.lock has it."""
    code, last = children.run([sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--quiet", stage], cwd)
    if code not in (0, 1):
        raise meaning(f"dvc status {stage}", code, last)
    return code == 0


def module(children: Children, command: Iterable[str], cwd: Path, **watching: Any) -> None:
    """`python -m COMMAND`, with the same exceptions."""
    command = list(command)
    code, last = children.run([sys.executable, "-m", *command], cwd, **watching)
    if code:
        raise meaning(" ".join(command), code, last)


def meaning(what: str, code: int, last: list[str]) -> Exception:
    """The exception that stands for an exit code and the last lines before it."""
    text = "\n".join(last)
    if any(sign in text for sign in BUSY):
        return Busy(f"{what}: waits for another process:\n{text}")
    if (code > 128 and code != 255) or SIGNALLED.search(text):  # 255 is what DVC itself ends with
        return Interrupted(f"{what}: was ended from outside (exit code {code}); its last lines:\n{text}")
    return StageFailed(f"{what}: exit code {code}; its last lines:\n{text}")


def _import_path(project: Path) -> str:
    """The project's own packages first: several clones may share an environment."""
    return os.pathsep.join(filter(None, [str(project), os.environ.get("PYTHONPATH")]))


def _let_go(child: subprocess.Popen[bytes]) -> None:
    if child.stdin:
        child.stdin.close()


def _lines(child: subprocess.Popen[bytes]) -> Iterable[str]:
    """Lines as soon as they are whole; a bar's carriage return ends one as well."""
    assert child.stdout
    rest = b""
    while chunk := os.read(child.stdout.fileno(), 1 << 16):
        *whole, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from (text for raw in whole if (text := raw.decode(errors="replace").rstrip()))
    if rest.strip():
        yield rest.decode(errors="replace").rstrip()
