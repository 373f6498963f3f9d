"""dvc.lock: which outputs and inputs each stage has, by md5."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.drift.state import read_lock
from flows.tracking.content import Input

LOCK = Path("dvc.lock")
ROLES = {
    "models": "model",
    "stats": "calibration",
    "pruned": "masks",
    "adapters": "adapter",
    "corpora": "text",
    "tasks": "tasks",
}
Lock = Mapping[str, Mapping[str, Any]]


def stages_of_lock() -> Lock:
    """The stages of dvc.lock by name; none if there is no such file."""
    return read_lock(LOCK) if os.path.lexists(LOCK) else {}


def inputs(lock: Lock, stages: list[str]) -> list[Input]:
    """The data that the stages read or made, each once: models, calibrations, masks, adapters, texts, tasks."""
    found = {}
    for stage in stages:
        for path, md5 in [*_files(lock, stage, "deps"), *_files(lock, stage, "outs")]:
            parts = Path(path).parts
            if parts[0] == "artifacts" and len(parts) > 2:
                found[path] = Input(ROLES.get(parts[1], parts[1]), path, md5)
    return list(found.values())


def results(lock: Lock, stages: list[str]) -> dict[str, str]:
    """Path and md5 of the result files that the stages made."""
    return {path: md5 for stage in stages for path, md5 in _files(lock, stage, "outs") if path.startswith("results/")}


def _files(lock: Lock, stage: str, kind: str) -> Iterator[tuple[str, str]]:
    for file in lock.get(stage, {}).get(kind, ()):
        if "md5" in file:
            yield file["path"], file["md5"]
