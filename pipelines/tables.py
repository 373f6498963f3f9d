"""The tables of params.yaml, whole and under construction."""

from typing import Any

from pipelines.schema import (
    AllocationRow,
    Compute,
    DownloadRow,
    FineTuneRow,
    PerplexityRow,
    Report,
    RunRow,
    StatsRow,
    Strict,
    ZeroshotRow,
)
from secateur.errors import UserError


class Tables(Strict):
    """Everything that params.yaml holds."""

    studies: list[str]
    compute: Compute
    download: dict[str, DownloadRow]
    stats: dict[str, StatsRow]
    allocations: dict[str, AllocationRow]
    runs: dict[str, RunRow]
    finetunes: dict[str, FineTuneRow]
    ppl: dict[str, PerplexityRow]
    zeroshot: dict[str, ZeroshotRow]
    report: Report


class Rows:
    """Tables under construction; remembers which study a row came from."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {
            name: {} for name in ("download", "stats", "allocations", "runs", "finetunes", "ppl", "zeroshot")
        }
        self.origin: dict[tuple[str, str], str] = {}

    def add(self, table: str, key: str, row: Strict, study: str) -> str:
        """Add a row unless it is there already; returns its key."""
        old = self.tables[table].setdefault(key, row)
        origin = self.origin.setdefault((table, key), study)
        if old != row:
            ours, theirs = old.model_dump(), row.model_dump()
            field = next(field for field in ours if ours[field] != theirs[field])
            raise UserError(
                f"{table}.{key}: {origin} has {field} {ours[field]!r} and {study} has {theirs[field]!r}; "
                "make them equal, or give one a different name"
            )
        return key
