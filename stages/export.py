"""A plain checkpoint of a run, fine-tuned or not: `python -m stages export SUBJECT --to DIR`."""

from pathlib import Path

import typer

from secateur.errors import UserError
from stages._finished import finished


def run(subject: str, to: Path, dtype: str | None = None, check: bool = True, force: bool = False) -> None:
    """Write the subject to `to`, merged if it was fine-tuned, as `dtype` (None: as it is stored). `check` loads the result once
    with stock code; `force` replaces an earlier export there."""
    found = finished(subject)
    for problem in found.damage():
        raise UserError(problem)

    from secateur.export import export

    export(found.model, found.pruned, to, found.adapter, found.mode, dtype=dtype, check=check, overwrite=force, progress=True)
    typer.echo(f"{to}: load it with AutoModelForCausalLM.from_pretrained({str(to)!r})")
