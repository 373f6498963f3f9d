"""Which results of a study are there: a study that is half run is tracked as far as it has come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.artifacts import read_json
from secateur.errors import UserError
from stages._io import RESULTS

PARTS = ("model", "masks", "adapter")  # what must be the same in a result and in what it was measured on
Hashes = Mapping[str, str | None]


@dataclass(frozen=True)
class Present:
    """A row of the report's table less what is not there, and the result files that are missing.

    A file that was measured on another state of the run than the one that the run's own file describes is missing too."""

    table: Mapping[str, Any]
    missing: Sequence[str]


def present(table: Mapping[str, Any], models: Sequence[str]) -> Present:
    """Look at every result that the table names. A run is there if its own file is, a dense model if it was measured."""
    missing: dict[str, None] = {}
    runs = {run: hashes for run in table["runs"] if (hashes := _hashes("sparsity", run, {}, missing)) is not None}
    known: dict[str, Hashes] = {**{model: {} for model in models}, **runs}
    for subject, origin in table["tuned"].items():
        run = runs.get(origin["run"])
        hashes = _hashes("finetune", origin["finetune"], run or {}, missing)
        if run is not None and hashes is not None:
            known[subject] = {**run, **hashes}
    kept: dict[str, list[str]] = {"ppl": [], "zeroshot": []}
    measured = {*known} - {*models}
    for folder, keys in kept.items():
        for key in table[folder]:
            subject = _subject(folder, key)
            if subject is not None and subject not in {*known, *table["subjects"]}:
                raise UserError(f"{_path(folder, key)} is of {subject!r}, which is no row of this study; `dvc status`")
            if subject is not None and subject not in known:
                continue  # what it was measured on is missing, and said to be
            if _hashes(folder, key, known.get(subject or "", {}), missing) is not None:
                keys.append(key)
                measured.add(subject or "")
    left = {
        "subjects": [subject for subject in table["subjects"] if subject in measured],
        "runs": [*runs],
        "tuned": {subject: origin for subject, origin in table["tuned"].items() if subject in measured},
    }
    return Present({**table, **left, **kept}, [*missing])


def _path(folder: str, key: str) -> Path:
    return RESULTS / folder / f"{key}.json"


def _subject(folder: str, key: str) -> str | None:
    path = _path(folder, key)
    subject = _read(path).get("subject") if path.is_file() else None
    if subject is not None and not isinstance(subject, str):
        raise UserError(f"{path}: subject must be text, not {subject!r}")
    return subject


def _read(path: Path) -> Mapping[str, Any]:
    if not isinstance(found := read_json(path), dict):
        raise UserError(f"{path} is no result: it must be a JSON object")
    return found


def _hashes(folder: str, key: str, known: Hashes, missing: dict[str, None]) -> Hashes | None:
    """The provenance in a result file; None, and noted, if there is no file or it contradicts what is known."""
    path = _path(folder, key)
    hashes = _read(path).get("provenance", {}) if path.is_file() else None
    if hashes is not None and not isinstance(hashes, dict):
        raise UserError(f"{path}: provenance must be a mapping, not {hashes!r}")
    if hashes is None or any(known.get(part) and hashes.get(part) and known[part] != hashes[part] for part in PARTS):
        missing[path.as_posix()] = None
        return None
    return hashes
