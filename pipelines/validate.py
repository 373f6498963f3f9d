"""Every rule that can be checked before any work starts: one line per problem, and nothing is repaired.

What depends on a model's config.json (widths, number of blocks, context) is checked when that is known: for models that
were downloaded, that lie in a `file:` source, or whose facts the catalogue lists. Otherwise the stages find it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines import validate_examples, validate_finetunes
from pipelines.grid import Candidate, candidates, parsed_options, sparsity_of
from pipelines.needs import needs_of, rule_of
from pipelines.study import TASKS, Catalogue, Choice, Study
from pipelines.validate_models import config_problems, fact_problems
from secateur.allocation import ALLOCATIONS
from secateur.calibration import SAMPLERS
from secateur.errors import UserError, unknown_name
from secateur.methods import METHODS
from secateur.models.adapters import adapter_for
from secateur.patterns import parse_pattern
from secateur.recovery import UPDATES
from secateur.refinement import REFINEMENTS
from secateur.shares import check_table
from secateur.statistics import bundle_covers

Config = Mapping[str, Any]


def validate(name: str, study: Study, catalogue: Catalogue, configs: Mapping[str, Config]) -> list[str]:
    """All problems of one study, one line each, in the order of its YAML; empty if there are none.

    `catalogue` includes the study's own assets; `configs` maps models to their parsed config.json as far as known.
    """
    unsound = {model: lines for model, config in configs.items() if (lines := config_problems(config))}
    configs = {model: config for model, config in configs.items() if model not in unsound}
    lines = [
        *_unknown("models", study.models, "model", catalogue.models),
        *(f"models: {model}: config.json: {line}" for model in study.models for line in unsound.get(model, [])),
        *_calibrations(study, catalogue, configs),
        *validate_examples.calibrations(study, catalogue),
        *validate_finetunes.finetunes(study),
        *(line for candidate in candidates(study) for line in _run(candidate, study, configs)),
        *_perplexity(study, catalogue, configs),
        *validate_examples.perplexity(study, catalogue),
        *_zeroshot(study, catalogue),
    ]
    return [f"{name}: {line}" for line in dict.fromkeys(lines)]


def _unknown(where: str, names: Iterable[str], kind: str, known: Iterable[str]) -> Iterator[str]:
    known = list(known)
    for name in names:
        if name not in known:
            yield f"{where}: {unknown_name(kind, name, known)}"


def _calibrations(study: Study, catalogue: Catalogue, configs: Mapping[str, Config]) -> Iterator[str]:
    for name, calibration in study.calibrations.items():
        where = f"calibrations.{name}"
        yield from _split(where, calibration.corpus, calibration.split, catalogue)
        yield from _unknown(f"{where}.sampler", [calibration.sampler], "sampler", SAMPLERS)
        yield from _context(f"{where}.length", calibration.length, _calibrated(name, study), configs)


def _split(where: str, corpus: str, split: str, catalogue: Catalogue) -> Iterator[str]:
    yield from _unknown(f"{where}.corpus", [corpus], "corpus", catalogue.corpora)
    if corpus in catalogue.corpora:
        yield from _unknown(f"{where}.split", [split], f"split of {corpus}", catalogue.corpora[corpus].split_names())


def _calibrated(name: str, study: Study) -> list[str]:
    """Models that see a calibration; all of them if no run names it."""
    named = {candidate.model for candidate in candidates(study) if name in (candidate.calibration, candidate.gradients)}
    return [model for model in study.models if model in named or not named]


def _context(where: str, length: int, models: list[str], configs: Mapping[str, Config]) -> Iterator[str]:
    for model in models:
        if model in configs and length > (context := adapter_for(configs[model]).context(configs[model])):
            yield f"{where}: {length}: must be at most {context}, the context of {model}"


def _run(candidate: Candidate, study: Study, configs: Mapping[str, Config]) -> Iterator[str]:
    where = candidate.where
    names = [
        *_unknown(f"{where}.model", [candidate.model], "model of this study", study.models),
        *_unknown(f"{where}.method", [candidate.method.name], METHODS.kind, METHODS),
        *_unknown(f"{where}.refinement", [candidate.refinement.name], REFINEMENTS.kind, REFINEMENTS),
        *_unknown(f"{where}.update", [candidate.update.name], UPDATES.kind, UPDATES),
        *validate_finetunes.of_run(candidate, study, configs.get(candidate.model)),
    ]
    if isinstance(candidate.allocation, Choice):
        names += _unknown(f"{where}.allocation", [candidate.allocation.name], ALLOCATIONS.kind, ALLOCATIONS)
    for axis in ("calibration", "gradients"):
        if (name := getattr(candidate, axis)) is not None:
            names += _unknown(f"{where}.{axis}", [name], "calibration of this study", study.calibrations)
    yield from names
    yield from _sparsity(candidate)
    config = configs.get(candidate.model)
    if config is not None:
        yield from _shapes(candidate, config)
    if not names:
        yield from _method(candidate)
        yield from _statistics(candidate, study)
        yield from validate_examples.of_run(candidate, study)


def _sparsity(candidate: Candidate) -> Iterator[str]:
    target, where = sparsity_of(candidate), candidate.where
    if target is None:
        yield f"{where}.sparsity: missing; pattern 'unstructured' needs it"
    elif candidate.sparsity is not None and abs(candidate.sparsity - target) > 1e-9:
        yield f"{where}.sparsity: {candidate.sparsity}: pattern {candidate.pattern} is {target:g}; leave sparsity out"


def _shapes(candidate: Candidate, config: Config) -> Iterator[str]:
    """What the model's own sizes forbid."""
    adapter = adapter_for(config)
    blocks = adapter.blocks(config)
    target = sparsity_of(candidate)
    if isinstance(candidate.allocation, list) and target is not None:
        try:
            check_table(candidate.allocation, target, candidate.pattern, blocks)
        except UserError as error:
            yield f"{candidate.where}.allocation: {candidate.model}: {error}"
    if group := parse_pattern(candidate.pattern):
        layers: dict[int, list[str]] = {}
        for layer, (_, width) in adapter.widths(config).items():
            layers.setdefault(width, []).append(layer)
        for width, names in layers.items():
            if width % group[1]:
                yield (
                    f"{candidate.where}.pattern: {candidate.pattern}: {group[1]} does not divide the {width} inputs of "
                    f"{', '.join(names)} in {candidate.model}"
                )


def _method(candidate: Candidate) -> Iterator[str]:
    """Options, and what the method and its options rule out."""
    where, group = candidate.where, parse_pattern(candidate.pattern)
    chosen: list[tuple[str, Choice, Any]] = [
        ("method", candidate.method, METHODS.get(candidate.method.name)),
        ("refinement", candidate.refinement, REFINEMENTS.get(candidate.refinement.name)),
        ("update", candidate.update, UPDATES.get(candidate.update.name)),
    ]
    if isinstance(candidate.allocation, Choice):
        chosen.append(("allocation", candidate.allocation, ALLOCATIONS.get(candidate.allocation.name)))
    for axis, choice, kind in chosen:
        try:
            instance = kind(**parsed_options(choice, kind, f"{where}.{axis}"))
        except UserError as error:
            yield from (line if line.startswith(where) else f"{where}.{axis}: {line}" for line in str(error).splitlines())
            continue
        if candidate.propagation == "dense" and axis in ("method", "update") and instance.walks:
            yield f"{where}.propagation: dense: {choice.name} needs the inputs of every block here; use 'block' or 'site'"
        if group and getattr(instance, "use_variant", False):
            yield f"{where}.{axis}: {choice.name} use_variant has no {candidate.pattern} form; use pattern 'unstructured'"
        if group and (blocksize := getattr(instance, "blocksize", group[1])) % group[1]:
            yield (f"{where}.pattern: {candidate.pattern}: {group[1]} does not divide the blocksize {blocksize} of {choice.name}")
        if group and axis == "allocation" and choice.name not in ("uniform", "owl"):
            yield f"{where}.allocation: {choice.name} has no n:m form; use uniform, owl or a table"


def _statistics(candidate: Candidate, study: Study) -> Iterator[str]:
    """Whether the run, and the rule that spreads its sparsity, get what they have to know."""
    where, rule = candidate.where, rule_of(candidate)
    need = needs_of(candidate)
    gradients = METHODS.get(candidate.method.name).gradients and not candidate.gradients
    needed = {
        f"{where}.calibration: missing; {candidate.method.name} needs one": need != "nothing" or gradients,
        f"{where}.calibration: missing; allocation {rule.name if rule else ''} needs one": rule
        and ALLOCATIONS.get(rule.name).needs != "nothing",
    }
    if candidate.calibration is None:
        names = ", ".join(study.calibrations) or "none, add one under calibrations"
        yield from (f"{line} (known: {names})" for line, wanted in needed.items() if wanted)
        return
    has = study.calibrations[candidate.calibration].bundle
    if has and need != "nothing" and candidate.propagation == "dense" and not bundle_covers(has, need):
        parts = {"refinement": candidate.refinement.name, "update": candidate.update.name}
        with_parts = [f"{part} {name}" for part, name in parts.items() if name != "none"]
        what = " with ".join([candidate.method.name, *([" and ".join(with_parts)] if with_parts else [])])
        yield (
            f"{where}: dense {what} needs the bundle {need!r}: calibration {candidate.calibration} keeps "
            f"only {has!r}; raise or leave out calibrations.{candidate.calibration}.bundle"
        )


def _perplexity(study: Study, catalogue: Catalogue, configs: Mapping[str, Config]) -> Iterator[str]:
    for index, entry in enumerate(study.perplexity):
        where = f"perplexity[{index}]"
        yield from _unknown(f"{where}.models", entry.models or [], "model of this study", study.models)
        yield from _split(where, entry.corpus, entry.split, catalogue)
        yield from _context(f"{where}.length", entry.length, entry.models or study.models, configs)


def _zeroshot(study: Study, catalogue: Catalogue) -> Iterator[str]:
    for index, entry in enumerate(study.zeroshot):
        where = f"zeroshot[{index}]"
        yield from _unknown(f"{where}.models", entry.models or [], "model of this study", study.models)
        yield from _unknown(f"{where}.data", [entry.data], "task data", catalogue.tasks)
        if entry.data in catalogue.tasks:
            yield from _unknown(f"{where}.tasks", entry.tasks or [], f"task of {entry.data}", catalogue.tasks[entry.data].tasks)


# What stages/download.py can read, said here because studies do not import stages (a test compares the two).
TABULAR = ("hub", "jsonl", "parquet")  # readers of rows with columns
READERS = {"models": ("gguf",), "corpora": (*TABULAR, "mediawiki", "paragraphs", "text")}


def validate_catalogue(catalogue: Catalogue) -> list[str]:
    """Problems of the assets themselves: tasks that nothing can evaluate, splits that nobody named."""
    lines = []
    for name, asset in catalogue.tasks.items():
        lines += _unknown(f"tasks.{name}.tasks", asset.tasks, "task", TASKS)
    for kind, assets in (("models", catalogue.models), ("corpora", catalogue.corpora)):
        lines += [
            f"{kind}.{name}.source: 'hub': is for task data only; use hf:, file: or pypi:"
            for name, asset in assets.items()
            if asset.source == "hub"
        ]
    for kind, assets in (("models", catalogue.models), ("corpora", catalogue.corpora)):
        for name, asset in assets.items():
            if asset.reader is not None:
                lines += _unknown(f"{kind}.{name}.reader", [asset.reader], "reader", READERS[kind])
    for name, corpus in catalogue.corpora.items():
        if corpus.source.startswith("hf:") and not corpus.splits:
            lines.append(f"corpora.{name}.splits: missing; a data set of the Hub has to list its splits")
        if corpus.columns and corpus.column:
            lines.append(f"corpora.{name}.columns: {corpus.columns}: column {corpus.column!r} is given too; leave one out")
        if corpus.columns and corpus.reader not in (None, *TABULAR):
            lines.append(f"corpora.{name}.columns: reader {corpus.reader} has no columns; use {', '.join(TABULAR)}")
    for name, model in catalogue.models.items():
        if model.config:
            lines += [f"models.{name}.config: {line}" for line in fact_problems(model.config)]
    return lines
