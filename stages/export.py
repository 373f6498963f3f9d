"""A plain checkpoint of a run, fine-tuned or not: `python -m stages export SUBJECT --to DIR`."""

from pathlib import Path

import typer

from secateur.errors import UserError
from stages._finished import finished


def run(subject: str, to: Path) -> None:
    """Assemble the subject, merged if it was fine-tuned, and write it to `to`."""
    found = finished(subject)
    for problem in found.damage():
        raise UserError(problem)

    from secateur.export import export

    export(found.model, found.pruned, to, found.adapter, found.mode)
    typer.echo(f"{to}: load it with AutoModelForCausalLM.from_pretrained({str(to)!r})")
