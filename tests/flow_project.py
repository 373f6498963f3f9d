"""Small DVC projects that flows can run in seconds: a diamond of stages that note when they ran."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parent.parent
PATIENCE = 400.0  # seconds a test waits for what must come, on a machine that does much else; no promise of speed
PACKAGES = ("flows", "stages", "pipelines", "secateur")
STEP = """
import json, os, sys, time
name, seconds, out, *read = sys.argv[1:]
began = time.time()
open(f"{name}.pid", "w").write(str(os.getpid()))
time.sleep(float(seconds))
if os.path.exists(f"break-{name}"):
    sys.exit(f"the reason why {name} failed")
text = "".join(open(path).read() for path in read)
open(out, "w").write(f"{name}({text})")
if name.startswith("b"):
    open(f"m-{name}.json", "w").write(json.dumps({"length": len(text)}))
with open(os.environ.get("INTERVALS", "intervals.jsonl"), "a") as log:
    entry = {"name": name, "began": began, "ended": time.time(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    log.write(json.dumps(entry) + "\\n")
"""
IGNORED = (*PACKAGES, "intervals.jsonl", "break-*", ".servers", "mlflow.db*", "mlartifacts", "*.out", "*.pid", ".gitignore")


def make(folder: Path, seconds: float = 1.0, wide: int = 2) -> Path:
    """A git and DVC project: `a`, then `b@0`..`b@N` on a GPU, then `c`; every stage takes so many seconds."""
    folder.mkdir(parents=True)
    names = [f"b{number}" for number in range(wide)]
    step = "python step.py"
    b: dict[str, Any] = {
        "cmd": f"{step} ${{item}} {seconds} ${{item}}.out a.out",
        "deps": ["step.py", "a.out"],
        "outs": ["${item}.out"],
        "metrics": [{"m-${item}.json": {"cache": False}}],
        "meta": {"gpu": True},
    }
    outs = [f"{name}.out" for name in names]
    graph = {
        "stages": {
            "a": {"cmd": f"{step} a {seconds} a.out in.txt", "deps": ["step.py", "in.txt"], "outs": ["a.out"]},
            "b": {"foreach": names, "do": b},
            "c": {
                "cmd": f"{step} c {seconds} c.out {' '.join(outs)}",
                "deps": ["step.py", *outs, *(f"m-{name}.json" for name in names)],
                "outs": ["c.out"],
            },
        }
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False), encoding="utf-8")
    (folder / "params.yaml").write_text("compute: {threads: 1}\n", encoding="utf-8")
    (folder / "step.py").write_text(STEP, encoding="utf-8")
    (folder / "in.txt").write_text("in", encoding="utf-8")
    (folder / ".gitignore").write_text("\n".join(IGNORED), encoding="utf-8")
    for name in ("prefect.toml", "prefect.yaml"):
        shutil.copy(ROOT / name, folder)
    run(folder, "git", "init", "--quiet")
    for name, value in (("user.email", "somebody@example.org"), ("user.name", "Somebody")):
        run(folder, "git", "config", name, value)
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "config", "core.analytics", "false")
    run(folder, "git", "add", "--all", "--force", ".gitignore", ".")
    run(folder, "git", "commit", "--quiet", "--message", "a project")
    return link(folder)


def clone(project: Path, folder: Path) -> Path:
    """Another clone of a committed project, with its private DVC settings."""
    run(project.parent, "git", "clone", "--quiet", str(project), str(folder))
    if (private := project / ".dvc" / "config.local").is_file():
        shutil.copy(private, folder / ".dvc")
    return link(folder)


def link(folder: Path) -> Path:
    """This repository's packages, where deployments look for them."""
    for name in PACKAGES:
        (folder / name).symlink_to(ROOT / name)
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What a process of a test in `folder` gets: nothing of the tester's own Prefect and MLflow, this environment's programs
    first, and temporary files (locks of slots among them) beside the folder."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), mine.get("PATH", "")])
    (temporary := folder.parent / "tmp").mkdir(exist_ok=True)
    return mine | {"PATH": path, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)} | more


def run(folder: Path, *command: str, check: Any = True, **more: str) -> subprocess.CompletedProcess[str]:
    """A command to its end, its output as one text."""
    given, pipe, joined = environment(folder, **more), subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, cwd=folder, env=given, stdout=pipe, stderr=joined, text=True, timeout=600)
    assert not check or done.returncode == 0, done.stdout
    return done


def start(folder: Path, *command: str, log: Path, **more: str) -> subprocess.Popen[bytes]:
    """A command in the background, in a process group of its own."""
    with log.open("wb") as file:
        given = environment(folder, **more)
        return subprocess.Popen(
            command, cwd=folder, env=given, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def flows(*arguments: str) -> list[str]:
    """The command line of flows."""
    return [sys.executable, "-m", "flows", *arguments]


def lock(folder: Path) -> Any:
    """dvc.lock, parsed: the order of its entries is that of the runs."""
    return yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))


def serial(folder: Path, **more: str) -> Any:
    """The lock of a plain `dvc repro` in another clone of the project."""
    other = clone(folder, folder.parent / f"{folder.name}-serial")
    run(other, "dvc", "repro", INTERVALS=str(other / "intervals.jsonl"), **more)
    return lock(other)


def intervals(file: Path) -> list[dict[str, Any]]:
    """When stages ran, in the order of their ends."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def until(true: Any) -> None:
    """Wait until `true()` is; fail when patience ends."""
    ended = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < ended, "it did not happen in time"
        time.sleep(0.1)


def answers(address: str) -> bool:
    """Whether a server is there that says yes."""
    try:
        return httpx.get(address).is_success
    except httpx.TransportError:
        return False


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
