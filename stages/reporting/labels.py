"""How numbers, sizes and subjects are written: one place, so that page, CSV, README and plots agree."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.reporting.result_files import Perplexity
from stages.reporting.results import Row

NOTHING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
# What may tell two runs of one method and sparsity apart, in the order in which a label lists it.
OPTIONS = ("options", "refinement_options", "update_options")
DISTINGUISHING = ("model", "propagation", "calibration", "allocation", "refinement", "update", "finetune", "count", *OPTIONS)


def perplexity(value: float) -> str:
    """About four significant digits: 18.07, 346.9, 2,140, 1.3e+06."""
    if value >= 1e5:
        return f"{value:.1e}"
    return f"{value:,.2f}" if value < 100 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def perplexity_error(result: Perplexity) -> str:
    """How far a perplexity is from that of a longer text, to first order: ± 0.36."""
    error = result.nll_standard_error
    return "a single window has no standard error" if error is None else f"± {perplexity(result.perplexity * error)}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage without the sign, which stands in the header."""
    return f"{100 * fraction:.{digits}f}"


def accuracy(value: float, error: float | None, digits: int = 1) -> str:
    """Percent with its standard error, if there is one: 58.0 ±9.9."""
    return percent(value, digits) + ("" if error is None else f" ±{percent(error, digits)}")


def share(fraction: float) -> str:
    """A nominal sparsity as it was asked for: 50 %, 33.3 %."""
    return f"{100 * fraction:.4g} %"


def size(count: int) -> str:
    """Bytes in decimal units, three significant digits or so."""
    power = min(4, (len(str(count)) - 1) // 3)
    value, unit = count / 1000**power, ("B", "kB", "MB", "GB", "TB")[power]
    return f"{value:.0f} {unit}" if power == 0 or value >= 100 else f"{value:.1f} {unit}"


def setting(value: Any) -> str:
    """A setting as text; an empty one is an empty string."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={setting(item)}" for name, item in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def shown(row: Row, name: str) -> str:
    """A setting as a table shows it: a list by its length, and no propagation for a run that looks at no data."""
    value = row.setting(name)
    if isinstance(value, list):
        return f"{len(value)} values"
    return "" if name == "propagation" and row.setting("calibration") is None else setting(value)


def varying(rows: Sequence[Row]) -> list[str]:
    """The names in DISTINGUISHING in which the pruned rows differ; `model` counts dense rows too.

    A calibration or propagation that only some rows have is not a difference: those without need none.
    """
    runs = [row for row in rows if row.run]
    found = {name: {setting(row.setting(name)) for row in runs if shown(row, name)} for name in DISTINGUISHING[1:]}
    for name in (*OPTIONS, "finetune"):  # none at all is a value like any other
        found[name] |= {shown(row, name) for row in runs}
    differ = [name for name, values in found.items() if len(values) > 1]
    return (["model"] if len({row.model for row in rows}) > 1 else []) + differ


def labels(rows: Sequence[Row]) -> dict[str, str]:
    """Subject -> a short name that is unique among `rows`: method, sparsity or n:m, and whatever differs."""
    named = {row.subject: " · ".join(_parts(row, varying(rows), with_sparsity=True)) for row in rows}
    count = Counter(named.values())
    return {subject: label if count[label] == 1 else subject for subject, label in named.items()}


def series(row: Row, rows: Sequence[Row]) -> str:
    """The line of a plot that a row belongs to: its label without the amount of sparsity."""
    return " · ".join(_parts(row, varying(rows), with_sparsity=False))


def _parts(row: Row, names: Sequence[str], with_sparsity: bool) -> list[str]:
    head = row.method
    if row.run:
        pattern = "" if row.pattern == "unstructured" else f" {row.pattern}"
        amount = f" {share(row.sparsity)}" if with_sparsity and (not pattern or ":" not in pattern) else ""
        head = f"{head}{pattern}{amount}"
    values = {name: row.model if name == "model" else shown(row, name) for name in names}
    return [head, *(value for value in values.values() if value)]


def windows(results: Sequence[Perplexity]) -> str:
    """How much of a corpus was read: `all 118 windows`, `24 of 118 windows`; a range where tokenizers differ."""
    used, there = ({result.windows for result in results}, {result.windows_available for result in results})
    if used == there and all(result.windows == result.windows_available for result in results):
        return f"all {span(used)} windows"
    return f"{span(used)} of {span(there)} windows"


def span(values: set[int]) -> str:
    """`7`, or `7-9` for several values."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def items(limit: int | None) -> str:
    """How many items of each task were asked."""
    return "all items" if limit is None else f"first {limit:,} items of each task"
