"""How the zeros are spread: over the layers of every run, and over the blocks by every allocation."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from stages.reporting import labels
from stages.reporting.plots import PALETTE, Plot, Spec, block_axis, legend, plot
from stages.reporting.results import Study

# Sparsity from low to high. The page draws the same ramp as its legend.
RAMP = ("#dcebe9", "#8fc3bf", "#4593a0", "#2a6282", "#1d3557")
# More maps than this would be a wall: one map and a menu take their place.
SMALL_MULTIPLES = 12


def allocation_plots(study: Study) -> list[Plot]:
    """Sparsity of every block under each allocation that is not uniform, a chart for each model and target."""
    targets: dict[tuple[str, str, float], dict[str, Any]] = {}
    for row in study.runs:
        if row.run and row.setting("allocation") != "uniform":
            by_name = targets.setdefault((row.model, row.pattern, row.sparsity), {})
            by_name.setdefault(labels.shown(row, "allocation"), row.run.blocks)
    plots = []
    for (model, pattern, sparsity), found in targets.items():
        values = [
            {"allocation": name, "block": int(number), "sparsity": round(100 * block.sparsity, 4)}
            for name, blocks in found.items()
            for number, block in blocks.items()
        ]
        chart = alt.Chart(alt.InlineData(values=values)).mark_bar()
        chart = chart.encode(
            x=alt.X("block:O", title="block", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False)),
            xOffset="allocation:N",
            y=alt.Y("sparsity:Q", title="sparsity, %"),
            color=alt.Color("allocation:N", scale=alt.Scale(domain=list(found), range=list(PALETTE)), legend=legend()),
            tooltip=["allocation:N", "block:O", "sparsity:Q"],
        )
        target = labels.share(sparsity) if pattern == "unstructured" else pattern
        plots.append(plot(study, "allocation", len(plots), f"{model}, {target}", chart))
    return plots


def layer_plots(study: Study) -> list[Plot]:
    """Sparsity of every layer of every run: small maps, or one with a menu where there are many."""
    names = labels.labels(study.rows)
    values = {row.subject: list(_layers(row.run.blocks, names[row.subject])) for row in study.runs if row.run}
    if len(values) <= SMALL_MULTIPLES:
        items = enumerate(values.items())
        return [plot(study, "layers", i, names[run], _map(study, cells), _rows(cells)) for i, (run, cells) in items]
    runs = [names[run] for run in values]
    menu = alt.param(name="run", value=runs[0], bind=alt.binding_select(options=runs, name="run "))
    cells = [cell for of_run in values.values() for cell in of_run]
    chart = _map(study, cells).add_params(menu).transform_filter("datum.run == run")
    return [plot(study, "layers", 0, "", chart, _rows(cells))]


def layer_range(study: Study) -> tuple[float, float]:
    """The ends of the colour ramp: the study's lowest and highest layer sparsity with some room, in [0, 1]."""
    blocks = [block for row in study.runs if row.run for block in row.run.blocks.values()]
    found = [layer.sparsity for block in blocks for layer in block.layers.values()]
    return max(0.0, math.floor(20 * min(found) - 0.5) / 20), min(1.0, math.ceil(20 * max(found) + 0.5) / 20)


def _layers(blocks: Any, label: str) -> Iterator[Spec]:
    for number, block in blocks.items():
        for name, layer in block.layers.items():
            yield {"run": label, "block": int(number), "layer": name, "sparsity": round(100 * layer.sparsity, 4)}


def _rows(cells: Sequence[Spec]) -> int:
    return 15 * len({cell["layer"] for cell in cells})


def _map(study: Study, values: Sequence[Spec]) -> alt.Chart:
    low, high = layer_range(study)
    scale = alt.Scale(domain=[100 * low, 100 * high], range=list(RAMP), clamp=True)
    return (
        alt.Chart(alt.InlineData(values=list(values)))
        .mark_rect()
        .encode(
            x=block_axis(value["block"] for value in values),
            y=alt.Y("layer:N", title=None, axis=alt.Axis(ticks=False, labelLimit=130)),
            color=alt.Color("sparsity:Q", scale=scale, legend=None),
            tooltip=["block:O", "layer:N", alt.Tooltip("sparsity:Q", title="sparsity, %")],
        )
    )
