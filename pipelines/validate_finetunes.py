"""What a study may not say about fine-tuning."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.grid import Candidate, parsed_options
from pipelines.study import Choice, FineTune, Study
from secateur.errors import UserError, unknown_name
from secateur.finetune.recipes import RECIPES, TRAININGS
from secateur.finetune.targets import resolve_targets
from secateur.models.adapters import adapter_for

FOLLOWS = {"train": "modes", "length": "data", "blocks": "data"}  # settings of a recipe that a study says elsewhere


def finetunes(study: Study) -> Iterator[str]:
    """Problems of the fine-tunings themselves."""
    for name, chosen in study.finetunes.items():
        where = f"finetunes.{name}"
        for field in ("data", "validation"):
            given = getattr(chosen, field)
            if given is not None and given not in study.calibrations:
                yield f"{where}.{field}: {unknown_name('calibration of this study', given, study.calibrations)}"
        if chosen.validation == chosen.data:
            yield f"{where}.validation: {chosen.validation}: must be other text than data"
        if chosen.recipe not in RECIPES:
            yield f"{where}.recipe: {unknown_name('fine-tuning recipe', chosen.recipe, RECIPES)}"
        else:
            yield from _options(where, chosen)


def _options(where: str, chosen: FineTune) -> Iterator[str]:
    kind = RECIPES[chosen.recipe]
    if given := FOLLOWS.keys() & chosen.options.keys():
        yield from (f"{where}.{field}: leave it out; it follows from {FOLLOWS[field]}" for field in sorted(given))
        return
    try:
        options = parsed_options(Choice(name=chosen.recipe, **chosen.options), kind, where)
        settings = kind(**options)
    except UserError as error:
        yield from (line if line.startswith(where) else f"{where}: {line}" for line in str(error).splitlines())
        return
    for mode in chosen.modes:
        if (TRAININGS[mode] == "dense") != (settings.train == "dense"):
            fitting = [other for other, training in TRAININGS.items() if (training == "dense") == (settings.train == "dense")]
            yield f"{where}.modes: {mode}: recipe {chosen.recipe} allows {', '.join(fitting)}"
    if settings.keep == "best" and chosen.validation is None:
        yield f"{where}.validation: missing; keep best needs held-out text"


def of_run(candidate: Candidate, study: Study, config: Mapping[str, Any] | None) -> Iterator[str]:
    """Problems of the fine-tunings that a run names; `config` is its model's config.json, if that is known."""
    for name in candidate.finetunes:
        if name not in study.finetunes:
            yield f"{candidate.where}.finetune: {unknown_name('fine-tuning of this study', name, study.finetunes)}"
            continue
        chosen = study.finetunes[name]
        targets = chosen.options.get("targets", getattr(RECIPES.get(chosen.recipe), "targets", None))
        if config is not None and isinstance(targets, list | tuple) and all(isinstance(target, str) for target in targets):
            try:
                resolve_targets(targets, adapter_for(config))
            except UserError as error:
                yield f"finetunes.{name}.targets: {candidate.model}: {error}"
