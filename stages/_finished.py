"""Finished work by the name that the report gives it: a run, or what a mode makes of a run and its fine-tuning."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.schema import Report, RunRow, Tuned, parse
from secateur.artifacts import check_folder
from secateur.errors import unknown_name
from stages._io import ARTIFACTS, PARAMS, read_params


@dataclass(frozen=True)
class Finished:
    """A run, its key, and how it was fine-tuned (None: it was not)."""

    run: str
    row: RunRow
    tuned: Tuned | None

    @property
    def model(self) -> Path:
        """The dense model's folder."""
        return ARTIFACTS / "models" / self.row.model

    @property
    def pruned(self) -> Path:
        """The run's folder."""
        return ARTIFACTS / "pruned" / self.run

    @property
    def adapter(self) -> Path | None:
        """The fine-tuning's folder."""
        return self.tuned and ARTIFACTS / "adapters" / self.tuned.finetune

    @property
    def mode(self) -> str | None:
        """How the fine-tuning is merged."""
        return self.tuned and self.tuned.mode

    def damage(self) -> list[str]:
        """A line for every file that is missing or does not match its checksum."""
        stages = {self.pruned: f"prune@{self.run}"}
        if self.tuned and self.adapter:
            stages[self.adapter] = f"lora-finetune@{self.tuned.finetune}"
        return [
            f"{folder / name}: does not match its checksum; run `dvc repro {stage}` again"
            for folder, stage in stages.items()
            for name in check_folder(folder)
        ]


def finished(subject: str) -> Finished:
    """The run or fine-tuned subject of this name in params.yaml; any other name is a `UserError` that lists both."""
    params = read_params()
    runs, report = params.get("runs") or {}, parse(Report, params.get("report"), f"{PARAMS}: report")
    tuned = {name: found for study in report.studies.values() for name, found in study.tuned.items()}
    if subject not in {**runs, **tuned}:
        raise unknown_name(f"run or fine-tuned run in {PARAMS}", subject, {**runs, **tuned})
    run = tuned[subject].run if subject in tuned else subject
    return Finished(run, parse(RunRow, runs[run], f"{PARAMS}: runs.{run}"), tuned.get(subject))
