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
from pathlib import Path
from typing import Annotated

import typer

from flows.errors import one_line_errors
from secateur.errors import UserError
from stages._io import offline_and_silent

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)
Study = Annotated[str, typer.Argument(help="a study in use, as `report` in params.yaml names it")]


@app.callback()
def before_any_command() -> None:
    offline_and_silent()


@app.command()
@one_line_errors
def server(
    port: Annotated[int, typer.Option(min=1, max=65535, help="of Prefect")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="of MLflow")] = 5000,
) -> None:
    """Start Prefect's and MLflow's servers in the background, on 127.0.0.1, with the deployments of prefect.yaml."""
    import_module("flows.local").start(port, mlflow_port)


@app.command()
@one_line_errors
def stop() -> None:
    """End the servers that `server` started in this folder."""
    import_module("flows.local").stop()


@app.command()
@one_line_errors
def deploy() -> None:
    """Send the pools and deployments of prefect.yaml to the server of PREFECT_API_URL."""
    import_module("flows.local").deploy()


@app.command()
@one_line_errors
def worker(
    pool: Annotated[str, typer.Option(help="gpu-process runs stages, coordinate the flows that fan out")] = "gpu-process",
    limit: Annotated[int | None, typer.Option(min=1, help="runs at once; left out, one a GPU")] = None,
) -> None:
    """Run what the server has for this machine, in this clone, until it is interrupted."""
    import_module("flows.local").work(pool, limit)


@app.command()
@one_line_errors
def reproduce(
    targets: Annotated[list[str] | None, typer.Argument(help="stages (prune@KEY) or tables (prune); left out, all")] = None,
    study: Annotated[list[str] | None, typer.Option(help="use this study; repeat for more; left out, those in use")] = None,
    force: Annotated[bool, typer.Option("--force", help="run stages again that are up to date")] = False,
    fan_out: Annotated[bool, typer.Option("--fan-out", help="on every worker, through the DVC remote")] = False,
) -> None:
    """What `dvc repro` does, with independent stages in parallel, in this terminal."""
    import_module("flows.local").run(targets or [], study, force, fan_out)


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


@app.command()
@one_line_errors
def register(
    study: Study,
    rule: Annotated[str, typer.Option(help="lowest-perplexity, highest-accuracy or smallest")] = "lowest-perplexity",
    sparsity_at_least: Annotated[float | None, typer.Option(min=0, max=1, help="a fraction, as the study asks for it")] = None,
    perplexity_at_most: Annotated[float | None, typer.Option(help="on the corpus")] = None,
    pattern: Annotated[str, typer.Option(help="unstructured, 2:4, ...")] = "",
    corpus: Annotated[str, typer.Option(help="whose perplexity counts, if there are several")] = "",
    model: Annotated[str, typer.Option(help="whose runs count, if there are several")] = "",
    mean: Annotated[str, typer.Option(help="which mean of accuracies counts")] = "wanda",
) -> None:
    """Make the best run of a study, by a named rule, a version of the registered model secateur-STUDY."""
    wanted = import_module("flows.tracking.rules").Wanted(sparsity_at_least, perplexity_at_most, pattern, corpus, model, mean)
    import_module("flows.register").run(study, rule, wanted)


@app.command()
@one_line_errors
def check(
    target: Annotated[list[str] | None, typer.Option(help="a stage, with all that it needs; repeat for more")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave the clone, and say where it is")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="after a full run: take its state over into the project")] = False,
    table: Annotated[Path | None, typer.Option(help="a file that gets the table of differences as Markdown")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="run nothing: only see that dvc.lock belongs to what lies here")] = False,
) -> None:
    """Make everything again in a clean clone of the last commit, and compare it with the committed dvc.lock."""
    if fast:
        if target or keep or accept or table:
            raise UserError("--fast runs nothing: it goes with no other option")
        import_module("flows.check").fast()
    else:
        import_module("flows.check").run(target or [], keep=keep, bless=accept, report=table)


if __name__ == "__main__":
    app(prog_name="python -m flows")
