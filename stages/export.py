"""A plain checkpoint of a run: `python -m stages export RUN --to DIR`."""

from pathlib import Path

import typer

from pipelines.schema import RunRow, parse
from secateur.artifacts import check_folder
from secateur.errors import UserError
from stages._io import ARTIFACTS, read_row


def run(key: str, to: Path) -> None:
    """Assemble the run and write it to `to`."""
    row = parse(RunRow, read_row("runs", key), f"params.yaml: runs.{key}")
    pruned = ARTIFACTS / "pruned" / key
    if wrong := check_folder(pruned):
        raise UserError(f"{pruned}: {', '.join(wrong)} does not match its checksum; run `dvc repro prune@{key}` again")

    from secateur.export import export

    export(ARTIFACTS / "models" / row.model, pruned, to)
    typer.echo(f"{to}: load it with AutoModelForCausalLM.from_pretrained({str(to)!r})")
