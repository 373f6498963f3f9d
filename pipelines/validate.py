"""Every rule that can be checked before any work starts: one line per problem, and nothing is repaired.

What depends on a model's config.json (widths, number of blocks, context) is checked when that is known: for models that
were downloaded, that lie in a `file:` source, or whose facts the catalogue lists. Otherwise the stages find it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.expand import needs_of
from pipelines.grid import Candidate, candidates, parsed_options, sparsity_of
from pipelines.study import TASKS, Catalogue, Study
from secateur.allocation import ALLOCATIONS
from secateur.calibration import SAMPLERS
from secateur.errors import UserError, unknown_name
from secateur.methods import METHODS
from secateur.models.adapters import adapter_for
from secateur.patterns import parse_pattern
from secateur.recovery import UPDATES
from secateur.statistics import bundle_covers

Config = Mapping[str, Any]


def validate(name: str, study: Study, catalogue: Catalogue, configs: Mapping[str, Config]) -> list[str]:
    """All problems of one study, one line each, in the order of its YAML; empty if there are none.

    `catalogue` includes the study's own assets; `configs` maps models to their parsed config.json as far as known.
    """
    unsound = {model: lines for model, config in configs.items() if (lines := _config(config))}
    configs = {model: config for model, config in configs.items() if model not in unsound}
    lines = [
        *_unknown("models", study.models, "model", catalogue.models),
        *(f"models: {model}: config.json: {line}" for model in study.models for line in unsound.get(model, [])),
        *_calibrations(study, catalogue, configs),
        *(line for candidate in candidates(study) for line in _run(candidate, study, configs)),
        *_perplexity(study, catalogue, configs),
        *_zeroshot(study, catalogue),
    ]
    return [f"{name}: {line}" for line in dict.fromkeys(lines)]


def _config(config: Config) -> list[str]:
    """What keeps the adapters from reading a model's sizes."""
    try:
        adapter_for(config).sizes(config)
    except UserError as error:
        return [str(error)]
    except KeyError as error:
        return [f"{error.args[0]!r} is missing"]
    return []


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
        yield from _context(f"{where}.length", calibration.length, study, configs)


def _split(where: str, corpus: str, split: str, catalogue: Catalogue) -> Iterator[str]:
    yield from _unknown(f"{where}.corpus", [corpus], "corpus", catalogue.corpora)
    if corpus in catalogue.corpora:
        yield from _unknown(f"{where}.split", [split], f"split of {corpus}", catalogue.corpora[corpus].split_names())


def _context(where: str, length: int, study: Study, configs: Mapping[str, Config]) -> Iterator[str]:
    for model in study.models:
        if model in configs and length > (context := adapter_for(configs[model]).context(configs[model])):
            yield f"{where}: {length}: must be at most {context}, the context of {model}"


def _run(candidate: Candidate, study: Study, configs: Mapping[str, Config]) -> Iterator[str]:
    where = candidate.where
    names = [
        *_unknown(f"{where}.model", [candidate.model], "model of this study", study.models),
        *_unknown(f"{where}.method", [candidate.method], METHODS.kind, METHODS),
        *_unknown(f"{where}.update", [candidate.update], UPDATES.kind, UPDATES),
    ]
    if isinstance(candidate.allocation, str):
        names += _unknown(f"{where}.allocation", [candidate.allocation], ALLOCATIONS.kind, ALLOCATIONS)
    if candidate.calibration is not None:
        names += _unknown(f"{where}.calibration", [candidate.calibration], "calibration of this study", study.calibrations)
    yield from names
    yield from _sparsity(candidate)
    config = configs.get(candidate.model)
    if config is not None:
        yield from _shapes(candidate, config)
    if not names:
        yield from _method(candidate)
        yield from _statistics(candidate, study)


def _sparsity(candidate: Candidate) -> Iterator[str]:
    target, where = sparsity_of(candidate), candidate.where
    if target is None:
        yield f"{where}.sparsity: missing; pattern 'unstructured' needs it"
    elif candidate.sparsity is not None and abs(candidate.sparsity - target) > 1e-9:
        yield f"{where}.sparsity: {candidate.sparsity}: pattern {candidate.pattern} is {target:g}; leave sparsity out"
    if isinstance(candidate.allocation, str) or target is None:
        return
    if candidate.pattern != "unstructured":
        yield f"{where}.allocation: pattern {candidate.pattern} fixes the sparsity of every block; use 'uniform'"
        return
    mean = sum(candidate.allocation) / len(candidate.allocation)
    if abs(mean - target) > 1e-3:
        yield f"{where}.allocation: its mean is {mean:.4f}: must be the sparsity {target:g} within 0.001"


def _shapes(candidate: Candidate, config: Config) -> Iterator[str]:
    """What the model's own sizes forbid."""
    adapter = adapter_for(config)
    blocks = adapter.blocks(config)
    if not isinstance(candidate.allocation, str) and len(candidate.allocation) != blocks:
        entries = len(candidate.allocation)
        yield f"{candidate.where}.allocation: {entries} entries: {candidate.model} has {blocks} blocks"
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
    method, where = METHODS.get(candidate.method), f"{candidate.where}.method"
    try:
        options = parsed_options(candidate, method, where)
    except UserError as error:
        yield from str(error).splitlines()
        return
    try:
        instance = method(**options)
    except UserError as error:
        yield f"{where}: {error}"
        return
    group = parse_pattern(candidate.pattern)
    if group and getattr(instance, "use_variant", False):
        yield f"{where}: {candidate.method} use_variant has no {candidate.pattern} form; use pattern 'unstructured'"
    if group and (blocksize := getattr(instance, "blocksize", group[1])) % group[1]:
        yield (
            f"{candidate.where}.pattern: {candidate.pattern}: {group[1]} does not divide the blocksize {blocksize} "
            f"of {candidate.method}"
        )
    if method.updates_weights and UPDATES.get(candidate.update).updates_weights:
        yield f"{candidate.where}.update: {candidate.update}: {candidate.method} updates them already; use 'none'"


def _statistics(candidate: Candidate, study: Study) -> Iterator[str]:
    """Whether the run gets what it has to know."""
    need = needs_of(candidate)
    if need == "nothing":
        return
    if candidate.calibration is None:
        names = ", ".join(study.calibrations) or "none, add one under calibrations"
        yield f"{candidate.where}.calibration: missing; {candidate.method} needs one (known: {names})"
        return
    has = study.calibrations[candidate.calibration].bundle
    if has and candidate.propagation == "dense" and not bundle_covers(has, need):
        what = candidate.method if candidate.update == "none" else f"{candidate.method} with update {candidate.update}"
        yield (
            f"{candidate.where}: dense {what} needs the bundle {need!r}: calibration {candidate.calibration} keeps "
            f"only {has!r}; raise or leave out calibrations.{candidate.calibration}.bundle"
        )


def _perplexity(study: Study, catalogue: Catalogue, configs: Mapping[str, Config]) -> Iterator[str]:
    for index, entry in enumerate(study.perplexity):
        where = f"perplexity[{index}]"
        yield from _split(where, entry.corpus, entry.split, catalogue)
        yield from _context(f"{where}.length", entry.length, study, configs)


def _zeroshot(study: Study, catalogue: Catalogue) -> Iterator[str]:
    for index, entry in enumerate(study.zeroshot):
        where = f"zeroshot[{index}]"
        yield from _unknown(f"{where}.data", [entry.data], "task data", catalogue.tasks)
        if entry.data in catalogue.tasks:
            yield from _unknown(f"{where}.tasks", entry.tasks or [], f"task of {entry.data}", catalogue.tasks[entry.data].tasks)


# What stages/download.py can read, said here because studies do not import stages (a test compares the two).
READERS = {"models": ("gguf",), "corpora": ("hub", "jsonl", "mediawiki", "paragraphs", "parquet", "text")}


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
    for name, model in catalogue.models.items():
        if model.config:
            lines += [f"models.{name}.config: {line}" for line in _config(model.config)]
    return lines
