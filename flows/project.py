"""The clone that a flow works in, and the studies that it works on."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from pipelines import select
from secateur.errors import UserError


def project() -> Path:
    """The clone around the working directory: a worker's flows start in the folder that the worker was started in."""
    here = Path.cwd()
    if not (here / "dvc.yaml").is_file():
        raise UserError(f"{here}: no dvc.yaml here; run this in the project's folder")
    return here


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """One flow at a time in a clone: another one, of other studies perhaps, waits. The same process may enter again."""
    (folder := root / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "secateur-flow.lock", thread_local=False, is_singleton=True):
        yield


def choose(studies: Sequence[str] | None) -> None:
    """Write params.yaml for these studies, unless it is just that already; None, or none, leaves it as it is."""
    if studies and ([select.canonical(study) for study in studies] != select.selected() or not select.is_up_to_date()):
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
