"""The gate: everything again from a clean clone, and every hash against the committed dvc.lock.

`python -m flows check` is what `make repro` runs. On a machine with the committed fingerprint all must be equal bit for bit; on
another the tolerances of `flows.drift.tolerances` hold. docs/reproducibility.md is the page for users.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import typer

from flows.drift import accept, clone, machine
from flows.drift.compare import differences
from flows.drift.difference import Difference
from flows.drift.plan import plan
from flows.drift.report import counted, machines, show, summary, table
from flows.drift.state import LOCK, State, objects_of, read_state
from flows.graph import read_graph
from flows.repository import changed as changed_files
from flows.repository import head
from secateur.artifacts import write_text
from secateur.errors import UserError


def run(targets: Sequence[str], *, keep: bool, bless: bool, report: Path | None) -> None:
    """Clone the last commit of the project in the working folder, run `targets` (none: all) in the clone and compare.

    Leaves with exit code 1 if the run fails or the state has drifted. `keep` leaves the clone; `bless` makes its state the
    project's own; `report` is a file that gets the table as Markdown. Raises `UserError` for bad input.
    """
    project = Path.cwd()
    if report:  # before the work, not after it
        _must_take(report)
    commit, changed = head(project), changed_files(project)
    if bless:
        if targets:
            raise UserError("--accept needs a full run: leave out --target")
        accept.refuse_other_changes(changed)
    if changed:
        typer.echo(f"note: checked is commit {commit[:10]}, without the changes to {len(changed)} files since")
    folder = Path(tempfile.mkdtemp(prefix="secateur-check-"))
    try:
        drifted = _check(project, commit, folder / "project", targets, bless, report)
    finally:
        if keep:
            typer.echo(f"the clone is {folder / 'project'}")
        else:
            shutil.rmtree(folder)
    if drifted:
        raise typer.Exit(1)


def _must_take(report: Path) -> None:
    report.parent.mkdir(parents=True, exist_ok=True)
    if report.is_dir() or not os.access(report.parent, os.W_OK):
        raise UserError(f"--table {report}: must be a file in a folder that can be written")


def _check(project: Path, commit: str, folder: Path, targets: Sequence[str], bless: bool, report: Path | None) -> bool:
    """Whether the state of `commit` could not be had again."""
    clone.clone(project, commit, folder)
    if targets:
        read_graph(folder, targets)  # an unknown one is said before anything runs
    exact, conditions = _conditions(folder, bless)
    typer.echo(conditions)
    committed = _committed(folder, project, bless)
    clone.forget(folder)
    if code := clone.run(folder, targets):
        line = f"the run failed (dvc's exit code is {code}, its message stands above): nothing was compared"
        _tell(report, conditions, [], line)
        typer.echo(f"error: {line}", err=True)
        return True
    made = read_state(folder)
    found = differences(committed.only(made.stages), made, exact)
    _tell(report, conditions, found, line := summary(made, found))
    typer.echo(line)
    if bless:
        accept.accept(project, folder, made)
        typer.echo("accepted: dvc.lock, results and fingerprint.json are those of this run; next: dvc checkout, git commit")
        return False
    return any(difference.drift for difference in found)


def _conditions(folder: Path, bless: bool) -> tuple[bool, str]:
    """Whether hashes have to be equal here, and why, in one line."""
    if bless:
        return True, "every difference to the committed state is shown, and then accepted"
    committed, here = machine.committed(folder), machine.here(folder)
    if committed == here:
        return True, "this machine has the committed fingerprint: every hash has to be equal"
    return False, f"another machine than the committed state's: tolerances apply ({machines(committed, here)})"


def _committed(folder: Path, project: Path, bless: bool) -> State:
    """The state as it was committed; a project that is about to get its first one has none."""
    objects = objects_of(project)
    return State({}, {}, objects) if bless and not (folder / LOCK).is_file() else read_state(folder, objects)


def _tell(report: Path | None, conditions: str, found: Sequence[Difference], line: str) -> None:
    show(found)
    if report:
        parts = ("# Reproducibility", conditions, table(found).rstrip("\n"), line)
        write_text(report, "\n\n".join(part for part in parts if part) + "\n")


def fast() -> None:
    """The gate that runs nothing, on the working folder: `dvc repro` would do nothing, and every result is the one recorded."""
    root = Path.cwd()
    committed = read_state(root)
    found = plan(root, committed)
    show(found)
    if found:
        typer.echo("dvc.lock does not belong to what lies here; run `dvc repro` and commit, or undo")
        raise typer.Exit(1)
    typer.echo(f"{counted(committed)}: dvc.lock belongs to what lies here; nothing to run")
