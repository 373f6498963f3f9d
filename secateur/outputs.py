"""Where results go: what secateur writes, it marks; it replaces only what it wrote, and only when asked.

A finished folder is marked by the first line of its SHA256SUMS, unfinished work by a file `.secateur`. A folder without the mark,
and one of ours in which somebody added or changed a file, is left alone; links are neither followed nor replaced. A folder is
removed with its marks last, so that one whose removal was killed is still known.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur.artifacts import MARK, SUMS, is_marked, read_sums, sha256, temporary, write_sums, write_text, writing
from secateur.errors import UserError

WORK = ".secateur"  # in a work folder: the mark, and what decides whether its work may be continued


def check_output(out: Path, inputs: Iterable[Path | None] = (), overwrite: bool = False, work: Path | None = None) -> None:
    """Refuse, before any work, to write the folder `out` where that could cost somebody a file. This reads and writes nothing.

    `inputs` are the folders that will be read, `work` is where unfinished work will lie (by default where `whole_folder` has it).
    Raises a `UserError` if `out` exists, unless it is an untouched result of ours and `overwrite` is set; if `work` holds
    anything but work of ours; and if either is a link, cannot be made, or is, contains or lies inside one of the inputs.
    """
    inputs = [folder for folder in inputs if folder is not None]
    _check_place(out, inputs)
    work = temporary(out) if work is None else work
    _check_place(work, [*inputs, out])
    _check_free(out, overwrite)
    _check_work(work)


def continue_or_start(work: Path, conditions: Mapping[str, Any]) -> None:
    """Keep the work folder if it belongs to exactly this work under exactly these conditions; otherwise start it anew."""
    _check_work(work)
    with writing(work):
        if (work / WORK).is_file() and (work / WORK).read_bytes() == _mark(conditions).encode():
            _drop_interrupted(work)
        else:
            _start(work, conditions)


def remove_work(work: Path) -> None:
    """Remove a work folder, if it is there; a `UserError` if it is not ours."""
    _check_work(work)
    _remove(work)


@contextmanager
def whole_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `path`, with its SHA256SUMS, only if the body ends without an error.

    Raises what `check_output` raises, and a `UserError` if the disk is full or anything else keeps a file from being written.
    """
    check_output(path, overwrite=overwrite)
    partial = temporary(path)
    _start(partial, {})
    try:
        with writing(path):
            yield partial
        seal_folder(partial, path, overwrite)
    finally:
        _remove(partial)


def seal_folder(partial: Path, path: Path, overwrite: bool = False, without: Iterable[str] = ()) -> None:
    """Write SHA256SUMS into `partial`, less the files `without`, and put it in the place of `path`.

    Raises a `UserError`, and leaves `partial` as it is, if `path` exists, unless it is an untouched result of ours and
    `overwrite` is set.
    """
    _check_free(path, overwrite)
    replaced, aside, left_out = _exists(path), _aside(path), (WORK, *without)
    write_sums(partial, left_out)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in left_out:
            (partial / name).unlink(missing_ok=True)
        if replaced:
            _remove(aside)
            path.rename(aside)
        try:
            partial.rename(path)
        except OSError:
            if replaced:
                aside.rename(path)
            raise
    if replaced or not _foreign(aside):  # or a call that was killed here left it
        _remove(aside)


def _check_place(folder: Path, others: Iterable[Path]) -> None:
    """A folder can be made here, and it is apart from the others, links resolved."""
    if folder.name in ("", "..") or "\0" in str(folder):
        raise UserError(f"{str(folder)!r}: a result needs a folder of its own; give it a name")
    with writing(folder):
        if folder.is_symlink():
            raise UserError(f"{folder} is a link, and links are not followed; name another folder")
        parent = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
        if not parent.is_dir():
            raise UserError(f"{folder} cannot be made: {parent} is not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"{folder} cannot be made: {parent} is read-only; name a place that can be written to")
        place = Path(os.path.realpath(folder))
        for other in others:
            if relation := _relation(place, Path(os.path.realpath(other))):
                raise UserError(f"{folder} {relation} {other}, which is needed as it is; name a folder elsewhere")


def _relation(folder: Path, other: Path) -> str | None:
    if folder == other:
        return "is"
    return "lies inside" if other in folder.parents else "contains" if folder in other.parents else None


def _check_free(out: Path, overwrite: bool) -> None:
    """Nothing lies at `out`, or what `overwrite` may replace."""
    if not _exists(out):
        return
    with writing(out):
        if out.is_symlink() or not out.is_dir():
            raise UserError(f"{out} exists already and is no folder; name another one")
        if not overwrite:
            how = ", or replace it: overwrite=True, on the command line --force" if is_marked(out / SUMS) else ""
            raise UserError(f"{out} exists already; name another folder{how}")
        for folder in (out, _aside(out)):
            if reason := _foreign(folder):
                raise UserError(f"{folder} is not replaced: {reason}; move it away, or name another folder")


def _check_work(work: Path) -> None:
    """Nothing lies at `work`, or work of ours, finished or not."""
    if not _exists(work):
        return
    with writing(work):
        if work.is_symlink() or not work.is_dir():
            raise UserError(f"{work}, where unfinished work is kept, is no folder; move it away")
        begun = {entry.name for entry in work.iterdir()} <= {temporary(work / WORK).name}
        if not (begun or is_marked(work / WORK)) and (reason := _foreign(work)):
            raise UserError(f"{work}, where unfinished work is kept, is not used: {reason}; move it away")
        if link := next((entry for entry in sorted(work.rglob("*")) if entry.is_symlink()), None):
            raise UserError(f"{link}, among unfinished work, is a link, and links are not followed; remove it")


def _foreign(folder: Path) -> str | None:
    """Why a folder is not ours to remove; None if everything in it is as we wrote it (what is missing is no loss)."""
    if folder.is_symlink() or (_exists(folder) and not folder.is_dir()):
        return "it is no folder"
    with writing(folder):
        files = [entry for entry in sorted(folder.rglob("*")) if entry.is_symlink() or not entry.is_dir()]
        if not files:
            return None
        if not is_marked(folder / SUMS):
            return "it was not written by secateur"
        sums = read_sums(folder)
        for file in files:
            name = file.relative_to(folder).as_posix()
            if name != SUMS and name not in sums:
                return f"{name} was added to it"
            if name != SUMS and not (file.is_file() and sha256(file) == sums[name]):
                return f"{name} was changed"
    return None


def _exists(path: Path) -> bool:
    """Whether anything is at `path`, even a link that leads nowhere."""
    with writing(path):
        try:
            path.lstat()
        except FileNotFoundError:
            return False
        return True


def _aside(path: Path) -> Path:
    """Where a result lies while another takes its place."""
    return path.parent / f".{path.name}.old"


def _mark(conditions: Mapping[str, Any]) -> str:
    return f"{MARK}\n{json.dumps(conditions, indent=1, sort_keys=True)}\n"


def _start(work: Path, conditions: Mapping[str, Any]) -> None:
    """A work folder with nothing in it but its mark."""
    _remove(work)
    write_text(work / WORK, _mark(conditions))


def _drop_interrupted(folder: Path) -> None:
    """Remove what a writer that was killed left in `folder`: temporary files, ours and safetensors', begin with a dot."""
    for file in folder.rglob(".*"):
        if file.is_file() and file != folder / WORK:
            file.unlink()


def _remove(folder: Path) -> None:
    """Remove a folder that is known to be ours, if it is there; its marks go last."""
    with writing(folder):
        if _exists(folder):
            for entry in sorted(folder.iterdir(), key=lambda entry: entry.name in (WORK, SUMS)):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            folder.rmdir()
