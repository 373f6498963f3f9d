"""Which GPUs of this machine are free. A slot is a file lock: the kernel frees it with the process that held it."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from filelock import FileLock, Timeout

from flows.locks import private_folder
from stages._io import read_params


def slots() -> list[dict[str, str]]:
    """The environment of each slot. One per GPU that this process may use; without any, as many as fill the processor's cores
    with a stage's threads (`compute` in params.yaml), and one more, which computes while another loads its model."""
    gpus = visible_gpus()
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    threads = int((read_params().get("compute") or {}).get("threads", 1))
    return [{} for _ in range(len(os.sched_getaffinity(0)) // threads + 1)]


def visible_gpus() -> list[str]:
    """Names of GPUs as CUDA_VISIBLE_DEVICES takes them: its own list if it is set, otherwise what the driver reports."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return asked.stdout.split() if asked.returncode == 0 else []


@contextmanager
def slot(pause: float = 0.2) -> Iterator[Mapping[str, str]]:
    """Wait for a free slot of this machine, among all flows of this user (and this TMPDIR) here; gives the environment of a
    stage that holds it."""
    folder = private_folder("slots")
    choices = [
        (FileLock(folder / f"{env.get('CUDA_VISIBLE_DEVICES', f'cpu{number}')}.lock"), env) for number, env in enumerate(slots())
    ]
    while True:
        for lock, environment in choices:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield environment
                return
            finally:
                lock.release()
        time.sleep(pause)
