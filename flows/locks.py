"""Locks between processes of this machine. The kernel frees one with the process that holds it, however it ends."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from filelock import FileLock, Timeout

from secateur.errors import UserError


def private_folder(name: str) -> Path:
    """A folder for this user's locks that nobody else can have made."""
    folder = Path(tempfile.gettempdir()) / f"secateur-{name}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{folder} is in the way: it must be a folder; remove it, or set TMPDIR to another one") from None
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else: set TMPDIR to a folder of your own")
    return folder


def private(folder: str, thing: str) -> Path:
    """A file in a private folder that stands for `thing`, whatever its name."""
    return private_folder(folder) / f"{hashlib.sha256(thing.encode()).hexdigest()[:32]}.lock"


@contextmanager
def holding(file: Path, what: str) -> Iterator[None]:
    """Hold a lock; if another process does, say so and wait. The same process may hold it more than once."""
    lock = FileLock(file, thread_local=False, is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        typer.echo(f"note: another process {what}; waiting until it is done", err=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
