"""The clone that a flow works in, and the studies that it works on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import yaml

from flows.locks import holding
from flows.repository import changed
from pipelines import select
from secateur.errors import UserError


def project() -> Path:
    """The clone around the working directory: a worker's flows start in the folder that the worker was started in."""
    here = Path.cwd()
    if not (here / "dvc.yaml").is_file():
        raise UserError(f"{here}: no dvc.yaml here; run this in the project's folder")
    return here


def alone(root: Path) -> AbstractContextManager[None]:
    """One flow at a time in a clone: another one, of other studies perhaps, waits."""
    (folder := root / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
    return holding(folder / "secateur-flow.lock", "runs a flow in this clone")


def choose(studies: Sequence[str] | None) -> None:
    """Write params.yaml for these studies, unless it is just that already; None, or none, leaves it as it is."""
    if studies and not _chosen([select.canonical(study) for study in studies]):
        select.use(studies)


def _chosen(studies: list[str]) -> bool:
    try:
        return studies == select.selected() and select.is_up_to_date()
    except (UserError, ValueError, AttributeError, yaml.YAMLError):  # damaged: it is to be made anew
        return False


def changed_code(root: Path) -> list[str]:
    """Tracked files that differ from the commit, less those that running stages changes (dvc.lock, results, .gitignore)."""
    made = ("dvc.lock", "results/")
    return [path for path in changed(root) if not path.startswith(made) and Path(path).name != ".gitignore"]
