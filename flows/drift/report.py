"""The table of differences, for people: coloured in a terminal, Markdown everywhere else."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence

from flows.drift.difference import Difference
from flows.drift.state import State

COLUMNS = ("stage", "what", "before", "after", "verdict", "note")


def table(differences: Sequence[Difference]) -> str:
    """All differences as a Markdown table, drift first; nothing if there is none."""
    if not differences:
        return ""
    rows = [tuple(text.replace("|", "\\|").replace("\n", " ") for text in row) for row in _rows(differences)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows)) + "\n"


def show(differences: Sequence[Difference]) -> None:
    """Print the table: a drawn one if this is a terminal (and `rich` is installed), else Markdown."""
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        print(table(differences), end="")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*COLUMNS)
    for row, difference in zip(_rows(differences), _ordered(differences), strict=True):
        drawn.add_row(*(Text(cell, style="red" if difference.drift else "green", overflow="fold") for cell in row))
    if differences:
        Console().print(drawn)


def _ordered(differences: Sequence[Difference]) -> list[Difference]:
    return sorted(differences, key=lambda difference: not difference.drift)


def _rows(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    return [(row.stage, row.what, row.before, row.after, str(row.verdict), row.note) for row in _ordered(differences)]


def counted(state: State) -> str:
    """How much there is to compare."""
    return f"{_count(len(state.stages), 'stage')}, {_count(len(state.outputs), 'output')}"


def summary(compared: State, differences: Sequence[Difference]) -> str:
    """The last line: how much was compared, and what came of it."""
    drift = [difference for difference in differences if difference.drift]
    if drift:
        where = len({difference.stage for difference in drift})
        return f"{counted(compared)}: drift: {_count(len(drift), 'difference')} in {_count(where, 'stage')}"
    if not differences:
        return f"{counted(compared)}: all equal, bit for bit"
    near = _count(len(differences), "difference")
    return f"{counted(compared)}: no drift; {near} within the tolerances for another machine"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def machines(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """In one line, in what two fingerprints differ."""
    names = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name, 'unknown')} → {after.get(name, 'unknown')}" for name in names)
