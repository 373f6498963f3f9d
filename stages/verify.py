"""Is a run what it says it is? `python -m stages verify RUN` recomputes everything from the files; exit code 1 if not."""

import typer

from pipelines.schema import RunRow, parse
from secateur.artifacts import check_folder, read_json
from stages._allocation import allocation_of
from stages._io import ARTIFACTS, RESULTS, read_row


def run(key: str) -> None:
    """Check the run's checksums, its pattern, and its recorded sparsity."""
    row = parse(RunRow, read_row("runs", key), f"params.yaml: runs.{key}")
    folder = ARTIFACTS / "pruned" / key
    problems = [f"{name}: does not match its checksum" for name in check_folder(folder)]
    if not problems:
        from secateur.sparsity import check_pattern, measure

        table = allocation_of(row)
        mixed = row.pattern != "unstructured" and not isinstance(table, str)
        problems += check_pattern(folder, [str(entry) for entry in table] if mixed else row.pattern)
        found, recorded = measure(folder, ARTIFACTS / "models" / row.model), read_json(RESULTS / "sparsity" / f"{key}.json")
        problems += [
            f"{name}: {recorded[name]} recorded, {found[name]} found"
            for name in ("pruned", "total")
            if found[name] != recorded[name]
        ]
        typer.echo(f"{key}: {found['pruned']} of {found['total']} weights are zero: {found['achieved']:.4%} ({row.pattern})")
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo("checksums, pattern and sparsity are right")
