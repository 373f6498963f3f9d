"""A study as a Markdown table and a standalone SVG, for the README."""

from collections.abc import Sequence

import vl_convert

from stages.reporting import labels, plots, tables
from stages.reporting.results import Study
from stages.reporting.tables import Cell, Column

WIDTH = 560
# The one font that vl-convert brings along: text is measured with it, so the drawing is the same on every machine.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


def summary(study: Study) -> str:
    """The main numbers of a study as Markdown, best of equal sparsity in bold, and a line on how they were measured."""
    columns = tables.setting_columns(study)
    columns = [column for column in columns if column.title != "target"]
    columns += [*tables.perplexity_columns(study), *tables.zeroshot_columns(study), *tables.size_columns(study)]
    head = [_escape(_title(column)) for column in columns]
    rule = ["---:" if column.number else "---" for column in columns]
    lines = [head, rule, *([_text(column.cells[i], column) for column in columns] for i in range(len(study.rows)))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{_escape(_how(study))}\n"


def perplexity_svg(study: Study) -> str | None:
    """The plot of the study's first corpus on a white ground; None if no run has a perplexity."""
    for model in dict.fromkeys(row.model for row in study.rows):
        for column in study.ppl_columns:
            chart = plots.perplexity_chart(study, model, column)
            if chart is not None:
                chart = chart.properties(width=WIDTH, height=plots.HEIGHT, background="white", padding=12)
                chart = chart.configure(font=FONT).configure_view(stroke=None)
                chart = chart.configure_axis(titleFontWeight="normal", gridColor="#e6e9ec")
                return vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=".".join(_version())) + "\n"
    return None


def _version() -> Sequence[str]:
    """The Vega-Lite version that altair writes, as vl-convert names it: `6.4`."""
    import altair

    return altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2]


def _title(column: Column) -> str:
    if column.title == "achieved":
        return "sparsity, %"
    return f"{column.title} ppl" if column.group == "Perplexity" else column.title


def _text(cell: Cell, column: Column) -> str:
    main = f"**{_escape(cell.main)}**" if cell.best else _escape(cell.main)
    ratio = cell.sub if cell.sub.startswith(labels.TIMES) and column.number else ""
    return f"{main} ({ratio})" if ratio else main


def _how(study: Study) -> str:
    parts = []
    for name in study.ppl_columns:
        results = [row.ppl[name] for row in study.rows if name in row.ppl]
        parts.append(f"perplexity on {results[0].corpus}: {labels.windows(results)} of {results[0].length:,} tokens")
    for name in study.zeroshot_columns:
        limits = {row.zeroshot[name].limit for row in study.rows if name in row.zeroshot}
        parts.append(f"zero-shot: acc in % ± one standard error, {labels.items(limits.pop())}")
    parts.append(f"{labels.TIMES} is the ratio to dense; bold is the best of the pruned rows of equal sparsity and pattern")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _escape(text: str) -> str:
    """Text that means itself inside a Markdown table."""
    for character in "\\|*_`<[":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
