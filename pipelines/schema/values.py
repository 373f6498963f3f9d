"""The kinds of values that YAML may hold here: each checked where it stands, with a message that says what is allowed."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

# What a calibration can keep, each holding everything of the one before; gradients stand alone.
Bundle = Literal["tokens", "moments", "gram", "outputs", "gradients"]

Training = Literal["lora", "masked_lora", "dense"]
Mode = Literal["unmerged", "masked_merge", "masked_training", "dense"]
"""How a fine-tuned run is evaluated, in the words of `secateur.finetune`."""

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SOURCE = re.compile(r"hf:[\w.-]+/[\w.-]+(@[\w./-]+)?|file:.+|pypi:[\w.-]+==[\w.+!-]+|hub")


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


def _table(value: Any) -> list[float | str]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list with one sparsity, or one pattern, for each block")
    if any(not (_is_number(item) or isinstance(item, str)) for item in value):
        raise ValueError("every entry must be a sparsity or a pattern")
    if not all(isinstance(item, str) or 0 <= item < 1 for item in value):
        raise ValueError("every entry must be at least 0 and below 1")
    return [item if isinstance(item, str) else float(item) for item in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pattern(value: str) -> str:
    match = re.fullmatch(r"(\d+):(\d+)", value)
    if value != "unstructured" and (match is None or not 0 < int(match[1]) < int(match[2])):
        raise ValueError("must be 'unstructured' or 'n:m' with 0 < n < m (n zeros in every m inputs)")
    return value


def _holdout(value: Any) -> Any:
    if isinstance(value, dict):
        whole = all(isinstance(number, int) and not isinstance(number, bool) for number in value.values())
        if whole and value.keys() == {"count", "seed"} and value["count"] > 0 and value["seed"] >= 0:
            return value
        raise ValueError("must have a count of at least 1 and a seed of at least 0, and nothing else")
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise ValueError("must be a number k (every k-th document), [first, end] or {count: ..., seed: ...}")
    if (len(numbers) == 1 and numbers[0] >= 2) or (len(numbers) == 2 and 0 <= numbers[0] < numbers[1]):
        return value
    raise ValueError("must be a number k of at least 2 (every k-th document) or [first, end] with first < end")


def _columns(value: list[str]) -> list[str]:
    if not value or len(set(value)) < len(value):
        raise ValueError("must be a list of at least one column, each named once")
    return value


def _digests(value: Any) -> Any:
    single = value if isinstance(value, dict) else {"": value}
    if not all(isinstance(v, str) and re.fullmatch(r"[0-9a-f]{64}", v) for v in single.values()):
        raise ValueError("must be 64 hexadecimal digits, or a mapping from file names to such digests")
    return value


Slug = Annotated[str, AfterValidator(_slug)]
Source = Annotated[str, AfterValidator(_source)]
Sparsity = Annotated[float, AfterValidator(_sparsity)]
Table = Annotated[list[float | str], PlainValidator(_table)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Holdout = Annotated[int | list[int] | dict[str, int], PlainValidator(_holdout)]
Columns = Annotated[list[str], AfterValidator(_columns)]
Digests = Annotated[str | dict[str, str], PlainValidator(_digests)]
Positive = Annotated[int, Field(gt=0, le=1_000_000)]
Device = Annotated[str, AfterValidator(_device)]
