"""One writer at a time for each address and experiment, on this machine."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from flows.tracking.address import address, experiment_name


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process of this user writes there. The kernel ends a lock with the process that holds it."""
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir()) / f"secateur-track-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(f"{address()} {experiment_name()}".encode()).hexdigest()[:32]
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        typer.echo("note: another process writes there; waiting until it is done", err=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
