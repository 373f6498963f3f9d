"""A study's subjects side by side, as MLflow has them: `python -m flows compare STUDY`.

Sorted by sparsity, then pattern, then the first perplexity: what is pruned equally stands together, best first. Accuracies are
percentages, `acc` as in the report.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.tracking.address import DIGEST, ROLE, STUDY, SUBJECT, TRACK, address, answering, tracked_study
from secateur.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

ALWAYS, SETTINGS = ("method", "pattern"), "params."
LONGEST = 24  # characters of a setting


class Column(NamedTuple):
    """A column of the table: the field of the search that it shows, and how."""

    title: str
    field: str
    shown: Callable[[Any], str]
    number: bool = True


def run(study: str) -> None:
    """Print the table; a study that is not tracked is a `UserError` with the next step."""
    from rich.console import Console

    found = table(study, runs(study))
    console = Console()
    (console if console.is_terminal else Console(width=100_000)).print(found)  # a pipe: as wide as the table is


def runs(study: str) -> "DataFrame":
    """`mlflow.search_runs` of a study's subjects, one row each."""
    import mlflow

    with answering() as client:
        experiment, _ = tracked_study(client, study)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(address())
        try:
            chosen = f"tags.`{ROLE}` = 'subject' and tags.`{STUDY}` = '{study}' and tags.`{DIGEST}` != ''"
            found = mlflow.search_runs([experiment], chosen)
        finally:
            mlflow.set_tracking_uri(before)
    if found.empty:  # whoever tracked it was interrupted
        raise UserError(f"no subject of {study!r} is tracked yet; `{TRACK}` goes on")
    return found


def table(study: str, found: "DataFrame") -> Any:
    """The rows as a table of rich."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    columns = [*_settings(found), *_metrics(found)]
    order = ["metrics.sparsity", *(name for name in ("params.pattern",) if name in found)]
    order += [column.field for column in columns if column.field.startswith("metrics.ppl/")][:1]
    rows = found.sort_values([*order, f"tags.{SUBJECT}"], na_position="first")
    shown = Table(title=f"{study}: {len(rows)} subjects", box=SIMPLE_HEAD, title_justify="left")
    for column in columns:
        shown.add_column(Text(column.title), justify="right" if column.number else "left", overflow="fold")
    for _, row in rows.iterrows():
        shown.add_row(*(Text(_text(row[column.field], column)) for column in columns))
    return shown


def _settings(found: "DataFrame") -> list[Column]:
    """Method and pattern, and every other setting in which the pruned rows differ. Not to be tuned and to have no options is a
    difference, to need no calibration is none."""
    from stages.reporting.labels import DISTINGUISHING, OPTIONS

    pruned: Any = found[found[f"{SETTINGS}method"] != "dense"]
    names = [name for name in (*ALWAYS, *DISTINGUISHING) if f"{SETTINGS}{name}" in found]
    may_lack = (*OPTIONS, "finetune")
    differ = [name for name in names if name in ALWAYS or pruned[f"{SETTINGS}{name}"].nunique(name not in may_lack) > 1]
    return [Column(name, f"{SETTINGS}{name}", _short, False) for name in differ]


def _metrics(found: "DataFrame") -> list[Column]:
    from stages.reporting.labels import perplexity, size

    names = sorted(name for name in found if name.startswith("metrics."))
    texts = [name for name in names if name.startswith("metrics.ppl/") and name.count("/") == 1]
    columns = [Column("sparsity, %", "metrics.achieved", lambda value: f"{100 * value:.2f}")]
    columns += [Column(f"{name.removeprefix('metrics.ppl/')} ppl", name, perplexity) for name in texts]
    tasks = {tuple(name.split("/")[1:3]): name for name in names if name.endswith("/acc")}
    several = len({column for column, _ in tasks}) > 1
    for (column, task), name in tasks.items():
        columns.append(Column(f"{column} {task}" if several else task, name, lambda value: f"{100 * value:.1f}"))
    if "metrics.bytes_packed" in names:
        columns.append(Column("packed", "metrics.bytes_packed", lambda value: size(int(value))))
    return columns


def _text(value: Any, column: Column) -> str:
    from pandas import isna

    return "" if value is None or isna(value) else column.shown(value)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
