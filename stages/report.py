"""Join all results of the selected studies into one page and the tables behind it: `python -m stages report`.

Reads the table `report` of params.yaml (and `download` and `ppl`, for what the published values are compared by) and
the files under `results/`; writes `results/report.html`, `results/report.csv` and `results/plots/*.csv`. Needs
neither a model nor the network; the same results give the same bytes.
"""

from collections.abc import Mapping
from typing import Any

from stages._io import RESULTS, read_params, read_section


def run() -> None:
    """Write the report of every study in params.yaml."""
    from secateur.artifacts import write_text
    from stages.reporting import export
    from stages.reporting.page import render

    params = read_params() | {name: read_section(name) for name in ("download", "report", "ppl")}
    studies = read_studies(params)
    write_text(RESULTS / "report.html", render(studies, params))
    write_text(RESULTS / "report.csv", export.report_csv(studies))
    write_text(RESULTS / "plots" / "perplexity.csv", export.perplexity_csv(studies))
    write_text(RESULTS / "plots" / "layers.csv", export.layers_csv(studies))


def read_studies(params: Mapping[str, Any]) -> list[Any]:
    """Every study of the report's table, with its results."""
    from stages.reporting.results import read_study

    models = [row_key.removeprefix("model-") for row_key, row in params["download"].items() if row["kind"] == "model"]
    return [read_study(name, table, models, RESULTS) for name, table in params["report"]["studies"].items()]
