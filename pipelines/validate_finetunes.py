"""What a study may not say about fine-tuning."""

from collections.abc import Iterator

from pipelines.grid import Candidate, parsed_options
from pipelines.study import Choice, FineTune, Study
from secateur.errors import UserError, unknown_name
from secateur.finetune.recipes import RECIPES, TRAININGS


def finetunes(study: Study) -> Iterator[str]:
    """Problems of the fine-tunings themselves."""
    for name, chosen in study.finetunes.items():
        where = f"finetunes.{name}"
        for field in ("data", "validation"):
            given = getattr(chosen, field)
            if given is not None and given not in study.calibrations:
                yield f"{where}.{field}: {unknown_name('calibration of this study', given, study.calibrations)}"
        if chosen.recipe not in RECIPES:
            yield f"{where}.recipe: {unknown_name('fine-tuning recipe', chosen.recipe, RECIPES)}"
        else:
            yield from _options(where, chosen)


def _options(where: str, chosen: FineTune) -> Iterator[str]:
    kind = RECIPES[chosen.recipe]
    if "train" in chosen.options:
        yield f"{where}.train: leave it out; it follows from modes"
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


def of_run(candidate: Candidate, study: Study) -> Iterator[str]:
    """Problems of the names that a run gives."""
    for name in candidate.finetunes:
        if name not in study.finetunes:
            yield f"{candidate.where}.finetune: {unknown_name('fine-tuning of this study', name, study.finetunes)}"
