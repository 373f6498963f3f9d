"""From the grids of a study to single candidates, and from a candidate to the words that name it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from hashlib import sha256
from itertools import product
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import Field, create_model

from pipelines.schema import Strict, parse
from pipelines.study import Choice, Study
from secateur.patterns import parse_pattern


@dataclass(frozen=True)
class Candidate:
    """One point of a grid; `where` is its place in the YAML. What a study left out is None."""

    where: str
    model: str
    calibration: str | None
    gradients: str | None
    method: Choice
    sparsity: float | None
    pattern: str
    count: str
    propagation: str
    allocation: Choice | list[float | str]
    refinement: Choice
    update: Choice
    finetunes: list[str]


def candidates(study: Study) -> Iterator[Candidate]:
    """Every point of every grid, in the order of the YAML; the rightmost axis changes fastest."""
    for index, grid in enumerate(study.runs):
        only = [*study.calibrations] if len(study.calibrations) == 1 else [None]
        points = product(
            grid.model or study.models,
            grid.calibration or only,
            grid.method,
            grid.pattern,
            grid.sparsity or [None],
            grid.count,
            grid.allocation,
            grid.refinement,
            grid.update,
            grid.propagation,
        )
        for model, calibration, method, pattern, sparsity, count, allocation, refinement, update, propagation in points:
            yield Candidate(
                where=f"runs[{index}]",
                model=model,
                calibration=calibration,
                gradients=grid.gradients,
                method=method,
                sparsity=sparsity,
                pattern=pattern,
                count=count,
                propagation=propagation,
                allocation=allocation,
                refinement=refinement,
                update=update,
                finetunes=grid.finetune,
            )


def sparsity_of(candidate: Candidate) -> float | None:
    """n/m for a pattern n:m, else what the study says."""
    group = parse_pattern(candidate.pattern)
    return group[0] / group[1] if group else candidate.sparsity


def parsed_options(choice: Choice, kind: type, where: str) -> dict[str, Any]:
    """The options that were given, checked against the fields of the dataclass `kind` (`UserError` for bad ones)."""
    if not is_dataclass(kind):
        return dict(parse(Strict, choice.options, where))
    types = {name: _from_yaml(hint) for name, hint in get_type_hints(kind).items()}
    known: dict[str, Any] = {field.name: (types[field.name], ...) for field in fields(kind)}
    for field in fields(kind):
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if optional and field.name not in choice.options:
            known[field.name] = (types[field.name] | None, None)
    options = parse(create_model(kind.__name__, __base__=Strict, **known), choice.options, where)
    return {name: getattr(options, name) for name in sorted(choice.options)}


def _from_yaml(hint: Any) -> Any:
    """A tuple may be written as a list, the only sequence that YAML has."""
    return Annotated[hint, Field(strict=False)] if get_origin(hint) is tuple else hint


def given_options(choice: Choice, kind: type, where: str) -> dict[str, Any]:
    """The options that differ from their defaults: equal runs have equal rows however they are written."""
    options = parsed_options(choice, kind, where)
    if not is_dataclass(kind):
        return options
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(kind)}
    given = {name: value for name, value in options.items() if value != defaults[name]}
    return {name: [*value] if isinstance(value, tuple) else value for name, value in given.items()}


def choice_slug(name: str, options: Mapping[str, Any]) -> str:
    """`wanda`, `wanda-use-variant`, `sparsegpt-percdamp-0p1`."""
    words = [name]
    for option, value in options.items():
        words += ["no", option] if value is False else [option] if value is True else [option, number_slug(value)]
    return "-".join(slug(word) for word in words)


def number_slug(value: Any) -> str:
    """0.1 → `0p1`, -2 → `m2`; other values as they print."""
    if isinstance(value, int | float):
        return f"{value:.12g}".replace(".", "p").replace("-", "m").replace("+", "")
    return str(value)


def slug(text: str) -> str:
    """Lower-case letters and digits with single dashes, as keys of params.yaml must be."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def target_slug(candidate: Candidate) -> str:
    """`50`, `2of4`."""
    group = parse_pattern(candidate.pattern)
    return f"{group[0]}of{group[1]}" if group else number_slug(round(100 * (candidate.sparsity or 0), 9))


def table_slug(table: list[float | str]) -> str:
    """The start of a digest of a table's entries."""
    return f"table-{sha256(repr(table).encode()).hexdigest()[:8]}"
