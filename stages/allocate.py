"""Spread a sparsity over the blocks of a model: `python -m stages allocate KEY` (KEY: a row of `allocations`)."""

from pipelines.schema import AllocationRow, Compute, parse
from secateur.artifacts import identity, write_json
from stages._io import ARTIFACTS, RESULTS, read_row, read_section


def run(key: str) -> None:
    """Write results/allocation/KEY.json: what was measured on every block, and the table."""
    row = parse(AllocationRow, read_row("allocations", key), f"params.yaml: allocations.{key}")
    compute = parse(Compute, read_section("compute"), "params.yaml: compute")

    from secateur import determinism
    from secateur.allocation import ALLOCATIONS
    from secateur.allocation.table import allocate

    determinism.prepare(compute.threads)
    model, source = ARTIFACTS / "models" / row.model, ARTIFACTS / row.source
    rule = ALLOCATIONS.get(row.rule)(**row.options)
    found = allocate(model, rule, row.sparsity, row.pattern, statistics=source, device=compute.device)
    provenance = {"model": identity(model), "statistics": identity(source) if row.calibration else None}
    write_json(RESULTS / "allocation" / f"{key}.json", {"settings": row.model_dump(), "provenance": provenance, **found})
