"""Run the graph on workers, see its results, check that they can be had again.

\b
python -m flows server                  # Prefect and MLflow on this machine, for this machine only
    python -m flows worker                  # a worker for it: one job a GPU
    python -m flows reproduce               # the graph in parallel, here and now
    python -m flows track                   # MLflow shows what dvc.lock and results/ hold
    python -m flows compare smoke           # a study as a table
    python -m flows register smoke          # its best run becomes a registered model
    python -m flows check                   # everything again in a clean clone, against the committed dvc.lock
"""

from importlib import import_module
from typing import Annotated

import typer

from stages._io import offline_and_silent, one_line_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)
Study = Annotated[str, typer.Argument(help="a study in use, as `report` in params.yaml names it")]


@app.callback()
def before_any_command() -> None:
    offline_and_silent()


@app.command()
@one_line_errors
def track() -> None:
    """Make MLflow equal to dvc.lock and results/: one run per subject, below its study."""
    import_module("flows.track").run()


@app.command()
@one_line_errors
def compare(study: Study) -> None:
    """Print the subjects of a study side by side, as MLflow has them."""
    import_module("flows.compare").run(study)


if __name__ == "__main__":
    app(prog_name="python -m flows")
