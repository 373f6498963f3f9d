"""What a tracked run holds, as plain values, and the digest by which two of them are equal."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

FORMAT = 1  # raise it when runs are written differently: then all are written again


class Point(NamedTuple):
    """A value of a metric. `step` is a block, or a step of a training; 0 where there is only one value."""

    metric: str
    value: float
    step: int = 0


class Input(NamedTuple):
    """An artifact that a result was made from: its role, its path in the project, and the md5 that dvc.lock knows it by."""

    role: str
    path: str
    md5: str


@dataclass(frozen=True)
class Content:
    """All of one subject that comes from params.yaml, dvc.lock and results/, and the live run of the stage that made it."""

    study: str
    subject: str
    stage: str  # `prune@RUN` or `lora-finetune@KEY`; empty for a dense model
    params: Mapping[str, str]
    points: Sequence[Point]
    inputs: Sequence[Input]
    tags: Mapping[str, str]
    descriptor: Mapping[str, Any]
    live_run: str | None = None

    def watched(self, live: Mapping[str, str]) -> "Content":
        """The same with its live run. `live`: ids of live runs by the key of their stage."""
        return replace(self, live_run=live.get(self.stage))

    def digest(self, parent: str) -> str:
        """Equal exactly for equal content below the same study's run, however often it was made and watched."""
        return digest([FORMAT, parent, asdict(replace(self, live_run=None))])


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
