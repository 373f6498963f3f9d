"""Where a run's allocation comes from: its row, or the file that the stage `allocate` wrote."""

from pathlib import Path

from pipelines.schema import PRUNER, RunRow
from secateur.artifacts import read_json


def allocation_of(row: RunRow) -> str | list[float | str]:
    """`uniform`, or a table with one sparsity or pattern a block."""
    return read_json(Path(row.shares))["table"] if row.shares != PRUNER else row.allocation
