"""How fine-tunings went: the loss and the held-out perplexity of every training, and which of them did harm."""

import altair as alt

from stages.reporting import labels
from stages.reporting.plots import PALETTE, Plot, plot
from stages.reporting.result_files import FineTuned
from stages.reporting.results import Study

CURVES = {"loss": "training loss", "held_out_perplexity": "held-out perplexity"}
HEIGHT = 140


def trainings(study: Study) -> dict[str, FineTuned]:
    """Every training once, though several modes may evaluate it, by the key of its row."""
    return {row.tuned.finetune: row.tuned for row in study.rows if row.tuned}


def finetune_plots(study: Study) -> list[Plot]:
    """A line for each training: its loss, and its perplexity on held-out text where there was some."""
    plots = []
    for name, title in CURVES.items():
        values = [
            {"training": key, "step": point.step, "value": getattr(point, name)}
            for key, tuned in trainings(study).items()
            for point in tuned.curve
            if getattr(point, name) is not None
        ]
        if values:
            chart = alt.Chart(alt.InlineData(values=values)).mark_line(point=name != "loss")
            chart = chart.encode(
                x=alt.X("step:Q", title="step"),
                y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
                color=alt.Color("training:N", scale=alt.Scale(range=list(PALETTE)), legend=None),
                tooltip=["training:N", "step:Q", alt.Tooltip("value:Q", title=title, format=".4g")],
            )
            plots.append(plot(study, "finetune", len(plots), title, chart, HEIGHT))
    return plots


def outcomes(study: Study) -> list[tuple[str, str, bool]]:
    """(training, held-out perplexity before → after, whether it got worse) of every training that was watched."""
    found = []
    for key, tuned in trainings(study).items():
        before, after = tuned.perplexity_before, tuned.perplexity_after
        if before is not None and after is not None:
            change = f"{labels.perplexity(before)} \N{RIGHTWARDS ARROW} {labels.perplexity(after)}"
            found.append((key, change, after > before))
    return found
