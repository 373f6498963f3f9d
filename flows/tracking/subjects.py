"""Every subject of the studies in use as content: params.yaml, dvc.lock, and the result files joined."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.tracking import locked, measured
from flows.tracking.content import Content
from flows.tracking.present import present
from pipelines.schema import PRUNER
from secateur.errors import UserError
from stages._io import PARAMS, RESULTS
from stages.reporting.results import Row, Study, read_study

WRITES = {"prune": "sparsity", "lora-finetune": "finetune", "eval-ppl": "ppl", "eval-zeroshot": "zeroshot"}


@dataclass(frozen=True)
class Tracked:
    """A study as far as it was run, its subjects in its order, and the result files that are not there yet or differ from
    the md5 that dvc.lock has."""

    study: Study
    subjects: Sequence[Content]
    missing: Sequence[str]
    differing: Sequence[str]


def read(params: Mapping[str, Any], lock: locked.Lock) -> list[Tracked]:
    """Every study in use.

    Raises `UserError` if a result file is not what it should be.
    """
    if not isinstance(params, dict) or not {"download", "report"} <= params.keys():
        raise UserError(f"{PARAMS} names no studies; make it with `python -m pipelines use STUDY`")
    models = [key.removeprefix("model-") for key, row in params["download"].items() if row["kind"] == "model"]
    found = []
    for name, table in params["report"]["studies"].items():
        there = present(table, models)
        study = read_study(name, there.table, models, RESULTS)
        subjects = [_content(study, row, params, lock) for row in study.rows]
        stages = [stage for row in study.rows for stage in _stages(study, row, params)]
        files = {path: None for stage in stages for path in _result(stage)} | locked.results(lock, stages)
        differing = [path for path, md5 in files.items() if Path(path).is_file() and _md5(Path(path)) != md5]
        found.append(Tracked(study, subjects, there.missing, differing))
    return found


def _content(study: Study, row: Row, params: Mapping[str, Any], lock: locked.Lock) -> Content:
    origin = _origin(study, row, params)
    stages = _stages(study, row, params)
    inputs, results = locked.inputs(lock, stages), locked.results(lock, stages)
    tags = {f"dvc.md5/{path}": md5 for path, md5 in [*((path, md5) for _, path, md5 in inputs), *results.items()]}
    tags |= {f"dvc.{role}": path for role, path, _ in inputs if role in ("model", "masks", "adapter")}
    tensors = {path: md5 for role, path, md5 in inputs if role in ("model", "masks", "adapter")}
    descriptor = {
        "study": study.name,
        "subject": row.subject,
        "model": row.model,
        "run": row.run.run if row.run else None,
        "finetune": dict(origin) if origin else None,
        "tensors": tensors,
        "fetch": f"dvc pull {' '.join(tensors)}",
        "load": f"python -m stages export {row.subject} --to DIR" if row.run else None,
    }
    settings, points = measured.params(row, params, origin), list(measured.points(row))
    return Content(study.name, row.subject, _maker(row, origin), settings, points, inputs, tags, descriptor)


def _origin(study: Study, row: Row, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How a fine-tuned subject came about, by the table."""
    return params["report"]["studies"][study.name]["tuned"].get(row.subject)


def _maker(row: Row, origin: Mapping[str, Any] | None) -> str:
    """The stage that made the subject; none made a dense model."""
    if origin:
        return f"lora-finetune@{origin['finetune']}"
    return f"prune@{row.run.run}" if row.run else ""


def _stages(study: Study, row: Row, params: Mapping[str, Any]) -> list[str]:
    """The stages whose results the subject shows."""
    origin = _origin(study, row, params)
    found = []
    if row.run:
        shares = row.run.settings.run.get("shares", PRUNER)
        found += [f"allocate@{Path(shares).stem}"] if shares != PRUNER else []
        found.append(f"prune@{row.run.run}")
    if origin:
        found.append(f"lora-finetune@{origin['finetune']}")
    found += [f"eval-ppl@{row.subject}--{column}" for column in row.ppl]
    return found + [f"eval-zeroshot@{row.subject}--{column}" for column in row.zeroshot]


def _result(stage: str) -> list[str]:
    """Where the stage's main result lies, whatever dvc.lock knows of it."""
    table, _, key = stage.partition("@")
    return [f"results/{WRITES[table]}/{key}.json"] if table in WRITES else []


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def count(files: Iterable[str]) -> str:
    """`3 result files (the first: results/...)`."""
    names = list(files)
    return f"{len(names)} result file{'s' if len(names) > 1 else ''} (first: {names[0]})"
