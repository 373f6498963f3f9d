"""Is a run what it says it is? `python -m stages verify SUBJECT` recomputes everything from the files; exit code 1 if not.

Of a fine-tuned run also: does the fine-tuning belong to the run, and is every weight zero that the run pruned?
"""

from collections.abc import Iterator

import typer

from secateur.artifacts import read_json
from secateur.errors import UserError
from stages._allocation import allocation_of
from stages._finished import Finished, finished
from stages._io import RESULTS


def run(subject: str) -> None:
    """Check the subject's checksums, its pattern, its recorded sparsity and what its fine-tuning left of its zeros."""
    found = finished(subject)
    problems = found.damage() or [*_of_run(found), *_of_finetuning(found)]
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo("checksums, pattern and sparsity are right" + ("; so is the fine-tuning" if found.tuned else ""))


def _of_run(found: Finished) -> Iterator[str]:
    from secateur.sparsity import check_pattern, measure

    pattern, table = found.row.pattern, allocation_of(found.row)
    mixed = pattern != "unstructured" and not isinstance(table, str)
    yield from check_pattern(found.pruned, [str(entry) for entry in table] if mixed else pattern)
    counted, recorded = measure(found.pruned, found.model), read_json(RESULTS / "sparsity" / f"{found.run}.json")
    for name in ("pruned", "total"):
        if counted[name] != recorded[name]:
            yield f"{name}: {recorded[name]} recorded, {counted[name]} found"
    share = f"{counted['pruned']} of {counted['total']} weights are zero: {counted['achieved']:.4%} ({pattern})"
    typer.echo(f"{found.run}: {share}")


def _of_finetuning(found: Finished) -> Iterator[str]:
    """Survivors that happen to be zero are no problem; a zero of the run that was filled is one, unless the mode says so."""
    if found.adapter is None or found.mode is None:
        return
    from secateur.finetune.load import attach, check
    from secateur.finetune.origin import Origin
    from secateur.models.linears import linear_at, weight_of
    from secateur.models.load import assemble

    origin = Origin(found.model, found.pruned)
    try:
        check(found.adapter, found.mode, origin)
    except UserError as error:
        yield str(error)
        return
    if found.mode == "unmerged":
        typer.echo(f"{found.adapter}: adapters beside the run's weights (unmerged): what they multiply to is dense")
        return
    whole = attach(assemble(found.model, found.pruned, device="cpu"), found.adapter, found.mode, origin)
    masks = origin.masks(origin.adapter.linears)
    filled = {name: int(weight_of(linear_at(whole, name))[mask].count_nonzero()) for name, mask in masks.items()}
    typer.echo(f"{found.adapter}: merged ({found.mode}), {sum(filled.values())} of the run's zeros are filled")
    yield from (f"{name}: {count} weights are not zero that the run pruned" for name, count in filled.items() if count)
