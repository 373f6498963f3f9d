"""Studies → the tables of params.yaml. Pure: the same studies and catalogue give the same tables, in the same order.

Expects studies that `validate.py` found nothing wrong with. Keys say what a row is, and rows hold nothing that the YAML
of a second study could change, so selecting more studies adds stages and invalidates none. The exception is the bundle
that the `dense` runs of one model and calibration share: it is the join of what all selected ones need.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.grid import (
    Candidate,
    candidates,
    choice_slug,
    given_options,
    slug,
    sparsity_of,
    table_slug,
    target_slug,
)
from pipelines.needs import Bundles, allocation_calibration, dense_bundles, named_calibration, needs_of, rule_of
from pipelines.schema import (
    DOWNLOADER,
    PRUNER,
    AllocationRow,
    DownloadRow,
    FineTuneRow,
    Mode,
    PerplexityRow,
    Report,
    ReportStudy,
    RunRow,
    StatsRow,
    Strict,
    Subject,
    Tuned,
    ZeroshotRow,
)
from pipelines.study import Catalogue, Choice, Perplexity, Study, Zeroshot
from pipelines.tables import Rows, Tables
from secateur.allocation import ALLOCATIONS
from secateur.errors import UserError
from secateur.finetune.recipes import RECIPES, TRAININGS
from secateur.methods import METHODS
from secateur.recovery import UPDATES
from secateur.refinement import REFINEMENTS


def expand(studies: Mapping[str, Study], catalogue: Catalogue) -> Tables:
    """All tables of `studies` together; the same key with different content is a `UserError` that names both."""
    rows, bundles = Rows(), dense_bundles(studies)
    report = {
        name: _Expansion(rows, bundles, name, study, catalogue.join(study.assets, name)).expand()
        for name, study in studies.items()
    }
    computes = {name: study.compute for name, study in studies.items()}
    first, *others = computes
    for name in others:
        if computes[name] != computes[first]:
            ours, theirs = computes[first].model_dump(), computes[name].model_dump()
            raise UserError(f"compute: {first} has {ours} and {name} has {theirs}; studies that run together must agree")
    return Tables(studies=[*studies], compute=computes[first], report=Report(studies=report), **rows.tables)


def _of(models: list[str] | None, subjects: list[Subject]) -> list[Subject]:
    """The subjects that are one of `models` or were made from one; None means all."""
    return [subject for subject in subjects if models is None or subject.model in models]


@dataclass(frozen=True)
class _Expansion:
    """One study on its way into the rows."""

    rows: Rows
    bundles: Bundles
    name: str
    study: Study
    catalogue: Catalogue

    def expand(self) -> ReportStudy:
        """Add everything that the study asks for; returns its keys for the report."""
        subjects = {model: self.subject(model, model, f"models/{model}") for model in self.study.models}
        for model in self.study.models:
            self.download("model", model, self.catalogue.models[model].model_dump(exclude={"config"}))
        runs: list[str] = []
        tuned: dict[str, Tuned] = {}
        for candidate in candidates(self.study):
            runs.append(key := self.run(candidate))
            subjects[key] = self.subject(key, candidate.model, f"pruned/{key}")
            for name in candidate.finetunes:
                for mode in self.study.finetunes[name].modes:
                    adapter, subject = self.finetune(candidate, key, name, mode), "--".join([key, name, slug(mode)])
                    tuned[subject] = Tuned(run=key, name=name, finetune=adapter, mode=mode)
                    subjects[subject] = self.subject(subject, candidate.model, f"pruned/{key}", f"adapters/{adapter}", mode)
        every = list(subjects.values())
        ppl = [self.perplexity(entry, subject) for entry in self.study.perplexity for subject in _of(entry.models, every)]
        zeroshot = [self.zeroshot(entry, subject) for entry in self.study.zeroshot for subject in _of(entry.models, every)]
        return ReportStudy(
            title=self.study.title,
            subjects=list(subjects),
            runs=list(dict.fromkeys(runs)),
            tuned=tuned,
            ppl=list(dict.fromkeys(ppl)),
            zeroshot=list(dict.fromkeys(zeroshot)),
        )

    def add(self, table: str, key: str, model: type[Strict], row: dict[str, Any]) -> str:
        return self.rows.add(table, key, model.model_validate(row), self.name)

    def download(self, kind: str, name: str, asset: dict[str, Any]) -> None:
        folder = {"model": "models", "corpus": "corpora", "tasks": "tasks"}[kind]
        local = asset["source"].startswith("file:")
        watch = Path(asset["source"].removeprefix("file:")).expanduser().as_posix() if local else DOWNLOADER
        row = {"kind": kind, "path": f"{folder}/{name}", "watch": watch, **asset}
        self.add("download", f"{kind}-{name}", DownloadRow, row)

    def corpus(self, name: str) -> None:
        asset = self.catalogue.corpora[name].model_dump()
        self.download("corpus", name, asset | {"splits": asset["splits"] if isinstance(asset["splits"], dict) else None})

    def run(self, candidate: Candidate) -> str:
        """A run, and the calibration that it reads. A run that needs no data has no calibration and no propagation."""
        method, where = METHODS.get(candidate.method.name), candidate.where
        options = given_options(candidate.method, method, where)
        refinement = given_options(candidate.refinement, REFINEMENTS.get(candidate.refinement.name), where)
        update = given_options(candidate.update, UPDATES.get(candidate.update.name), where)
        calibration = None if needs_of(candidate) == "nothing" else candidate.calibration
        name, shares = self.allocation(candidate)
        measured = named_calibration(candidate)
        words = [candidate.model, *([measured] if measured else [])]
        words += [choice_slug(candidate.method.name, options), target_slug(candidate)]
        words += [f"{slug(candidate.gradients)}-gradients"] if method.gradients and candidate.gradients else []
        words += [name] if isinstance(name, str) and name != "uniform" else []
        words += [table_slug(name)] if not isinstance(name, str) else []
        words += [candidate.count] if candidate.count != "reference" else []
        words += [choice_slug(candidate.refinement.name, refinement)] if candidate.refinement.name != "none" else []
        words += [choice_slug(candidate.update.name, update)] if candidate.update.name != "none" else []
        words += [candidate.propagation] if calibration else []
        row = {
            "model": candidate.model,
            "source": self.stats(calibration, candidate) if calibration else f"models/{candidate.model}",
            "gradients": self.gradients(candidate) if method.gradients else f"models/{candidate.model}",
            "calibration": calibration,
            "method": candidate.method.name,
            "options": options,
            "sparsity": sparsity_of(candidate),
            "pattern": candidate.pattern,
            "count": candidate.count,
            "propagation": candidate.propagation if calibration else "dense",
            "allocation": name,
            "shares": shares,
            "watch": options.get("file", PRUNER),
            "refinement": candidate.refinement.name,
            "refinement_options": refinement,
            "update": candidate.update.name,
            "update_options": update,
        }
        return self.add("runs", "--".join(words), RunRow, row)

    @staticmethod
    def subject(key: str, model: str, source: str, adapter: str | None = None, mode: Mode | None = None) -> Subject:
        """What is evaluated; paths are below artifacts/."""
        return Subject(subject=key, model=model, source=source, adapter=adapter or source, mode=mode)

    def finetune(self, candidate: Candidate, run: str, name: str, mode: Mode) -> str:
        """The fine-tuning of a run that a mode needs; the key says what is trained, since two modes share one training."""
        chosen, training = self.study.finetunes[name], TRAININGS[mode]
        choice, kind = Choice(name=chosen.recipe, **chosen.options), RECIPES[chosen.recipe]
        row = {
            "model": candidate.model,
            "source": f"pruned/{run}",
            "data": self.calibrated(chosen.data, candidate.model, "tokens"),
            "validation": self.calibrated(chosen.validation, candidate.model, "tokens") if chosen.validation else f"pruned/{run}",
            "recipe": chosen.recipe,
            "training": training,
            "options": given_options(choice, kind, f"finetunes.{name}"),
        }
        return self.add("finetunes", "--".join([run, name, slug(training)]), FineTuneRow, row)

    def allocation(self, candidate: Candidate) -> tuple[str | list[float | str], str]:
        """The name of the rule, or the table, and the file that DVC watches for it."""
        rule = rule_of(candidate)
        if rule is None:
            return candidate.allocation if isinstance(candidate.allocation, list) else "uniform", PRUNER
        kind = ALLOCATIONS.get(rule.name)
        options = given_options(rule, kind, candidate.where)
        calibration, name = allocation_calibration(candidate), choice_slug(rule.name, options)
        source = f"models/{candidate.model}"
        if calibration:
            source = self.calibrated(calibration, candidate.model, self.bundles[candidate.model, calibration])
        key = "--".join([candidate.model, *([calibration] if calibration else []), name, target_slug(candidate)])
        row = {"model": candidate.model, "source": source, "calibration": calibration, "rule": rule.name, "options": options}
        row |= {"sparsity": sparsity_of(candidate), "pattern": candidate.pattern}
        return name, f"results/allocation/{self.add('allocations', key, AllocationRow, row)}.json"

    def stats(self, name: str, candidate: Candidate) -> str:
        """`dense` runs read statistics; the others read only tokens, since they observe the model as they prune."""
        bundle = self.bundles[candidate.model, name] if candidate.propagation == "dense" else "tokens"
        return self.calibrated(name, candidate.model, bundle)

    def gradients(self, candidate: Candidate) -> str:
        """Gradients of the dense model, from the run's own calibration unless the study names another."""
        name = candidate.gradients or candidate.calibration
        assert name is not None, "validation lets no such run pass"
        return self.calibrated(name, candidate.model, "gradients")

    def calibrated(self, name: str, model: str, bundle: str) -> str:
        """Where the bundle of a calibration lies below artifacts/."""
        calibration = self.study.calibrations[name]
        self.corpus(calibration.corpus)
        row = {"model": model, **calibration.model_dump(), "bundle": bundle}
        return "stats/" + self.add("stats", f"{model}--{name}--{bundle}", StatsRow, row)

    def perplexity(self, entry: Perplexity, subject: Subject) -> str:
        """The key names a split only if it is not the one that is meant for evaluation."""
        self.corpus(entry.corpus)
        words = [entry.corpus, *([] if entry.split in ("test", "heldout") else [slug(entry.split)]), str(entry.length)]
        words += [f"d{entry.documents}"] if entry.documents else []
        words += [f"w{entry.windows}"] if entry.windows else []
        words += ["b"] if entry.protocol == "B" else []
        row = subject.model_dump() | entry.model_dump(exclude={"models"})
        return self.add("ppl", f"{subject.subject}--{'-'.join(words)}", PerplexityRow, row)

    def zeroshot(self, entry: Zeroshot, subject: Subject) -> str:
        """The key names the tasks if they are not all that the data has: another study may take other ones."""
        asset = self.catalogue.tasks[entry.data]
        self.download("tasks", entry.data, asset.model_dump())
        tasks = sorted(entry.tasks or asset.tasks)
        words = [entry.data, *([] if tasks == sorted(asset.tasks) else [slug(task) for task in tasks])]
        words += [f"l{entry.limit}"] if entry.limit else []
        row = subject.model_dump() | {"data": entry.data, "tasks": tasks, "limit": entry.limit}
        return self.add("zeroshot", f"{subject.subject}--{'-'.join(words)}", ZeroshotRow, row)
