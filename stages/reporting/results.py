"""The result files of a study, read, checked and joined into one row per subject."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from secateur.artifacts import read_json
from secateur.errors import UserError, unknown_name
from stages.reporting.result_files import FineTuned, Perplexity, Result, Sparsity, Zeroshot

AnyResult = TypeVar("AnyResult", bound=Result)
AnyEvaluation = TypeVar("AnyEvaluation", Perplexity, Zeroshot)


@dataclass(frozen=True)
class Row:
    """One subject of a study: a dense model (`run` is None, sparsity 0), a run, or a run that was fine-tuned (`finetune` says
    how, `tuned` is what came of it). Metrics are keyed by column name."""

    subject: str
    model: str
    run: Sparsity | None
    bytes_dense: int | None
    ppl: Mapping[str, Perplexity]
    zeroshot: Mapping[str, Zeroshot]
    finetune: str = ""
    tuned: FineTuned | None = None

    @property
    def method(self) -> str:
        return self.run.method if self.run else "dense"

    @property
    def pattern(self) -> str:
        return self.run.pattern if self.run else ""

    @property
    def sparsity(self) -> float:
        return self.run.target if self.run else 0.0

    @property
    def achieved(self) -> float:
        return self.run.achieved if self.run else 0.0

    def setting(self, name: str) -> Any:
        """One field of the run's own row, or how it was fine-tuned; None for a dense model."""
        if name == "finetune":
            return self.finetune
        return self.run.settings.run.get(name) if self.run else None

    def calibrated(self, name: str) -> Any:
        """One field of the run's calibration; None where there is none."""
        return (self.run.settings.calibration or {}).get(name) if self.run else None

    @property
    def peers(self) -> Hashable | None:
        """Rows that may be ranked against each other share this value; a dense model is ranked against nobody."""
        return (self.model, self.pattern, self.sparsity, bool(self.tuned)) if self.run else None


@dataclass(frozen=True)
class Study:
    """The rows of one study, in its order, and the metric columns that it has."""

    name: str
    title: str
    rows: Sequence[Row]
    ppl_columns: Sequence[str]
    zeroshot_columns: Sequence[str]

    @property
    def runs(self) -> list[Row]:
        """The pruned rows as the stage `prune` left them."""
        return [row for row in self.rows if row.run and not row.tuned]

    @property
    def pruned(self) -> list[Row]:
        """Every row that is not a dense model."""
        return [row for row in self.rows if row.run]

    def dense(self, row: Row) -> Row | None:
        """The dense row of the same model, if the study has one."""
        return next((other for other in self.rows if other.run is None and other.model == row.model), None)


def read_study(name: str, table: Mapping[str, Any], models: Sequence[str], results: Path) -> Study:
    """Join the files under `results` that row `name` of the report's table names; `models` are the known dense models.

    Raises `UserError` if a file is missing (with the stage that writes it), is not what it should be, or was measured
    on another state of the run than the one that the run's own file describes.
    """
    runs = {key: _read(results / "sparsity", key, "prune", Sparsity) for key in table["runs"]}
    ppl = _by_subject(table["ppl"], results / "ppl", "eval-ppl", Perplexity)
    zeroshot = _by_subject(table["zeroshot"], results / "zeroshot", "eval-zeroshot", Zeroshot)
    dense_bytes = {run.settings.run["model"]: run.bytes.dense for run in runs.values()}
    rows = []
    for subject in table["subjects"]:
        origin = table["tuned"].get(subject)
        run = runs.get(origin["run"] if origin else subject)
        if run is None and subject not in models:
            raise unknown_name(f"subject of the study {name!r}", subject, [*runs, *models])
        model = run.settings.run["model"] if run else subject
        row = Row(subject, model, run, dense_bytes.get(model), ppl.get(subject, {}), zeroshot.get(subject, {}))
        if origin:
            tuned = _read(results / "finetune", origin["finetune"], "lora-finetune", FineTuned)
            row = replace(row, finetune=f"{origin['name']}, {origin['mode'].replace('_', ' ')}", tuned=tuned)
        _check_same_state(row)
        rows.append(row)
    columns = [list(dict.fromkeys(column for found in kind.values() for column in found)) for kind in (ppl, zeroshot)]
    return Study(name, table["title"], rows, *columns)


def _read(folder: Path, key: str, stage: str, kind: type[AnyResult]) -> AnyResult:
    path = folder / f"{key}.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with `dvc repro {stage}@{key}`")
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is not a result of {stage}: {where}: {first['msg']}") from None


def _by_subject(keys: Sequence[str], folder: Path, stage: str, kind: type[AnyEvaluation]) -> dict[str, dict[str, AnyEvaluation]]:
    """Subject -> column -> result. The column is the part of the key after `<subject>--`."""
    found: dict[str, dict[str, AnyEvaluation]] = {}
    for key in keys:
        result = _read(folder, key, stage, kind)
        prefix = f"{result.subject}--"
        if not key.startswith(prefix):
            raise UserError(f"{folder / key}.json is about {result.subject!r}; its name should begin with {prefix!r}")
        found.setdefault(result.subject, {})[key.removeprefix(prefix)] = result
    return found


def _check_same_state(row: Row) -> None:
    """Metrics must belong to the weights that the row describes: the hashes of model and masks have to agree."""
    known = {**(row.run.provenance if row.run else {}), **(row.tuned.provenance if row.tuned else {})}
    for stage, results in (("eval-ppl", row.ppl), ("eval-zeroshot", row.zeroshot)):
        for column, result in results.items():
            for part in ("model", "masks", "adapter"):
                ours, theirs = known.get(part), result.provenance.get(part)
                if ours and theirs and ours != theirs:
                    key = f"{row.subject}--{column}"
                    raise UserError(
                        f"{key} was measured with {part} {theirs[:12]}, but the run has {ours[:12]}; "
                        f"measure again with `dvc repro {stage}@{key}`"
                    )
