"""A clean clone of the project's last commit, and the whole pipeline in it, from nothing."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.drift.state import LOCK
from flows.repository import FOREIGN, git
from secateur.errors import UserError
from stages._io import RESULTS, SILENT
from stages._sources import MIRROR

# What would make git, Python or DVC look elsewhere than into the clone, and whom a check has nothing to tell.
ELSEWHERE = (*FOREIGN, "PYTHONSAFEPATH", "PYTHONHOME", "MLFLOW_TRACKING_URI")


def clone(project: Path, commit: str, folder: Path) -> Path:
    """`commit` of the project in `folder`, with a DVC cache of its own in it that is empty."""
    git(project, "clone", "--quiet", "--no-checkout", str(project), str(folder))
    git(folder, "checkout", "--quiet", "--detach", commit)
    if not (folder / ".dvc").is_dir():
        raise UserError(f"{project} has no .dvc: it is not a DVC project")
    (folder / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {folder / '.dvc' / 'cache'}\n", encoding="utf-8")
    return folder


def forget(clone: Path) -> None:
    """Remove everything that a stage makes, so that what is there afterwards was made."""
    (clone / LOCK).unlink(missing_ok=True)
    for file in git(clone, "ls-files", "-z", "--", RESULTS.as_posix()).split("\0"):
        if file and not Path(file).name.startswith("."):  # .gitkeep holds a folder that a table without rows leaves empty
            (clone / file).unlink()


def run(clone: Path, targets: Sequence[str]) -> int:
    """`dvc repro` in the clone, its output here; returns its exit code."""
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache", *targets]
    return subprocess.run(command, cwd=clone, env=environment(clone), check=False).returncode


def environment(clone: Path) -> Mapping[str, str]:
    """This environment's Python and the clone's code; no settings and no memory of DVC outside of the clone."""
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    beside = clone.parent
    if mirror := kept.get(MIRROR):
        kept[MIRROR] = str(Path(mirror).expanduser().resolve())
    return kept | {
        **SILENT,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", os.defpath))),
        "PYTHONPATH": str(clone),
        "DVC_SITE_CACHE_DIR": str(beside / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(beside / "config"),
        "DVC_SYSTEM_CONFIG_DIR": str(beside / "config"),
    }
