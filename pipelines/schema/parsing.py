"""Reading a value as a model, with errors that name the place, the value and what is allowed."""

from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from secateur.errors import UserError, unknown_name

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], value: Any, where: str) -> M:
    """`value` as a `model`; otherwise a `UserError` with one line per problem, each beginning with `where`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError.of(_lines(error, model, value, where)) from None


def _lines(error: ValidationError, model: type[BaseModel], value: Any, where: str) -> Iterable[str]:
    for problem in error.errors(include_url=False, include_context=False):
        # A value that may be a table or a rule has the kind that was tried in its place; no YAML has it.
        loc = [part for part in problem["loc"] if part not in ("table", "rule")]
        *parents, last = loc or ("",)
        if problem["type"] == "extra_forbidden":
            path = _path(parents, value)
            yield f"{where}: {path + ': ' if path else ''}{unknown_name('key', str(last), _fields(model, parents))}"
            continue
        path = _path(parents[:-1] if last == "[key]" else loc, value)
        if problem["type"] == "missing":
            yield f"{where}: {path}: missing"
        else:
            message = _message(problem["type"], problem["msg"])
            yield f"{where}: {path + ': ' if path else ''}{_short(problem['input'])}: {message}"


def _message(kind: str, message: str) -> str:
    """Pydantic's message in the words of someone who writes YAML."""
    if kind in ("model_type", "dict_type"):
        return "must be a mapping"
    if kind == "too_short":
        return "must not be empty"
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _path(loc: Iterable[int | str], value: Any) -> str:
    """`("runs", 0, "sparsity", 0)` → `runs[0].sparsity`: an index counts only where the YAML really holds a list."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            if isinstance(value, list) and part < len(value):
                path, value = f"{path}[{part}]", value[part]
        else:
            path, value = f"{path}.{part}" if path else part, value.get(part) if isinstance(value, dict) else None
    return path


def _fields(model: Any, loc: Iterable[int | str]) -> list[str]:
    """The keys that the model at `loc` inside `model` knows."""
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        else:
            model = get_args(model)[-1]  # list[X] and dict[str, X]
        while get_args(model) and not (isinstance(model, type) or getattr(model, "__origin__", None) in (list, dict)):
            model = get_args(model)[0]  # Annotated[X, ...] and X | None
    return list(model.model_fields)
