"""Prune one model: `python -m stages prune KEY` (KEY: a row of `runs`).

Finished blocks wait in artifacts/unfinished until the last one is done; a run that was killed continues after them and ends
with the same bytes. MLFLOW_TRACKING_URI names who watches it block by block.
"""

from pathlib import Path
from typing import Any

from pipelines.schema import PRUNER, Compute, RunRow, parse
from secateur.artifacts import identity, read_json, sha256, write_json
from stages._allocation import allocation_of
from stages._io import ARTIFACTS, RESULTS, UNFINISHED, read_row, read_section
from stages._live import live


def run(key: str, force: bool = False) -> None:
    """Write artifacts/pruned/KEY and results/sparsity/KEY.json. With `force` the first may be there already."""
    row = parse(RunRow, read_row("runs", key), f"params.yaml: runs.{key}")
    compute = parse(Compute, read_section("compute"), "params.yaml: compute")

    from secateur import Recipe, determinism, engine
    from secateur.artifacts import read_tensors
    from secateur.masks import masked_share
    from secateur.methods import METHODS
    from secateur.outputs import check_output
    from secateur.sparsity import measure

    determinism.prepare(compute.threads)
    model, out, work = ARTIFACTS / "models" / row.model, ARTIFACTS / "pruned" / key, UNFINISHED / "pruned" / key
    recipe = Recipe(
        method=row.method,
        sparsity=row.sparsity,
        pattern=row.pattern,
        count=row.count,
        propagation=row.propagation,
        allocation=allocation_of(row),
        refinement=row.refinement,
        update=row.update,
        options=row.options,
        refinement_options=row.refinement_options,
        update_options=row.update_options,
    )
    calibration = None if row.calibration is None else ARTIFACTS / row.source
    gradients = ARTIFACTS / row.gradients if METHODS.get(row.method).gradients else None
    check_output(out, [model, calibration, gradients], force, work)
    settings = {"run": row.model_dump(), "calibration": _calibration_settings(calibration)}
    provenance = {
        "model": identity(model),
        "tokens": sha256(calibration / "tokens.safetensors") if calibration else None,
        "statistics": identity(calibration) if calibration and row.propagation == "dense" else None,
        "gradients": identity(gradients) if gradients else None,
        "allocation": sha256(Path(row.shares)) if row.shares != PRUNER else None,
        "file": sha256(Path(row.watch)) if row.watch != PRUNER else None,
    }
    decisive = {**settings, "provenance": provenance}
    shown = row.model_dump(include={"model", "calibration", "method", "sparsity", "pattern", "propagation", "allocation"})
    with live(f"prune@{key}", key, shown, decisive, resume=work.exists()) as tell:
        engine.prune(
            model,
            recipe,
            out,
            work=work,
            settings=decisive,
            tokens=read_tensors(calibration / "tokens.safetensors")[0]["tokens"] if calibration else None,
            statistics=calibration,
            gradients=gradients,
            overwrite=force,
            device=compute.device,
            on_block=lambda index, blocks, linears: tell(
                {"progress": (index + 1) / blocks, "block_sparsity": masked_share(linears)}, index
            ),
        )
    report = measure(out, model) | {
        "run": key,
        "method": row.method,
        "pattern": row.pattern,
        "target": row.sparsity,
        "settings": settings,
        "provenance": {**provenance, "masks": identity(out)},
    }
    if (choices := out / "choices.json").is_file():
        report["choices"] = read_json(choices)
    write_json(RESULTS / "sparsity" / f"{key}.json", report)


def _calibration_settings(folder: Path | None) -> dict[str, Any] | None:
    """What is known of the tokens, less the hashes that the run's own provenance states."""
    if folder is None:
        return None
    return {name: value for name, value in read_json(folder / "settings.json").items() if name != "provenance"}
