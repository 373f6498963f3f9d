"""Choose studies, look at what they mean, check them.

\b
python -m pipelines use smoke            # params.yaml holds the tables of pipelines/smoke.yaml
    python -m pipelines use smoke my.yaml    # of both; a study is a name below pipelines/, or a path
    python -m pipelines show                 # rows, their stages, disk and compute
    python -m pipelines check                # all studies valid, params.yaml up to date
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from secateur.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)

Studies = Annotated[
    list[str], typer.Argument(metavar="STUDY...", help="Names of studies below pipelines/, or paths of YAML files.")
]
SelectedByDefault = Annotated[list[str] | None, typer.Argument(metavar="[STUDY...]", help="Left out: those in use.")]


@contextmanager
def _errors(code: int = 2) -> Iterator[None]:
    """One line on stderr per problem, then `code`."""
    try:
        yield
    except UserError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(code) from None


@app.command()
def use(studies: Studies) -> None:
    """Write params.yaml for these studies, and remove results that no longer belong to a row."""
    from pipelines import select

    with _errors():
        tables, stale = select.use(studies)
    counts = {
        "downloads": tables.download,
        "calibrations": tables.stats,
        "runs": tables.runs,
        "fine-tunings": tables.finetunes,
        "perplexities": tables.ppl,
        "zero-shot evaluations": tables.zeroshot,
    }
    summary = ", ".join(f"{len(rows)} {name}" for name, rows in counts.items())
    typer.echo(f"{select.PARAMS}: {', '.join(tables.studies)}: {summary}")
    for model in select.unknown_models(tables):
        typer.echo(f"note: the sizes of {model} are not known yet: the stages check widths and context")
    if stale:
        typer.echo(f"removed {len(stale)} result files that no row stands for any more")
    typer.echo("next: dvc repro")


@app.command()
def show(studies: SelectedByDefault = None) -> None:
    """Print every row, its stage, estimates of disk and compute, and the published value of the same measurement."""
    from pipelines import select
    from pipelines.estimate import RATE, estimate, human
    from pipelines.expected import expected
    from secateur.evaluation.zeroshot import MEANS

    with _errors():
        references = studies or select.selected()
        tables = select.tables_of(references)
        costs = list(estimate(tables, select.configs_of(references)))
    published = expected(tables, MEANS)
    names = [f"{cost.stage}@{cost.key}" if cost.key else cost.stage for cost in costs]
    width = max(map(len, names))
    head = f"{'stage':{width}}  {'disk':>10}  {'compute':>12}"
    typer.echo(f"{head}  published" if published else head)
    for name, cost in zip(names, costs, strict=True):
        line = f"{name:{width}}  {human(cost.bytes, 'B'):>10}  {human(cost.operations, 'FLOP'):>12}"
        typer.echo(f"{line}  {published.get(name, '')}".rstrip())
    at_least = "at least " if any(None in (cost.bytes, cost.operations) for cost in costs) else ""
    disk, operations = sum(cost.bytes or 0 for cost in costs), sum(cost.operations or 0 for cost in costs)
    minutes = f"{operations / RATE / 60:.1f} minutes at {human(RATE, 'FLOP')}/s"
    typer.echo(f"{len(costs)} stages: {at_least}{human(disk, 'B')} of disk and {human(operations, 'FLOP')}, {minutes}")
    typer.echo("Estimates from the models' sizes; ? is not known before the data is there, - is next to nothing.")


@app.command()
def check() -> None:
    """Fail unless every study is valid and params.yaml is what its studies expand to."""
    from pipelines import select
    from pipelines.study import study_files

    with _errors(1):
        names = list(study_files())
        problems: list[str] = []
        for name in names:
            try:
                select.tables_of([name])
            except UserError as error:
                problems += str(error).splitlines()
        if not problems and not select.is_up_to_date():
            problems = [f"{select.PARAMS} is out of date; run `python -m pipelines use {' '.join(select.selected())}`"]
        if problems:
            raise UserError.of(dict.fromkeys(problems))
    typer.echo(f"{len(names)} studies are valid, {select.PARAMS} is up to date")


if __name__ == "__main__":
    app()
