"""A result file as a flat mapping from the place of an entry to its value, so that two files are compared entry by entry."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

RESULT_SUFFIXES = (".json", ".csv")


def flat(value: Any, separator: str = "/", place: str = "") -> dict[str, Any]:
    """`{"a": {"b": [1, 2]}}` → `{"a/b/0": 1, "a/b/1": 2}`; an empty mapping or list is an entry itself."""
    return dict(_walk(value, separator, place))


def _walk(value: Any, separator: str, place: str) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    empty = True
    for name, inner in items:
        empty = False
        yield from _walk(inner, separator, f"{place}{separator}{name}" if place else str(name))
    if empty:
        yield place, value


def entries(path: str, content: bytes) -> dict[str, Any] | None:
    """The entries of a JSON or CSV file (`row/column`, numbers as numbers); None if it is neither or cannot be read as such."""
    try:
        text = content.decode("utf-8")
        if PurePosixPath(path).suffix == ".json":
            return flat(json.loads(text))
        if PurePosixPath(path).suffix == ".csv":
            return {f"{row}/{name}": _cell(cell) for row, cells in enumerate(_rows(text)) for name, cell in cells.items()}
    except (ValueError, csv.Error):  # not UTF-8, not JSON, or a number longer than Python reads
        return None
    return None


def _rows(text: str) -> Iterator[dict[str, str]]:
    """Each row by the names of its columns; cells beyond the header have their number as name."""
    header, *rows = [*csv.reader(io.StringIO(text))] or [[]]
    for row in rows:
        yield {header[number] if number < len(header) else str(number): cell for number, cell in enumerate(row)}


def _cell(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell
