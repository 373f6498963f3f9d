"""Make the state of a clean run the project's own: its results, its lock, its fingerprint, and the objects that they name."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from flows.drift import machine
from flows.drift.state import LOCK, State
from flows.repository import git
from secateur.artifacts import temporary
from secateur.errors import UserError
from stages._io import RESULTS


def refuse_other_changes(changed: Iterable[str]) -> None:
    """A state is of a commit; code that is not committed would stand beside hashes that it never made."""
    made = (LOCK, machine.FINGERPRINT)
    if other := [path for path in changed if path not in made and not path.startswith(f"{RESULTS}/")]:
        raise UserError(f"--accept: {', '.join(other[:3])} changed since the last commit; commit or undo that first")


def accept(project: Path, clone: Path, made: State) -> None:
    """Write what the run in `clone` made. The lock comes last: a state that was written by half is one that `check` reports."""
    if made.objects:
        _take_objects(made.objects, project)
    for file in git(project, "ls-files", "-z", "--", RESULTS.as_posix()).split("\0"):
        if file and not Path(file).name.startswith(".") and file not in made.files:
            (project / file).unlink(missing_ok=True)
    for path, content in made.files.items():
        _write(project / path, content)
    machine.write(project)
    _write(project / LOCK, (clone / LOCK).read_bytes())


def _take_objects(objects: Path, project: Path) -> None:
    """Masks, values, models: DVC keeps them by their hash, so what is there already is the same."""
    from flows.drift.state import objects_of

    theirs = objects_of(project)
    for file in sorted(objects.rglob("*"), key=lambda file: file.suffix == ".dir"):  # a folder after all its files
        target = theirs / file.relative_to(objects)
        if file.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, temporary(target))
            except OSError:  # another file system
                shutil.copy(file, temporary(target))
            temporary(target).replace(target)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary(path).write_bytes(content)
    temporary(path).replace(path)
