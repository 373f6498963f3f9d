"""What a method decided block by block: which of q, k and v stay without an update, and what that does to the attention."""

from collections.abc import Mapping
from itertools import count
from typing import Any

import altair as alt

from stages.reporting import labels
from stages.reporting.plots import PALETTE, Plot, block_axis, legend, plot
from stages.reporting.result_files import Choice, KlChoice
from stages.reporting.results import Study

LETTERS = "qkv"
# What is so without a choice is pale, what the choice made of it has the first colour: in the map and in the lines.
FORMS = {"updated": "#dcebe9", "not updated": PALETTE[0]}
LINES = {"before": "#9aa3ad", "after": PALETTE[0]}
MEASURES = {"KL": "attention KL", "L_rel": "relative error"}
HEIGHT = 120


def choice_plots(study: Study) -> list[list[Plot]]:
    """The plots of every run that chose: a map, and where it chose by attention, KL and error before and after."""
    names, number, found = labels.labels(study.rows), count(), []
    for row in study.runs:
        if row.run is None or not row.run.choices:
            continue
        blocks = {int(name.removeprefix("block_")): choice for name, choice in row.run.choices.items()}
        plots = [plot(study, "choices", next(number), names[row.subject], _map(blocks), HEIGHT)]
        measured = {block: choice for block, choice in blocks.items() if isinstance(choice, KlChoice)}
        for measure, title in MEASURES.items() if measured else ():
            plots.append(plot(study, "choices", next(number), title, _change(measured, measure), HEIGHT))
        found.append(plots)
    return found


def _map(blocks: Mapping[int, Choice]) -> alt.Chart:
    """A cell for each block and letter; the tooltip has the share that the letter was judged by, if it was by that."""
    values, shares = [], []
    for block, choice in blocks.items():
        still = "" if choice.no_update == "none" else choice.no_update
        for letter in LETTERS:
            value = {"block": block, "letter": letter, "form": "not updated" if letter in still else "updated"}
            if not isinstance(choice, KlChoice):
                value["share"] = round(100 * getattr(choice.share, letter), 4)
                shares = [alt.Tooltip("share:Q", title=f"{choice.metric}s above their mean, %")]
            values.append(value)
    chart = alt.Chart(alt.InlineData(values=values)).mark_rect()
    return chart.encode(
        x=block_axis(blocks),
        y=alt.Y("letter:N", title=None, sort=list(LETTERS), axis=alt.Axis(ticks=False)),
        color=alt.Color("form:N", scale=_scale(FORMS), legend=legend()),
        tooltip=["block:O", "letter:N", alt.Tooltip("form:N", title="weights"), *shares],
    )


def _change(blocks: Mapping[int, KlChoice], measure: str) -> Any:
    """One number of every block with all three updated, and, drawn over it, as chosen."""
    values = [
        {"block": block, "weights": name, "value": getattr(getattr(choice, name), measure)}
        for name in LINES
        for block, choice in blocks.items()
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=block_axis(blocks),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=4)),
        color=alt.Color("weights:N", scale=_scale(LINES), legend=legend()),
        tooltip=["block:O", "weights:N", alt.Tooltip("value:Q", title=MEASURES[measure], format=".4g")],
    )
    return alt.layer(base.mark_line(strokeWidth=1.5), base.mark_point(filled=True, size=14, opacity=1))


def _scale(colours: Mapping[str, str]) -> alt.Scale:
    return alt.Scale(domain=list(colours), range=list(colours.values()))
