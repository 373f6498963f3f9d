"""A state of the pipeline: what dvc.lock records of every stage, and the result files that git keeps beside it."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from flows.drift.leaves import RESULT_SUFFIXES, flat
from flows.graph import read_graph
from secateur.errors import UserError

LOCK = "dvc.lock"


@dataclass(frozen=True)
class Stage:
    """One stage as dvc.lock has it. `inputs` and `outputs` map paths to MD5 (`.dir` at its end: of a folder), `parameters` the
    place of every value in params.yaml to that value."""

    command: str
    inputs: Mapping[str, str]
    parameters: Mapping[str, Any]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class State:
    """Stages by name; the bytes of the JSON and CSV files that they made, by path; and the folder in which DVC keeps what is
    too large for git, by MD5 (None: nowhere)."""

    stages: Mapping[str, Stage]
    files: Mapping[str, bytes]
    objects: Path | None = None

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The MD5 of everything that some stage makes, by path."""
        return {path: md5 for stage in self.stages.values() for path, md5 in stage.outputs.items()}

    def only(self, names: Iterable[str]) -> "State":
        """The same state, less the stages that are not in `names`."""
        wanted = set(names)
        return replace(self, stages={name: stage for name, stage in self.stages.items() if name in wanted})


def read_state(root: Path, objects: Path | None = None) -> State:
    """The state of the project in `root`. `objects` is DVC's `cache/files/md5`; left out, that of the project in `root`.

    DVC keeps what dvc.lock says of rows whose study is not in use any more; that is no part of the state. Raises `UserError` if
    there is no dvc.lock, or none that is one, or no DVC project.
    """
    lock = read_lock(root / LOCK)
    in_use = set(stages_of(root))
    stages = {name: _stage(entry) for name, entry in lock.items() if name in in_use}
    small = [path for stage in stages.values() for path in stage.outputs if is_result(path)]
    files = {path: (root / path).read_bytes() for path in small if (root / path).is_file()}
    return State(stages, files, objects or objects_of(root))


def read_lock(path: Path) -> dict[str, Any]:
    """The entries of a dvc.lock by stage."""
    try:
        stages = yaml.load(path.read_text(encoding="utf-8"), _FAST)["stages"] or {}
        for entry in stages.values():
            _stage(entry)
        return dict(stages)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `dvc repro` makes it") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise UserError(f"{path}{f', line {where.line + 1}' if where else ''}: not valid YAML; is a merge unfinished?") from None
    except (UnicodeDecodeError, IsADirectoryError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a dvc.lock: must have a mapping `stages`, with entries as DVC writes them") from None


_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a lock is thousands of lines


def _stage(entry: Mapping[str, Any]) -> Stage:
    inputs, outputs = ({item["path"]: str(item.get("md5")) for item in entry.get(kind) or ()} for kind in ("deps", "outs"))
    parameters: dict[str, Any] = {}
    for values in (entry.get("params") or {}).values():
        for key, value in values.items():
            parameters |= flat(value, ".", key)
    return Stage(str(entry["cmd"]), inputs, parameters, outputs)


def is_result(path: str) -> bool:
    """Whether an output is one of the small files that belong in git."""
    return PurePosixPath(path).suffix in RESULT_SUFFIXES


def md5_of(content: bytes) -> str:
    """The hash by which dvc.lock names a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def objects_of(root: Path) -> Path:
    """Where DVC keeps the objects of the project in `root`."""
    return Path(_repo(root).cache.local.path)


def stages_of(root: Path) -> list[str]:
    """Every stage of dvc.yaml with the rows of params.yaml, run or not."""
    return list(read_graph(root))


def _repo(root: Path) -> Any:
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        return Repo(str(root))
    except NotDvcRepoError:
        raise UserError(f"{root} is not a DVC project; run in the project's folder") from None
    except DvcException as error:
        raise UserError(f"{root}: DVC cannot read this project ({' '.join(str(error).split())})") from None
