"""The rows of the tables in params.yaml, one model each, and errors that name the place, the value and what is allowed.

`expand.py` makes rows with these models and the stages read them back with the same ones, so neither can drift from the
other. Rows are frozen, unknown keys are errors, and nothing is coerced ("0.5" is not a number).
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from secateur.errors import UserError, unknown_name

Bundle = Literal["tokens", "moments", "gram"]  # what a calibration can keep, each holding everything of the one before

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SOURCE = re.compile(r"hf:[\w.-]+/[\w.-]+(@[\w./-]+)?|file:.+|pypi:[\w.-]+==[\w.+!-]+|hub")


DOWNLOADER = "stages/download.py"


class Strict(BaseModel):
    """Base of everything that is read from YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        raise ValueError("must be lower-case letters and digits, with single '-' between them")
    return value


def _source(value: str) -> str:
    if not _SOURCE.fullmatch(value):
        raise ValueError("must be hf:<org>/<name>[@<revision>], file:<path>, pypi:<package>==<version> or hub (task data)")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


def _sparsity(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError("must be at least 0 and below 1")
    return value


def _allocation(value: Any) -> str | list[float]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(_is_number(item) for item in value):
        raise ValueError("must be the name of an allocation ('uniform') or a list of sparsities, one per block")
    if not all(0 <= item < 1 for item in value):
        raise ValueError("every entry must be at least 0 and below 1")
    return [float(item) for item in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pattern(value: str) -> str:
    match = re.fullmatch(r"(\d+):(\d+)", value)
    if value != "unstructured" and (match is None or not 0 < int(match[1]) < int(match[2])):
        raise ValueError("must be 'unstructured' or 'n:m' with 0 < n < m (n zeros in every m inputs)")
    return value


def _holdout(value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise ValueError("must be a number k (every k-th document) or [first, end]")
    if (len(numbers) == 1 and numbers[0] >= 2) or (len(numbers) == 2 and 0 <= numbers[0] < numbers[1]):
        return value
    raise ValueError("must be a number k of at least 2 (every k-th document) or [first, end] with first < end")


def _digests(value: Any) -> Any:
    single = value if isinstance(value, dict) else {"": value}
    if not all(isinstance(v, str) and re.fullmatch(r"[0-9a-f]{64}", v) for v in single.values()):
        raise ValueError("must be 64 hexadecimal digits, or a mapping from file names to such digests")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Source = Annotated[str, AfterValidator(_source)]
Sparsity = Annotated[float, AfterValidator(_sparsity)]
Allocation = Annotated[str | list[float], PlainValidator(_allocation)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Holdout = Annotated[int | list[int], PlainValidator(_holdout)]
Digests = Annotated[str | dict[str, str], PlainValidator(_digests)]
Positive = Annotated[int, Field(gt=0, le=1_000_000)]


class Compute(Strict):
    """What changes the last digits: the number of threads (sums differ between 1 and 2) and the device."""

    threads: Annotated[int, Field(gt=0, le=1024)] = 2
    device: Annotated[str, AfterValidator(_device)] = "auto"


class DownloadRow(Strict):
    """One asset. `path` is relative to `artifacts/`; the fields after `sha256` depend on the kind.

    `splits` maps a split to the file pattern or the slice of the source that holds it, for repositories of which only a
    part is wanted. `holdout` moves documents of `train` to the split `heldout`: every k-th, or those in [first, end].
    `watch` is what DVC watches besides the code: the path of a `file:` source, else a file that it watches anyway.
    """

    kind: Literal["model", "corpus", "tasks"]
    path: str
    source: Source
    watch: str = DOWNLOADER
    sha256: Digests | None = None
    files: list[str] | None = None
    reader: str | None = None
    config: str | None = None
    column: str | None = None
    holdout: Holdout | None = None
    splits: dict[str, str] | None = None
    tasks: list[str] | None = None


class StatsRow(Strict):
    """One calibration of one model: which tokens, and how much is kept of what the model does with them."""

    model: str
    corpus: str
    split: str
    sampler: str
    samples: Positive
    length: Positive
    seed: Annotated[int, Field(ge=0)]
    bundle: Bundle


class RunRow(Strict):
    """One pruned model. `source` is a stats artifact, or the model itself when the method needs no data."""

    model: str
    source: str
    calibration: str | None
    method: str
    options: dict[str, Any]
    sparsity: Sparsity
    pattern: Pattern
    count: Literal["reference", "exact"]
    propagation: Literal["site", "block", "dense"]
    allocation: Allocation
    update: str


class PerplexityRow(Strict):
    """Perplexity of one subject on one text: its first `documents`, the first `windows`; null means all of them."""

    subject: str
    model: str
    source: str
    corpus: str
    split: str
    joiner: str
    documents: Positive | None
    protocol: Literal["A", "B"]
    length: Annotated[int, Field(ge=2)]
    windows: Positive | None


class ZeroshotRow(Strict):
    """Accuracy of one subject on zero-shot tasks; `limit: null` means all documents."""

    subject: str
    model: str
    source: str
    data: str
    tasks: list[str]
    limit: Positive | None


class ReportStudy(Strict):
    """The keys that belong to one study, in the order in which its YAML names them."""

    title: str
    subjects: list[str]
    runs: list[str]
    ppl: list[str]
    zeroshot: list[str]


class Report(Strict):
    """Everything that the report shows."""

    studies: dict[str, ReportStudy]


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], value: Any, where: str) -> M:
    """`value` as a `model`; otherwise a `UserError` with one line per problem, each beginning with `where`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError("\n".join(_lines(error, model, value, where))) from None


def _lines(error: ValidationError, model: type[BaseModel], value: Any, where: str) -> Iterable[str]:
    for problem in error.errors(include_url=False, include_context=False):
        *parents, last = problem["loc"] or ("",)
        if problem["type"] == "extra_forbidden":
            path = _path(parents, value)
            yield f"{where}: {path + ': ' if path else ''}{unknown_name('key', str(last), _fields(model, parents))}"
            continue
        path = _path(parents[:-1] if last == "[key]" else problem["loc"], value)
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
