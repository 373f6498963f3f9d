"""The plots of a study as Vega-Lite specifications, one view each, so that every one fits the width it is given."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt

from stages.reporting import labels
from stages.reporting.results import Study

Spec = dict[str, Any]
# Middling lightness: readable on white and on near-black, and apart for colour-blind eyes.
PALETTE = ("#4a7ebb", "#dd7a2a", "#2f9e77", "#c4568a", "#8470c8", "#ad9220", "#2f9fb3", "#a3694d")
HEIGHT = 260
STEP = 19


@dataclass(frozen=True)
class Plot:
    """A specification with the id of its element and its caption."""

    id: str
    title: str
    spec: Spec


def perplexity_plots(study: Study) -> list[Plot]:
    """Perplexity (log scale) against sparsity, a line per way of pruning, the dense model as a dashed rule."""
    plots = []
    for model in dict.fromkeys(row.model for row in study.rows):
        for column in study.ppl_columns:
            chart = perplexity_chart(study, model, column)
            if chart is None:
                continue
            first = next(row.ppl[column] for row in study.rows if row.model == model and column in row.ppl)
            several = len({row.model for row in study.rows}) > 1
            title = f"{model}, {first.corpus}" if several else first.corpus
            plots.append(plot(study, "perplexity", len(plots), f"{title}, {labels.windows([first])}", chart))
    return plots


def perplexity_chart(study: Study, model: str, column: str) -> Any:
    """The chart of one model and corpus; None if no run of the model was measured on it."""
    rows = [row for row in study.rows if row.model == model and column in row.ppl]
    values = [
        {
            "series": labels.series(row, study.pruned),
            "sparsity": 100 * row.sparsity,
            "achieved": f"{labels.percent(row.achieved, 2)} %",
            "perplexity": row.ppl[column].perplexity,
            "error": labels.perplexity_error(row.ppl[column]),
        }
        for row in rows
        if row.run
    ]
    if not values:
        return None
    dense = [row.ppl[column].perplexity for row in rows if row.run is None]
    everything = [value["perplexity"] for value in values] + dense
    low, high = min(everything) / 1.12, max(everything) * 1.12
    amounts = [value["sparsity"] for value in values]
    x = alt.X(
        "sparsity:Q",
        title="sparsity, %",
        scale=alt.Scale(domain=[min(amounts) - 5, max(amounts) + 5], nice=False),
        axis=alt.Axis(tickCount=6),
    )
    y = alt.Y(
        "perplexity:Q",
        title="perplexity (log scale)",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=log_ticks(low, high), format="~r"),
    )
    lines = {labels.series(row, study.pruned): row.method for row in study.pruned}
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=x,
        y=y,
        color=alt.Color("series:N", scale=_colours(study, lines), legend=legend()),
        shape=alt.Shape("series:N", scale=alt.Scale(domain=list(lines)), legend=legend()),
        tooltip=["series:N", "sparsity:Q", "achieved:N", alt.Tooltip("perplexity:Q", format=".2f"), "error:N"],
    )
    layers: list[Any] = [base.mark_line(strokeWidth=1.5), base.mark_point(filled=True, size=75, opacity=1)]
    if dense:
        level = {"perplexity": dense[0], "label": f"dense {labels.perplexity(dense[0])}"}
        line = alt.Chart(alt.InlineData(values=[level]))
        rule = line.mark_rule(strokeDash=[5, 4], color="currentColor", opacity=0.6).encode(y=y)
        text = line.mark_text(align="right", dy=-7, dx=-4, color="currentColor", opacity=0.75)
        layers += [rule, text.encode(y=y, x=alt.value("width"), text="label:N")]
    return alt.layer(*layers)


def zeroshot_plots(study: Study) -> list[Plot]:
    """One dot plot per task: accuracy of each subject with one standard error, dense as a vertical rule."""
    names = labels.labels(study.rows)
    methods = {row.method: row.method for row in study.rows}
    plots: list[Plot] = []
    for column in study.zeroshot_columns:
        rows = [row for row in study.rows if column in row.zeroshot]
        for task in dict.fromkeys(task for row in rows for task in row.zeroshot[column].tasks):
            values, metrics = [], set()
            for row in rows:
                score = row.zeroshot[column].tasks.get(task)
                if score is None:
                    continue
                metric, value, error = score.preferred
                metrics.add(metric)
                values.append(
                    {
                        "subject": names[row.subject],
                        "method": row.method,
                        "value": 100 * value,
                        "low": 100 * (value - (error or 0)),
                        "high": 100 * (value + (error or 0)),
                        "accuracy": f"{labels.accuracy(value, error)} %",
                        "samples": score.samples,
                    }
                )
            title = f"{' / '.join(sorted(metrics))}, %"
            y = _subjects(value["subject"] for value in values)
            colour = alt.Color("method:N", scale=_colours(study, methods), legend=None)
            x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=6), axis=alt.Axis(tickCount=6))
            base = alt.Chart(alt.InlineData(values=values)).encode(
                y=y, color=colour, tooltip=["subject:N", "accuracy:N", "samples:Q"]
            )
            bars = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", title=title), x2="high:Q")
            dots = base.mark_point(filled=True, size=60, opacity=1).encode(x=x)
            dense = [value for value in values if value["method"] == "dense"]
            rule = alt.Chart(alt.InlineData(values=dense)).encode(x=x)
            rule = rule.mark_rule(strokeDash=[5, 4], color="currentColor", opacity=0.5)
            chart = alt.layer(rule, bars, dots) if dense else alt.layer(bars, dots)
            plots.append(plot(study, "zeroshot", len(plots), task, chart, STEP * len(values)))
    return plots


def size_plots(study: Study) -> list[Plot]:
    """Bytes of the pruned layers per subject: dense, or packed as masks and survivors, stored by the run or not."""
    names, order = labels.labels(study.rows), ["dense", "masks", "survivors, stored", "survivors, in the dense checkpoint"]
    values = []
    for row in [row for row in study.rows if not row.tuned]:
        parts = {"dense": row.bytes_dense}
        if row.run:
            where = order[2] if row.run.bytes.values else order[3]
            parts = {"masks": row.run.bytes.masks, where: row.run.bytes.packed - row.run.bytes.masks}
        for part, count in parts.items():
            if count:
                value = {"subject": names[row.subject], "part": part, "rank": order.index(part)}
                values.append(value | {"megabytes": count / 1e6, "size": labels.size(count)})
    if not study.runs or not values:
        return []
    scale = alt.Scale(domain=order, range=["#9aa3ad", PALETTE[0], PALETTE[1], "#e9c19a"])
    chart = alt.Chart(alt.InlineData(values=values)).mark_bar(height={"band": 0.7})
    chart = chart.encode(
        x=alt.X("megabytes:Q", title="megabytes", stack="zero", axis=alt.Axis(tickCount=6)),
        y=_subjects(value["subject"] for value in values),
        color=alt.Color("part:N", scale=scale, legend=legend()),
        order="rank:Q",
        tooltip=["subject:N", "part:N", "size:N"],
    )
    return [plot(study, "size", 0, "", chart, STEP * len({value["subject"] for value in values}))]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values for a log axis: the coarsest set that puts at least four inside [low, high]."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    finer = [tuple(range(count, 10 * count)) for count in (1, 2, 4, 10, 20, 100)]
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), *finer):
        unit = mantissas[0]
        ticks = [round(m / unit * 10.0**decade, 6) for decade in decades for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    return ticks


def _subjects(names: Any) -> alt.Y:
    return alt.Y("subject:N", title=None, sort=list(dict.fromkeys(names)), axis=alt.Axis(ticks=False, labelLimit=190))


def _colours(study: Study, names: Mapping[str, str]) -> alt.Scale:
    """Name -> method becomes name -> colour: a method has one colour in all plots of a study."""
    methods = list(dict.fromkeys(row.method for row in study.runs))
    colours = {method: PALETTE[i % len(PALETTE)] for i, method in enumerate(methods)}
    return alt.Scale(domain=list(names), range=[colours.get(method, "currentColor") for method in names.values()])


def block_axis(blocks: Iterable[int]) -> alt.X:
    """The blocks of a model side by side; where there are many, some of their numbers."""
    last = max(blocks)
    numbers = list(range(0, last + 1, 1 if last < 12 else 5 if last < 60 else 10))
    return alt.X("block:O", title="block", axis=alt.Axis(values=numbers, labelAngle=0, ticks=False))


def legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", columns=2, labelLimit=230, symbolOpacity=1)


def plot(study: Study, kind: str, number: int, title: str, chart: Any, height: int = HEIGHT) -> Plot:
    spec = chart.properties(width="container", height=height).to_dict()
    return Plot(f"plot-{study.name}-{kind}-{number}", title, spec)
