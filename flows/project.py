"""The clone that a flow works in, and the studies that it works on."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipelines import select
from secateur.errors import UserError


def project() -> Path:
    """The clone around the working directory: a worker's flows start in the folder that the worker was started in."""
    here = Path.cwd()
    if not (here / "dvc.yaml").is_file():
        raise UserError(f"{here}: no dvc.yaml here; start the worker in the project's folder")
    return here


def choose(studies: Sequence[str] | None) -> None:
    """Write params.yaml for these studies, unless it holds them already; None leaves it as it is."""
    if studies is not None and [select.canonical(study) for study in studies] != select.selected():
        select.use(studies)


def commit(root: Path) -> str:
    """The commit that a clone is at."""
    return _git(root, "rev-parse", "HEAD")


def changed_code(root: Path) -> list[str]:
    """Tracked files that differ from the commit, less those that running stages changes (dvc.lock, results, .gitignore)."""
    found = (line[2:].strip() for line in _git(root, "status", "--porcelain", "--untracked-files=no").splitlines())
    return [path for path in found if path != "dvc.lock" and not path.startswith("results/") and Path(path).name != ".gitignore"]


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{root}: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.rstrip()
